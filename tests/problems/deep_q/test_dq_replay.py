"""The replay memory is a list of the last transitions."""

import pytest
import torch
from q_learners import moved

from problems.deep_q.replay import WholeReplay

RUNS, NUMBERS, CAPACITY = 3, 2, 50


def step(source, count):
    """A step of all runs that nothing of the others resembles."""
    draw = lambda *shape: torch.randn(*shape, generator=source)  # noqa: E731
    coin = lambda p: torch.rand(RUNS, generator=source) < p  # noqa: E731
    return moved(
        draw(RUNS, NUMBERS),
        torch.randint(4, (RUNS,), generator=source),
        torch.full((RUNS,), float(count)),
        draw(RUNS, NUMBERS),
        coin(0.1),
        truncated=coin(0.1),
        life_lost=coin(0.1),
        stored=~coin(0.2),
    )


def kept(lists, taken):
    """What a list keeps of a step."""
    told = zip(*(part.tolist() for part in taken), strict=True)
    for some, (s, a, r, reached, terminated, _, lost, stored, _) in zip(lists, told, strict=True):
        if stored:
            some.append((*s, a, r, *reached, 0.0 if terminated or lost else 1.0))
            del some[:-CAPACITY]


def check(replay, lists, numbers):
    """Whether transitions are those of the lists, by their age."""
    s, a, r, reached, continues = replay.draw(numbers)
    parts = (s, a.unsqueeze(2), r.unsqueeze(2), reached, continues.unsqueeze(2))
    drawn = torch.cat([part.double() for part in parts], 2).tolist()
    for run in range(RUNS):
        for row, u in zip(drawn[run], numbers[run].tolist(), strict=True):
            assert tuple(row) == lists[run][int(u * len(lists[run]))]


def test_ten_thousand_pushes_and_draws_are_those_of_a_list():
    source = torch.Generator().manual_seed(0)
    replay = WholeReplay(torch.zeros(RUNS, NUMBERS), CAPACITY)
    lists = [[], [], []]
    for count in range(10_000):
        taken = step(source, count)
        replay.push(taken, taken.rewards)
        kept(lists, taken)
        assert replay.filled.tolist() == [len(some) for some in lists]
        if min(map(len, lists)):
            numbers = torch.rand(RUNS, 1, generator=source, dtype=torch.float64)
            numbers = torch.cat([numbers, torch.zeros_like(numbers)], 1)
            if count % 100 == 0:  # the boundaries, and all between
                ends = torch.tensor([0.0, 1 - 1e-12], dtype=torch.float64).expand(RUNS, 2)
                numbers = torch.cat([numbers, ends, torch.rand(RUNS, 9, generator=source)], 1)
            check(replay, lists, numbers)


@pytest.mark.parametrize("pushes", [0, 7, 73])
def test_a_snapshot_goes_on_as_it_would_have(pushes):
    source = torch.Generator().manual_seed(1)
    one, other = (WholeReplay(torch.zeros(RUNS, NUMBERS), CAPACITY) for _ in range(2))
    for count in range(pushes):
        taken = step(source, count)
        one.push(taken, taken.rewards)
    other.go_on_from(one.snapshot())
    assert all(len(leaf) == RUNS for leaf in one.snapshot().values())
    for count in range(20):
        taken = step(source, count)
        for replay in (one, other):
            replay.push(taken, taken.rewards)
    numbers = torch.rand(RUNS, 40, generator=source)
    for a, b in zip(one.draw(numbers), other.draw(numbers), strict=True):
        assert torch.equal(a, b)


def test_it_learns_from_the_rewards_that_it_is_told():
    replay = WholeReplay(torch.zeros(RUNS, NUMBERS), CAPACITY)
    taken = step(torch.Generator().manual_seed(2), 5)
    taken = taken._replace(stored=torch.ones(RUNS, dtype=torch.bool))
    replay.push(taken, taken.rewards.sign())
    assert replay.draw(torch.zeros(RUNS, 1)).rewards.tolist() == [[1.0]] * RUNS
