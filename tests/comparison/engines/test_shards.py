"""Work is cut so that nothing is missing or twice, every worker has some, and memory suffices."""

import itertools

import pytest
import torch
from small_problems import Smooth

from bilevel import BestResponse, TwoTimescale, uniform
from bilevel.comparison.budget import Budget
from bilevel.comparison.engines.shards import pieces, shards
from bilevel.comparison.side_by_side import Options, SideBySide
from bilevel.data.training_data import TrainingData

STRATEGIES = {**{f"rate {i}": uniform(0.001 * (i + 1)) for i in range(3)},
              "two": TwoTimescale(0.005, 0.05), "exact": BestResponse(0.01)}  # fmt: skip
SEEDS = [3, 0, 5, 8, 2]


def side_by_side(at_once=None):
    data = TrainingData(Smooth(), SEEDS, torch.float64, "cpu")
    return SideBySide(STRATEGIES, data, Options(6, "iid", False, at_once, None))


@pytest.mark.parametrize(
    ("workers", "at_once"), [(1, None), (2, None), (7, None), (100, None), (1, 3)]
)
def test_every_run_is_in_one_shard(workers, at_once):
    made, budget = side_by_side(at_once), Budget("steps", 10, 5, 2.0)
    cut = pieces(made, budget, workers)
    found = shards(made, budget, cut)
    runs = [pair for one in found for pair in itertools.product(one.strategies, one.seeds)]
    assert sorted(runs) == sorted(itertools.product(STRATEGIES, SEEDS))
    assert [one.number for one in found] == list(range(len(found)))
    assert len({one.name for one in found}) == len(found)
    # each of the 25 runs alone is the most that there can be
    assert len(found) >= min(workers, 25)
    for one in found:
        (group,) = (names for names in made.trainings if set(one.strategies) <= set(names))
        assert group
        assert len(one.strategies) * len(one.seeds) <= (at_once or 25)
        at = SEEDS.index(one.seeds[0])  # in their order, one after the other
        assert list(one.seeds) == SEEDS[at : at + len(one.seeds)]
    assert found == shards(made, budget, cut)


def test_few_workers_leave_groups_whole():
    made, budget = side_by_side(), Budget("steps", 10, 5, 2.0)
    assert pieces(made, budget, 1) == [[4, 5], [1, 5]]


def test_weights_are_gradient_evaluations():
    made = side_by_side()
    budget = Budget("steps", 10, 5, max(made.costs.values()))
    found = shards(made, budget, [[4, 5], [1, 5]])
    assert [one.weight for one in found] == pytest.approx(
        [4 * 5 * 10 * made.costs["two"], 5 * 10 * made.costs["exact"]]
    )
    assert str(found[0]) == "training-0 (rate 0, rate 1, rate 2, ...; seeds 3 to 2)"
    assert str(found[1]._replace(seeds=(4,))) == "training-1 (exact; seed 4)"
