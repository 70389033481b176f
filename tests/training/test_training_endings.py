"""Interrupting, continuing and misusing a training."""

import pytest
import torch
from small_problems import Scalar, Smooth, TrueBilevel

from bilevel import SGD, BestResponse, Box, FastSGD, TwoTimescale, solve, trees, uniform
from bilevel.core.status import Status
from bilevel.errors import (
    ArgumentError,
    BilevelError,
    DataError,
    IncompatibleError,
    ProblemError,
    ShapeError,
    SingularHeadError,
)
from bilevel.strategies import AbstractStrategy
from bilevel.training.cohort import Cohort

STRATEGIES = {
    "rmsprop": TwoTimescale(0.01, 0.05),
    "momentum": TwoTimescale(0.01, 0.05, SGD(0.9), "simultaneous"),
    "best response": BestResponse(0.05, optimizer=SGD()),
    "inner sgd": BestResponse(0.05, FastSGD(0.2, 2, batch_size=4)),
}
TWO = STRATEGIES["rmsprop"]
QUICK, STOPPED = BestResponse(2.0, optimizer=SGD()), {"batch_size": None, "tolerance": 0.2}


def train(problem, strategy, steps, **options):
    options = {"seeds": 3, "batch_size": 6, "every": 10, "dtype": torch.float64} | options
    return solve(problem, strategy, steps=steps, **options)


def assert_same_points(first, second):
    for name in ("body", "head"):
        a, b = (trees.leaves(getattr(solution, name)) for solution in (first, second))
        assert all(map(torch.equal, a, b))


# going on


@pytest.mark.parametrize(
    ("name", "cut"),
    [(name, cut) for name in STRATEGIES for cut in (20, 27)] + [("inner sgd", 24)],
)
def test_going_on_gives_the_bits_of_an_uninterrupted_training(name, cut, short_blocks):
    total = 40  # 24 begins a block of rows
    whole = train(Smooth(), STRATEGIES[name], total)
    first = train(Smooth(), STRATEGIES[name], cut)
    second = train(Smooth(), STRATEGIES[name], total - cut, state=first.state)
    assert second.state.step == total
    assert_same_points(whole, second)
    assert second.steps.tolist()[0] == cut
    for name_, values in second.history.items():
        for record, k in enumerate(second.steps.tolist()):
            if k in whole.steps:
                expected = whole.history[name_][whole.steps.tolist().index(k)]
                assert torch.equal(values[record], expected)


def test_going_on_keeps_what_ended_and_the_scale_of_the_tolerance():
    whole = train(Smooth(), QUICK, 100, **STOPPED)
    first = train(Smooth(), QUICK, 30, **STOPPED)
    assert [status is Status.CONVERGED for status in first.status] == [True, False, True]
    second = train(Smooth(), QUICK, 70, state=first.state, **STOPPED)
    assert second.steps.tolist() == [30, 40]
    assert second.status == whole.status
    assert_same_points(whole, second)


def test_the_state_that_is_passed_is_left_unchanged():
    first = train(Smooth(), TWO, 10)
    kept = [x.clone() for x in trees.leaves(first.state.strategy)]
    train(Smooth(), TWO, 10, state=first.state)
    assert all(map(torch.equal, kept, trees.leaves(first.state.strategy)))


# Ctrl-C


def interrupt_at(step):
    def callback(k, values):
        if k == step:
            raise KeyboardInterrupt

    return callback


@pytest.mark.parametrize("step", [0, 20, 50])
def test_an_interrupt_keeps_what_was_recorded(step):
    whole = train(Smooth(), TWO, 50)
    found = train(Smooth(), TWO, 50, callback=interrupt_at(step))
    assert found.status == (Status.INTERRUPTED,) * 3
    assert found.steps.tolist() == list(range(0, step + 1, 10))
    for name, values in found.history.items():
        assert torch.equal(values, whole.history[name][: len(found.steps)])
    assert_same_points(found, train(Smooth(), TWO, step) if step else _initial())
    rest = train(Smooth(), TWO, 50 - step, state=found.state) if step < 50 else found
    assert_same_points(rest, whole)


def _initial():
    return train(Smooth(), TWO, 1, callback=interrupt_at(0))


def interrupted_in_step(monkeypatch, at, problem, strategy, steps, **options):
    """Ctrl-C as the user presses it: in the middle of a step."""
    true = Cohort.step

    def step(self):
        if self.state.step == at:
            raise KeyboardInterrupt
        true(self)

    with monkeypatch.context() as patch:
        patch.setattr(Cohort, "step", step)
        return train(problem, strategy, steps, **options)


def test_an_interrupt_between_records_can_be_continued(monkeypatch):
    found = interrupted_in_step(monkeypatch, 23, Smooth(), TWO, 50)
    assert (found.state.step, found.steps.tolist()) == (23, [0, 10, 20])
    assert_same_points(train(Smooth(), TWO, 27, state=found.state), train(Smooth(), TWO, 50))


def test_an_interrupt_between_records_leaves_converged_runs_where_they_stopped(monkeypatch):
    stopped = train(Smooth(), QUICK, 30, **STOPPED)
    found = interrupted_in_step(monkeypatch, 35, Smooth(), QUICK, 100, **STOPPED)
    for run, frozen in enumerate([True, False, True]):
        assert found.status[run] is (Status.CONVERGED if frozen else Status.INTERRUPTED)
        same = torch.equal(found.body["weight"][run], stopped.body["weight"][run])
        assert same == frozen


def test_an_interrupt_does_not_hide_a_diverged_run():
    rates = torch.tensor([0.01, 1e300, 0.01], dtype=torch.float64)
    found = train(Scalar(), uniform(rates, SGD()), 50, callback=interrupt_at(20))
    assert found.status == (Status.INTERRUPTED, Status.DIVERGED, Status.INTERRUPTED)


# seeds


def test_seeds_are_a_count_or_a_list():
    counted = train(Smooth(), TWO, 5, seeds=3)
    listed = train(Smooth(), TWO, 5, seeds=(0, 1, 2))
    assert counted.seeds == listed.seeds == (0, 1, 2)
    assert_same_points(counted, listed)
    turned = train(Smooth(), TWO, 5, seeds=[2, 0])
    torch.testing.assert_close(turned.head, counted.head[[2, 0]], rtol=1e-13, atol=1e-13)


BAD_SEEDS = [0, -1, [], [1, 1], [-1, 2], [0.5], 2.0, None, "12", True, [True], ["a"]]


@pytest.mark.parametrize("seeds", BAD_SEEDS, ids=repr)
def test_bad_seeds_are_refused(seeds):
    with pytest.raises(ArgumentError, match="`seeds` must be a positive count, or distinct"):
        train(Smooth(), TWO, 5, seeds=seeds)


# everything is refused before the first step


@pytest.fixture
def no_step(monkeypatch):
    """Steps and records fail the test."""

    def fail(*_):
        raise AssertionError("training started")

    monkeypatch.setattr(Cohort, "step", fail)
    return fail


BAD_ARGUMENTS = {
    "steps": [0, -1, 1.5, True, None, "10"],
    "every": [0, -5, 2.0, None],
    "tolerance": [-0.1, float("nan"), "small"],
    "dtype": [torch.float16, torch.int64, "float32", None],
    "batch_size": [0, -1, 2.5, {"train": 0}, {"rows": 3}, {"test": 3}],
    "device": ["gpu", "cuda:99"],
}


@pytest.mark.parametrize(
    ("name", "value"), [(n, v) for n, values in BAD_ARGUMENTS.items() for v in values], ids=repr
)
def test_bad_arguments_are_refused_before_training(name, value, no_step):
    with pytest.raises(ArgumentError, match=f"`{name}"):
        train(Smooth(), TWO, **({"steps": 5} | {name: value}))


@pytest.mark.parametrize("strategy", [TwoTimescale, SGD(), None, 0.1, "uniform"], ids=repr)
def test_what_is_no_strategy_is_refused(strategy, no_step):
    with pytest.raises(ArgumentError, match="A strategy is an instance"):
        train(Smooth(), strategy, 5)


def test_a_strategy_must_be_a_dataclass(no_step):
    class Mine(AbstractStrategy):
        check = init = step = cost = lambda *_: None

    with pytest.raises(ArgumentError, match="instance of a dataclass"):
        train(Smooth(), Mine(), 5)


def test_numbers_for_other_runs_are_refused(no_step):
    for strategy in (
        uniform(torch.full((4,), 0.1)),
        TwoTimescale(0.1, 0.1, SGD(torch.full((2,), 0.5))),
        BestResponse(0.1, FastSGD(torch.full((2,), 0.1), 3)),
    ):
        with pytest.raises(ArgumentError, match=r"for \[\d\] runs, but there are 3 seeds"):
            train(Smooth(), strategy, 5)


def spoiled(value):
    problem = Smooth()
    groups = problem.data()
    groups["train"].targets[3] = value
    problem.groups = groups
    return problem


def constant():
    problem = Smooth()
    problem.groups = {"train": problem.data()["train"]._replace(targets=torch.ones(23))}
    return problem


def columns():
    problem = Smooth()
    train_group = problem.data()["train"]
    problem.groups = {"train": train_group._replace(targets=train_group.targets[:, None])}
    return problem


BAD_PROBLEMS = {
    "nan": (lambda: spoiled(float("nan")), TWO, DataError, "NaN or infinite"),
    "inf": (lambda: spoiled(float("inf")), TWO, DataError, "NaN or infinite"),
    "constant": (constant, TWO, DataError, "all equal"),
    "targets (n, 1)": (columns, TWO, ShapeError, r"\(23, 1\)"),
    "singular": (lambda: Repeated(ridge=0.0), BestResponse(0.1), SingularHeadError, "Set `ridge`"),
    "true bilevel": (TrueBilevel, TWO, IncompatibleError, "`Implicit`"),
    "body set": (lambda: Smooth(body_set=Box(torch.zeros(9), 1.0)), TWO, ShapeError, r"Box\.low"),
    "head set": (lambda: Smooth(head_set=Box(0.0, torch.ones(9))), TWO, ShapeError, r"Box\.high"),
    "float start": (lambda: Started(1.0), TWO, ProblemError, "init_body"),
    "nan start": (lambda: Started(torch.tensor(torch.nan)), TWO, ProblemError, "init_body"),
}


class Repeated(Smooth):
    """Rank-deficient features: each column twice."""

    def features(self, body, inputs):
        return super().features(body, inputs)[:, [0, 0, 1, 1]]


class Started(Scalar):
    def __init__(self, start):
        self.start = start

    def init_body(self, generator):
        return self.start


@pytest.mark.parametrize("name", BAD_PROBLEMS)
def test_bad_problems_are_refused_before_training(name, no_step):
    make, strategy, error, message = BAD_PROBLEMS[name]
    records = []
    with pytest.raises(error, match=message) as caught:
        train(make(), strategy, 5, callback=lambda *record: records.append(record))
    assert isinstance(caught.value, BilevelError)
    assert not records


METRICS = {
    "a float": (lambda *_: {"a": 1.0}, r"0-dim tensors, made by"),
    "item": (lambda body, *_: {"a": torch.tensor(body.item())}, r"`torch\.func\.vmap` knows"),
    "no dict": (lambda *_: torch.ones(()), "must return a dict"),
    "a vector": (lambda *_: {"a": torch.ones(3)}, r"'a' is \(3,\)"),
    "a taken name": (lambda *_: {"phi": torch.ones(())}, "'phi' is the name of another record"),
}


@pytest.mark.parametrize("name", METRICS)
def test_bad_metrics_are_refused_before_training(name, no_step):
    metrics, message = METRICS[name]
    problem = Scalar()
    problem.metrics = metrics
    with pytest.raises(ProblemError, match=message):
        train(problem, TWO, 5)


def test_rank_deficient_features_are_fine_without_a_closed_form():
    assert train(Repeated(ridge=0.0), TWO, 5).status == (Status.COMPLETED,) * 3
    assert train(Repeated(ridge=0.1), BestResponse(0.1), 5).status == (Status.COMPLETED,) * 3


def test_tolerance_needs_the_gradient_of_phi(no_step):
    problem = Smooth(head_set=Box(-1.0, 1.0), chunk_rows=6)
    with pytest.raises(ArgumentError, match=r"`tolerance` needs \|grad Phi\|"):
        train(problem, TWO, 5, tolerance=0.1)


def test_states_of_other_trainings_are_refused():
    state = train(Smooth(), TWO, 2).state
    for options in ({"seeds": 2}, {"seeds": [0, 1, 3]}):
        with pytest.raises(ArgumentError, match=r"`state` belongs to the seeds \(0, 1, 2\)"):
            train(Smooth(), TWO, 5, state=state, **options)
    others = [
        (Smooth(), uniform(0.1, SGD()), {}),
        (Smooth(), STRATEGIES["best response"], {}),
        (Smooth(outputs=2), TWO, {}),
        (Scalar(), TWO, {}),
        (Smooth(), TWO, {"dtype": torch.float32}),
        (Smooth(), TWO, {"state": state.strategy}),
        (Smooth(), TWO, {"state": "last"}),
    ]
    for problem, strategy, options in others:
        with pytest.raises(ArgumentError, match="`state`"):
            train(problem, strategy, 5, **({"state": state} | options))
