"""Games of the Arcade Learning Environment: against ale-py's own numbers."""

import numpy as np
import pytest
import torch
from ale_py.vector_env import AtariVectorEnv

from bilevel.errors import ArgumentError, MissingPackageError, UnknownNameError
from problems.deep_q import arcade
from problems.deep_q.arcade import Arcade, games
from problems.deep_q.frames import FrameRing

GAMES = ["pong", "breakout", "space_invaders", "qbert"]


def chances(game, steps, source):
    """Random actions, (T, R)."""
    return torch.from_numpy(source.integers(0, game.actions, (steps, len(game.seeds))))


def test_a_ring_of_frames_gives_the_stacks_of_ale_for_a_thousand_pairs_of_breakout():
    game, source = Arcade([3, 4], game="breakout"), np.random.default_rng(0)
    own = AtariVectorEnv("breakout", 2, num_threads=1, reward_clipping=False)
    first, _ = own.reset(seed=np.array([game.seed_of(r, 0) for r in range(2)]))
    ring, told, slots = FrameRing(game.reset(), 530, game), [], np.zeros(2, np.int64)
    before, lost = first, 0
    for actions in chances(game, 700, source):
        moved = game.step(actions)
        ring.push(moved, moved.rewards)
        after, rewards, over, _, _ = own.step(actions.numpy())
        told.append((slots.copy(), before, after))
        assert np.array_equal(moved.reached, after)
        assert np.array_equal(moved.rewards, rewards)
        assert np.array_equal(moved.terminated, over)
        lost += int(moved.life_lost.sum())
        if over.any():
            seeds = [game.seed_of(r, int(game.episode[r])) for r in np.flatnonzero(over)]
            after, _ = own.reset(seed=np.array(seeds), options={"reset_mask": over})
        slots, before = slots + 1 + over, after
    assert lost > 10
    assert game.episode.min() >= 2
    checked = 0
    for slots, s, reached in told:  # all that can be drawn
        inside = slots >= ring.written - 530 + 3
        if inside.any():
            drawn = ring.gather(np.where(inside, slots, ring.written - 2)[:, None])
            assert np.array_equal(drawn.observations[inside, 0], s[inside])
            assert np.array_equal(drawn.reached[inside, 0], reached[inside])
            checked += int(inside.sum())
    assert checked == int(ring.filled.sum()) > 1_000


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("breakout", 400),
        ("qbert", 500),
        pytest.param("pong", 2_000, marks=pytest.mark.slow),
        pytest.param("space_invaders", 2_000, marks=pytest.mark.slow),
    ],
)
def test_ends_and_lost_lives_are_those_of_the_rule_for_lives(name, steps):
    """An end is (terminated & lives == 0) | truncated where ALE tells lost lives as terminated."""
    game, source = Arcade([5], game=name), np.random.default_rng(1)
    own = AtariVectorEnv(name, 1, num_threads=1, reward_clipping=False, life_loss_info=True)
    own.reset(seed=np.array([game.seed_of(0, 0)]))
    game.reset()
    ends = lost = 0
    for actions in chances(game, steps, source):
        moved = game.step(actions)
        _, _, over, cut_off, told = own.step(actions.numpy())
        end = (over & (told["lives"] == 0)) | cut_off
        assert moved.ended.tolist() == end.tolist()
        assert moved.cut.tolist() == over.tolist()
        assert moved.life_lost.tolist() == (over & ~end).tolist()
        assert torch.equal(moved.now, moved.reached) == (not end.any())
        ends, lost = ends + end.sum(), lost + moved.life_lost.sum()
        if end.any():
            seeds = np.array([game.seed_of(0, int(game.episode[0]))])
            own.reset(seed=seeds, options={"reset_mask": end})
    assert ends >= 1
    assert (lost == 0) == (name == "pong")


def test_a_run_is_the_same_alone_and_among_others():
    several, alone = Arcade([7, 8, 7, 9, 6], game="breakout"), Arcade([7], game="breakout")
    several.reset(), alone.reset()
    source = np.random.default_rng(2)
    for actions in chances(several, 250, source):
        moved, one = several.step(actions), alone.step(actions[2:3])
        assert all(torch.equal(a[2:3], b) for a, b in zip(moved, one, strict=True))
    assert alone.episode[0] >= 1


def test_episodes_of_a_run_differ_and_those_of_a_seed_do_not():
    game = Arcade([1, 2], game="breakout")
    seeds = [game.seed_of(r, episode) for r in range(2) for episode in range(50)]
    assert len(set(seeds)) == 100
    assert all(0 <= seed < 2**31 for seed in seeds)
    other = Arcade([2, 1], game="pong")
    assert seeds[:50] == [other.seed_of(1, episode) for episode in range(50)]


def test_an_episode_is_cut_at_its_longest():
    game = Arcade([1], game="breakout", longest=10)
    game.reset()
    flags = [game.step(torch.tensor([0])) for _ in range(30)]
    assert [t for t, moved in enumerate(flags) if moved.truncated.item()] == [9, 19, 29]
    assert not any(moved.terminated.item() for moved in flags)
    assert not any(moved.cut.item() for moved in flags)  # it is bootstrapped from
    assert int((flags[9].now[0, :3]).max()) == 0  # the first frame of the next one


@pytest.mark.parametrize("steps", [0, 1, 300])
def test_a_snapshot_is_played_again_to_the_same_place(steps):
    game, again = (Arcade([3, 4, 5], game="breakout") for _ in range(2))
    source = np.random.default_rng(3)
    game.reset()
    for actions in chances(game, steps, source):
        game.step(actions)
    snapshot = game.snapshot()
    assert sum(leaf.nbytes for leaf in snapshot.values()) < 1_000
    assert torch.equal(again.go_on_from(snapshot), game.stacks)
    for actions in chances(game, 20 if steps < 300 else 150, source):
        assert all(map(torch.equal, game.step(actions), again.step(actions)))
    assert all(torch.equal(leaf, again.snapshot()[name]) for name, leaf in game.snapshot().items())
    assert steps < 300 or len(set(game.steps.tolist())) == 3


def test_frames_are_made_again():
    game, source = Arcade([3, 4], game="qbert"), np.random.default_rng(4)
    ring, other = (FrameRing(game.reset(), 300, game) for _ in range(2))
    for actions in chances(game, 500, source):
        moved = game.step(actions)
        ring.push(moved, moved.rewards)
    snapshot = ring.snapshot()
    assert sum(leaf.nbytes for leaf in snapshot.values()) < 20 * 300
    other.go_on_from(snapshot)
    assert torch.equal(ring.frames, other.frames)


def test_an_unknown_game_shows_the_nearest():
    assert set(GAMES) < set(games())
    with pytest.raises(UnknownNameError, match=r"no Atari game 'spaceinvaders'.*'space_invaders'"):
        Arcade([0], game="spaceinvaders")


@pytest.mark.parametrize("longest", [0, -1, 2.5])
def test_a_limit_is_a_positive_number_of_steps(longest):
    with pytest.raises(ArgumentError, match="longest"):
        Arcade([0], game="pong", longest=longest)


@pytest.mark.parametrize("package", ["ale_py", "gymnasium"])
def test_without_the_extra_it_says_which_one_to_install(monkeypatch, package):
    games.cache_clear()
    for name in (package, "ale_py.roms", "ale_py.vector_env"):
        if name.startswith(package):
            monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(MissingPackageError, match=r'pip install "bilevel\[atari\]"'):
        arcade.vector_environment("pong", 1)
