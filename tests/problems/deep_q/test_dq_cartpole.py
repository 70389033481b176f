"""CartPole of all runs is CartPole of each."""

import gymnasium
import numpy as np
import torch

from problems.deep_q.cartpole import SCALE, CartPole, start

SEEDS, STEPS = [5, 0, 5, 11], 1100
GAINS = torch.tensor([0.1, 0.3, 3.0, 1.0], dtype=torch.float64)


def chosen(observed, step):
    """A policy that balances the pole in two runs, and lets it fall in the others."""
    balancing = (observed @ GAINS > 0).long()
    return torch.where(torch.tensor([True, True, False, False]), balancing, step % 2)


def test_every_run_is_gymnasiums_own_from_the_starts_of_its_seed():
    made = CartPole(SEEDS, torch.float64, scaled=False)
    alone = [gymnasium.make("CartPole-v1") for _ in SEEDS]
    observed, waits, episodes = made.reset(), [True] * len(SEEDS), [0] * len(SEEDS)
    ends = {"terminated": 0, "truncated": 0}
    for step in range(STEPS):
        actions = chosen(observed, step)
        moved = made.step(actions)
        assert torch.equal(moved.before, observed)
        for run, env in enumerate(alone):
            if waits[run]:
                env.reset()
                env.unwrapped.state = start(SEEDS[run], episodes[run])
                waits[run] = False
                if step:  # the step that begins an episode is none
                    assert not moved.stored[run]
                    assert not moved.ended[run]
                    assert np.array_equal(moved.now[run], env.unwrapped.state)
                    continue
            _, reward, terminated, truncated, _ = env.step(int(actions[run]))
            assert moved.stored[run]
            assert float(moved.rewards[run]) == reward
            assert np.allclose(moved.reached[run], env.unwrapped.state, rtol=0, atol=1e-12)
            assert bool(moved.terminated[run]) == terminated
            assert bool(moved.truncated[run]) == (truncated and not terminated)
            waits[run] = terminated or truncated
            episodes[run] += waits[run]
            ends["terminated"] += terminated
            ends["truncated"] += truncated
        observed = moved.now
    assert min(ends.values()) > 2


def test_starts_depend_on_seed_and_episode_alone_and_are_small():
    found = np.array([start(seed, episode) for seed in range(5) for episode in range(200)])
    assert np.abs(found).max() <= 0.05
    assert len(np.unique(found, axis=0)) == len(found)
    assert abs(found.mean()) < 0.005
    assert np.array_equal(start(3, 130), start(3, 130))


def test_observations_are_scaled_and_cast():
    raw, scaled = (CartPole([2], torch.float32, scaled=kind) for kind in (False, True))
    one, other = raw.reset(), scaled.reset()
    assert other.dtype == torch.float32
    assert torch.allclose(one * torch.from_numpy(SCALE).float(), other)
    assert np.allclose(SCALE, [1 / 2.4, 0.5, 1 / 0.21, 0.5])


def test_a_snapshot_goes_on_as_it_would_have():
    one, other = (CartPole(SEEDS, torch.float64) for _ in range(2))
    observed = one.reset()
    for step in range(30):
        observed = one.step(chosen(observed, step)).now
    assert torch.equal(other.go_on_from(one.snapshot()), observed)
    for step in range(60):
        moves = [env.step(chosen(observed, step)) for env in (one, other)]
        assert all(torch.equal(a, b) for a, b in zip(*moves, strict=True))
        observed = moves[0].now
