"""A ring of frames is a list of transitions whose observations are stacks."""

import numpy as np
import pytest
import torch
from frame_scripts import SHAPE, STACK, Lists, Scripted

from bilevel.errors import ArgumentError, ShapeError
from problems.deep_q.frames import FrameRing

SLOTS = 61


def played(ring, game, lists, steps, source):
    """Random steps, pushed into a ring and a list."""
    for _ in range(steps):
        actions = torch.from_numpy(source.integers(0, 5, game.runs))
        moved = game.step(actions, source)
        ring.push(moved, moved.rewards)
        lists.add(moved)


def uniform(source, *shape):
    return torch.from_numpy(source.random(shape))


def test_ten_thousand_pushes_and_draws_are_those_of_a_list():
    source, game = np.random.default_rng(0), Scripted()
    ring, lists = FrameRing(game.stacks, SLOTS), Lists(3, SLOTS)
    boundaries = torch.tensor([[0.0, 1 - 1e-12]] * 3, dtype=torch.float64)
    for count in range(10_000):
        played(ring, game, lists, 1, source)
        assert ring.filled.tolist() == [len(some) for some in lists.lists]
        numbers = torch.cat([boundaries, uniform(source, 3, 2)], 1)
        lists.check(ring.draw(numbers), numbers)
        if count % 1000 == 0:  # all, up to how many the shortest list has
            every = (torch.arange(500) / 500).expand(3, -1).double()
            lists.check(ring.draw(every), every)
    assert min(game.episode) > 100
    assert ring.written.min() > 100 * SLOTS
    # but for those whose older frames are gone, and last frames
    assert 35 < float(ring.filled.double().mean()) < SLOTS - STACK


def test_a_step_that_no_run_stores_leaves_no_trace():
    source, game = np.random.default_rng(1), Scripted(mean=3)
    ring, lists = FrameRing(game.stacks, SLOTS), Lists(3, SLOTS)
    for _ in range(300):
        played(ring, game, lists, 1, source)
        moved = game.step(torch.zeros(3, dtype=torch.int64), source)
        aside = moved._replace(stored=torch.zeros(3, dtype=torch.bool))
        written = ring.written.copy()
        ring.push(aside, aside.rewards)
        assert (ring.written == written).all()
        ring.push(moved, moved.rewards)
        lists.add(moved)
    numbers = uniform(source, 3, 200)
    lists.check(ring.draw(numbers), numbers)


def test_a_run_that_skips_steps_keeps_its_place():
    """Episodes that begin in the step after the last one, as in gymnasium's vector environments."""
    source, game = np.random.default_rng(2), Scripted(mean=4)
    ring, lists = FrameRing(game.stacks, SLOTS), Lists(3, SLOTS)
    for _ in range(400):
        moved = game.step(torch.from_numpy(source.integers(0, 5, 3)), source)
        for stored in (torch.tensor([True, False, True]), torch.tensor([False, True, False])):
            part = moved._replace(stored=stored)
            ring.push(part, part.rewards)
            lists.add(part)
    numbers = uniform(source, 3, 200)
    lists.check(ring.draw(numbers), numbers)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("steps", [1, 40, 500])
def test_a_snapshot_goes_on_as_it_would_have(steps, again):
    source, game = np.random.default_rng(3), Scripted(mean=10)
    make = lambda: FrameRing(game.stacks, SLOTS, game if again else None)  # noqa: E731
    ring, other, lists = make(), make(), Lists(3, SLOTS)
    played(ring, game, lists, steps, source)
    snapshot = ring.snapshot()
    assert ("frames" in snapshot) is not again
    assert {leaf.shape[0] for leaf in snapshot.values()} == {3}
    # as states of other runs are joined: shorter leaves are padded with zeros
    padded = {
        name: torch.cat([leaf, torch.zeros_like(leaf[:, :1])], 1) if name == "starts" else leaf
        for name, leaf in snapshot.items()
    }
    other.go_on_from(padded)
    for _ in range(200):
        moved = game.step(torch.from_numpy(source.integers(0, 5, 3)), source)
        for one in (ring, other):
            one.push(moved, moved.rewards)
        lists.add(moved)
        numbers = uniform(source, 3, 4)
        drawn = ring.draw(numbers)
        assert all(map(torch.equal, drawn, other.draw(numbers)))
        lists.check(drawn, numbers)
    assert all(torch.equal(leaf, other.snapshot()[name]) for name, leaf in ring.snapshot().items())


def test_a_snapshot_is_a_copy():
    source, game = np.random.default_rng(4), Scripted()
    ring, lists = FrameRing(game.stacks, SLOTS), Lists(3, SLOTS)
    played(ring, game, lists, 50, source)
    snapshot = ring.snapshot()
    before = {name: leaf.clone() for name, leaf in snapshot.items()}
    played(ring, game, lists, 50, source)
    assert all(torch.equal(leaf, before[name]) for name, leaf in snapshot.items())


def test_a_transition_takes_what_was_computed_beforehand():
    observations = torch.zeros(2, 4, 84, 84, dtype=torch.uint8)
    ring = FrameRing(observations, 3_000)
    assert ring.nbytes == FrameRing.bytes_of(2, 3_000)
    assert ring.frames.untyped_storage().nbytes() + 2 * 3_000 * 7 == ring.nbytes
    assert ring.nbytes / (2 * 3_000) < 7_100
    game = Scripted(runs=1)
    logged = FrameRing(game.stacks, SLOTS, game)
    assert logged.nbytes == FrameRing.bytes_of(1, SLOTS, SHAPE, longest=game.longest)
    # with the log of a hundred thousand transitions, and of the longest episode
    assert FrameRing.bytes_of(1, 100_000, longest=27_000) / 100_000 < 7_200


@pytest.mark.parametrize(
    ("observations", "slots", "error", "match"),
    [
        (torch.zeros(2, 4, 3, 2), 50, ShapeError, "of type uint8, got .* of type torch.float32"),
        (torch.zeros(2, 4, dtype=torch.uint8), 50, ShapeError, "stacks"),
        (torch.zeros(2, 4, 3, 2, dtype=torch.uint8), 5, ArgumentError, "at least 6, got 5"),
        (torch.zeros(2, 4, 3, 2, dtype=torch.uint8), 0, ArgumentError, "capacity"),
    ],
)
def test_what_it_cannot_hold_is_refused(observations, slots, error, match):
    with pytest.raises(error, match=match):
        FrameRing(observations, slots)


def test_an_episode_that_begins_with_more_than_one_frame_is_refused():
    source, game = np.random.default_rng(5), Scripted()
    ring = FrameRing(game.stacks, SLOTS)
    moved = game.step(torch.zeros(3, dtype=torch.int64), source)
    full = moved._replace(before=torch.ones_like(moved.before))
    with pytest.raises(ShapeError, match="frames of zeros"):
        ring.push(full, full.rewards)


def test_nothing_can_be_drawn_before_the_first_push():
    ring = FrameRing(Scripted().stacks, SLOTS)
    assert ring.filled.tolist() == [0, 0, 0]
    with pytest.raises(ArgumentError, match="no transition yet"):
        ring.draw(torch.zeros(3, 1, dtype=torch.float64))
