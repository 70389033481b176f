"""Budgets: where strategies are recorded, and that gradients are counted fairly."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as draw
from own_loops import in_place
from small_problems import ROUNDING, N, Scalar, Smooth

from bilevel import (
    SGD,
    BatchData,
    BestResponse,
    ClosedForm,
    FastSGD,
    OwnLoop,
    RunningData,
    TwoTimescale,
    compare,
    solve,
    uniform,
)
from bilevel.comparison import compare as compare_module
from bilevel.comparison.budget import Budget
from bilevel.core.cost import Cost
from bilevel.errors import ArgumentError
from bilevel.training.cohort import Cohort
from bilevel.training.recorder import record_steps

BATCH = 6
OPTIONS = {"seeds": [4, 0, 2], "batch_size": BATCH, "dtype": torch.float64}


@pytest.fixture(autouse=True)
def untimed(monkeypatch):
    """No timing pass."""
    monkeypatch.setattr(
        compare_module,
        "seconds_per_step",
        lambda strategies, *_, **__: dict.fromkeys(strategies, np.nan),
    )


# marks and steps


@pytest.mark.parametrize(("total", "every"), [(100, 30), (90, 30), (7, 10), (1, 1)])
def test_steps_are_what_the_loop_records(total, every):
    budget = Budget("steps", total, every, dearest=17.5)
    assert budget.marks == record_steps(0, total, every)
    assert budget.steps(2.0) == budget.steps(17.5) == budget.marks


@pytest.mark.parametrize(("total", "every"), [(2000, 40), (1500, 30), (10, 1), (130, 3)])
def test_about_fifty_records_by_default(total, every):
    assert Budget("steps", total, None, 2.0).marks == record_steps(0, total, every)
    assert Budget("gradients", total, None, 1.0).marks == record_steps(0, total, every)


def test_gradients_by_hand():
    budget = Budget("gradients", 100, 30, dearest=12.5)
    assert budget.marks == [0, 30, 60, 100]  # 90 is less than a step of 12.5 before the end
    assert budget.steps(1) == [0, 30, 60, 100]
    assert budget.steps(2) == [0, 15, 30, 50]
    assert budget.steps(3) == [0, 10, 20, 33]
    assert budget.steps(12.5) == [0, 2, 4, 8]
    assert Budget("gradients", 100, 30, dearest=10).marks == [0, 30, 60, 90, 100]


def test_records_are_not_nearer_than_the_dearest_step():
    assert Budget("gradients", 100, None, dearest=8.4).marks[:3] == [0, 9, 18]
    assert Budget("gradients", 100, None, dearest=1.0).marks[:3] == [0, 2, 4]


def test_a_step_that_ends_at_a_mark_is_made():
    """0.3 / 0.1 is less than 3 in floating point; 69 / (1 + 22 / 10) too small a whole number."""
    assert Budget("gradients", 3, 1, dearest=0.1).steps(0.1) == [0, 10, 20, 30]
    for batch in range(1, 60):
        cost = 1 + N / batch
        total = 7 * (batch + N)  # 7 * batch steps of (batch + N) / batch each
        assert Budget("gradients", total, None, cost).steps(cost)[-1] == 7 * batch


@given(
    total=draw.integers(1, 10**6),
    every=draw.none() | draw.integers(1, 10**5),
    rows=draw.integers(1, 5000),
    batch=draw.integers(1, 512),
    gradients=draw.lists(draw.integers(1, 12), min_size=1, max_size=3),
)
def test_every_budget_is_kept_and_every_record_is_a_new_one(total, every, rows, batch, gradients):
    costs = [float(count) for count in gradients] + [1 + rows / batch]
    dearest = max(costs)
    bad = total < dearest or (every is not None and every < dearest)
    if every is not None and total / every > 10**4:
        every = total // 10**4 + 1
        bad = total < dearest or every < dearest
    if bad:
        with pytest.raises(ArgumentError, match=r"`steps`|`every`"):
            Budget("gradients", total, every, dearest)
        return
    budget = Budget("gradients", total, every, dearest)
    marks = budget.marks
    assert marks[0] == 0
    assert marks[-1] == total
    assert (np.diff(marks) >= math.floor(dearest)).all()
    for cost in costs:
        steps = budget.steps(cost)
        assert len(steps) == len(marks)
        assert steps[0] == 0
        assert (np.diff(steps) > 0).all()
        for step, mark in zip(steps, marks, strict=True):
            assert step * cost <= mark * (1 + 1e-9) < (step + 1) * cost * (1 + 2e-9)


BAD = {
    "kind": (("time", 100, 10, 2.0), '"steps" or "gradients", got \'time\''),
    "every below a step": (("gradients", 100, 5, 5.5), "must be at least 6, got 5"),
    "total below a step": (("gradients", 5, None, 5.5), "5 are not enough for one step.*5.5"),
    "total below a step, every given": (("gradients", 5, 7, 5.5), "not enough for one step"),
    "every as text": (("gradients", 100, "ten", 5.5), "`every` must be a positive integer"),
    "every 0": (("gradients", 100, 0, 0.5), "`every` must be a positive integer"),
    "every as a float": (("gradients", 100, 10.0, 5.5), "`every` must be a positive integer"),
    "total as a float": (("gradients", 1e3, None, 5.5), "`steps` must be a positive integer"),
    "total 0": (("gradients", 0, None, 5.5), "`steps` must be a positive integer"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_budgets_are_refused(name):
    arguments, message = BAD[name]
    with pytest.raises(ArgumentError, match=message):
        Budget(*arguments)


# what steps cost


def test_evaluations():
    assert Cost(gradients=2).evaluations(4.0) == 2
    assert Cost(gradients=1, passes=1, solves=1).evaluations(4.0) == 5
    assert Cost(gradients=1, products=3, solves=7, passes=2).evaluations(2.5) == 12


EXACT = 1 + N / BATCH
COSTS = {
    "alternating": (TwoTimescale(0.005, 0.05), 2),
    "simultaneous": (TwoTimescale(0.005, 0.05, order="simultaneous"), 1),
    "three head steps": (uniform(0.005, head_steps=3), 4),
    "exact": (BestResponse(0.005), EXACT),
    "exact by name": (BestResponse(0.005, ClosedForm()), EXACT),
    "on the batch": (BestResponse(0.005, ClosedForm(BatchData())), 1),
    "running": (BestResponse(0.005, ClosedForm(RunningData())), 1),
    "inner": (BestResponse(0.005, FastSGD(0.2, 3)), 1 + 4 * N / BATCH),
    "inner on batches": (BestResponse(0.005, FastSGD(0.2, 3, batch_size=BATCH)), 4 + N / BATCH),
    "own": (OwnLoop(in_place, gradients=2.5), 2.5),
}
TOTAL, EVERY = 100, 33


@pytest.fixture(scope="module")
def found():
    with pytest.MonkeyPatch.context() as patch:

        def unmeasured(trained, *__):
            return dict.fromkeys(trained, np.nan)

        patch.setattr(compare_module, "seconds_per_step", unmeasured)
        made, true = {}, Cohort.step

        def step(self):
            made[type(self.strategy).__name__] = made.get(type(self.strategy).__name__, 0) + 1
            true(self)

        patch.setattr(Cohort, "step", step)
        strategies = {name: strategy for name, (strategy, _) in COSTS.items()}
        budget = {"steps": TOTAL, "every": EVERY, "budget": "gradients"}
        return compare(Smooth(), strategies, **budget, **OPTIONS), made


def test_the_cost_of_every_strategy(found):
    costs = {name: pytest.approx(cost, rel=1e-15) for name, (_, cost) in COSTS.items()}
    assert found[0].gradients_per_step == costs
    assert found[0].steps.tolist() == [0, 33, 66, 100]
    assert found[0].settings["budget"] == "gradients"
    assert found[0].settings["steps"] == TOTAL


def test_steps_are_made_as_far_as_the_gradients_reach(found):
    needed = dict.fromkeys(("TwoTimescale", "BestResponse", "OwnLoop"), 0)
    for strategy, cost in COSTS.values():  # all of different structure
        needed[type(strategy).__name__] += math.floor(TOTAL / cost)
    assert found[1] == needed


@pytest.mark.parametrize("name", ["alternating", "simultaneous", "exact", "inner on batches"])
def test_records_are_those_of_solve_at_the_same_steps(name, found):
    strategy, cost = COSTS[name]
    steps = [math.floor(mark / cost) for mark in (0, 33, 66, 100)]
    alone = solve(Smooth(), strategy, steps=steps[-1], every=1, **OPTIONS)
    for metric, values in alone.history.items():
        atol = 1e-12 if metric in ROUNDING else 1e-14
        np.testing.assert_allclose(
            found[0].history[name][metric], values[steps].numpy(), rtol=1e-12, atol=atol
        )


def test_all_rows_are_one_batch():
    strategies = {"exact": BestResponse(0.005), "two": uniform(0.005)}
    options = OPTIONS | {"batch_size": None, "steps": 10, "budget": "gradients"}
    assert compare(Smooth(), strategies, **options).gradients_per_step == {"exact": 2, "two": 2}
    options["batch_size"] = {"train": 8}
    costs = compare(Smooth(), strategies, **options).gradients_per_step
    assert costs == {"exact": 1 + N / 8, "two": 2}
    options["batch_size"] = {}
    assert compare(Smooth(), strategies, **options).gradients_per_step["exact"] == 2
    exact = {"exact": BestResponse(0.05, optimizer=SGD())}
    assert compare(Scalar(), exact, **options).gradients_per_step == {"exact": 2}


def test_progress_counts_gradients():
    seen = []
    pair = {"two": uniform(0.005), "exact": BestResponse(0.005)}
    options = OPTIONS | {"steps": 60, "every": 25, "budget": "gradients"}
    compare(Smooth(), pair, callback=seen.append, **options)
    assert [(p.step, p.steps, p.unit, p.stage) for p in seen] == 2 * [
        (mark, 60, "gradients", "training") for mark in (0, 25, 50, 60)
    ]


@dataclasses.dataclass(frozen=True, eq=False)
class Free(TwoTimescale):
    """A strategy whose author forgot what it costs."""

    @property
    def cost(self):
        return Cost(solves=1)


REFUSED = {
    "too few": ({"steps": 4}, "not enough for one step of the dearest"),
    "too often": ({"steps": 60, "every": 4}, "the dearest step takes 4.83333 of them"),
    "no integer": ({"steps": 60, "every": "4"}, "`every`"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_before_the_first_step(name, monkeypatch):
    def fail(*_):
        raise AssertionError("training started")

    monkeypatch.setattr(Cohort, "step", fail)
    changes, message = REFUSED[name]
    pair = {"two": uniform(0.005), "exact": BestResponse(0.005)}
    with pytest.raises(ArgumentError, match=message):
        compare(Smooth(), pair, budget="gradients", **(OPTIONS | changes))


def test_steps_that_cost_nothing_have_no_budget(monkeypatch):
    pair = {"two": uniform(0.005), "free": Free(0.005, 0.05)}
    compare(Smooth(), pair, steps=2, **OPTIONS)
    with pytest.raises(ArgumentError, match="'free' cost no gradients"):
        compare(Smooth(), pair, steps=60, budget="gradients", **OPTIONS)
