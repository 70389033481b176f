"""Runs that take turns: the same numbers up to rounding, and a bound on what is held together."""

import functools

import pytest
import torch
from small_problems import Smooth

import bilevel
from bilevel import trees
from bilevel.core.status import Status
from bilevel.data.training_data import TrainingData
from bilevel.errors import ArgumentError
from bilevel.problem.linear_head import LinearHeadProblem
from bilevel.training import recorder
from bilevel.training.cohort import Cohort
from bilevel.training.training import Training
from problems.regression import friedman1

STRATEGIES = {
    "two-timescale": bilevel.TwoTimescale(1e-2, 5e-2),
    "adam": bilevel.TwoTimescale(1e-2, 5e-2, bilevel.Adam(), "simultaneous"),
    "rates of their own": bilevel.TwoTimescale(torch.linspace(0.01, 0.05, 5), 0.05),
    "best response": bilevel.BestResponse(1e-2),
    "running": bilevel.BestResponse(1e-2, bilevel.ClosedForm(bilevel.RunningData())),
    "inner sgd": bilevel.BestResponse(0.05, bilevel.FastSGD(0.2, 2, batch_size=4)),
}


def redrawn():
    return friedman1(width=4, train=30, validation=8, test=9)


def train(problem, strategy, steps=20, **options):
    settings = {"seeds": [3, 1, 4, 0, 5], "batch_size": 7, "every": 6, "dtype": torch.float64}
    return bilevel.solve(problem, strategy, steps=steps, **(settings | options))


def assert_same(found, expected):
    assert found.seeds == expected.seeds
    assert found.status == expected.status
    for level in ("body", "head"):
        pairs = zip(*(trees.leaves(getattr(s, level)) for s in (found, expected)), strict=True)
        for a, b in pairs:
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    assert found.history.keys() == expected.history.keys()
    for name, values in found.history.items():
        torch.testing.assert_close(values, expected.history[name], rtol=1e-9, atol=1e-12)


@functools.cache
def together(make, name):
    return train(make(), STRATEGIES[name], 12, max_runs_at_once=5)


@pytest.mark.parametrize("at_once", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("make", [Smooth, redrawn], ids=["shared", "redrawn"])
def test_no_number_depends_on_how_many_runs_are_at_once(make, name, at_once):
    found = train(make(), STRATEGIES[name], 12, max_runs_at_once=at_once)
    assert_same(found, together(make, name))


class Robust(Smooth):
    criterion = bilevel.HuberLoss(0.5)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("name", ["newton", "unrolled"])
def test_nor_does_one_of_heads_that_take_steps_beyond_rounding(name, dtype, rtol):
    inner = bilevel.FastSGD(0.1, 3)
    strategy = {
        "newton": bilevel.BestResponse(0.005, bilevel.Newton()),
        "unrolled": bilevel.BestResponse(0.005, inner, bilevel.Unrolled(3)),
    }[name]
    one, all_ = (train(Robust(), strategy, 6, dtype=dtype, max_runs_at_once=n) for n in (1, 5))
    assert one.status == all_.status
    for a, b in zip(trees.leaves(one.body), trees.leaves(all_.body), strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol)


def test_a_state_goes_on_however_many_runs_are_at_once():
    whole = train(Smooth(), STRATEGIES["adam"])
    half = train(Smooth(), STRATEGIES["adam"], 10, max_runs_at_once=2)
    rest = train(Smooth(), STRATEGIES["adam"], 10, state=half.state, max_runs_at_once=3)
    assert rest.state.step == 20
    for a, b in zip(trees.leaves(rest.body), trees.leaves(whole.body), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_an_interrupt_leaves_all_runs_at_the_last_record(monkeypatch):
    true, seen = Cohort.step, []

    def step(self):
        seen.append(self.state.step)
        if len(seen) == 22:  # the second turn of three, between the records 6 and 12
            raise KeyboardInterrupt
        true(self)

    with monkeypatch.context() as patch:
        patch.setattr(Cohort, "step", step)
        found = train(Smooth(), STRATEGIES["adam"], max_runs_at_once=2)
    assert found.status == (Status.INTERRUPTED,) * 5
    assert (found.state.step, found.steps.tolist()) == (6, [0, 6])
    rest = train(Smooth(), STRATEGIES["adam"], 14, state=found.state, max_runs_at_once=2)
    assert_same_points(rest, train(Smooth(), STRATEGIES["adam"], max_runs_at_once=2))


def assert_same_points(found, expected):
    for level in ("body", "head"):
        pairs = zip(*(trees.leaves(getattr(s, level)) for s in (found, expected)), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2"])
def test_a_number_of_runs_is_a_positive_integer(value):
    with pytest.raises(ArgumentError, match="`max_runs_at_once` must be a positive integer"):
        train(Smooth(), STRATEGIES["adam"], max_runs_at_once=value)


def turns(problem, strategy, runs):
    data = TrainingData(problem, list(range(runs)), torch.float64, "cpu")
    return Training(strategy.fitted(problem), data, 8)


def test_steps_that_would_not_fit_take_turns(monkeypatch):
    strategy = bilevel.uniform(0.1)
    assert len(turns(Smooth(), strategy, 6).cohorts) == 1
    monkeypatch.setattr("bilevel.training.training.STEP_BYTES", 1)
    assert len(turns(Smooth(), strategy, 6).cohorts) == 6


def test_records_evaluate_few_runs_at_a_time(monkeypatch):
    sizes = []
    true = LinearHeadProblem.metrics

    def metrics(self, body, head, data):
        sizes.append(torch._C._functorch.get_unwrapped(data["test"].inputs).shape[0])
        return true(self, body, head, data)

    problem = redrawn()
    reference = train(problem, STRATEGIES["best response"], 6)
    monkeypatch.setattr(LinearHeadProblem, "metrics", metrics)
    monkeypatch.setattr(recorder, "RECORD_BYTES", 1)
    found = train(problem, STRATEGIES["best response"], 6)
    assert sizes == [1] * (2 * 5)
    assert_same(found, reference)


def test_only_who_records_prepares_the_records_of_all(monkeypatch):
    """Processes that have hundreds of runs trained elsewhere record none of them."""
    made = []

    def counted(self, *given):
        made.append(self)
        init(self, *given)

    init = recorder.Recorder.__init__
    monkeypatch.setattr(recorder.Recorder, "__init__", counted)
    data = TrainingData(Smooth(), [3, 1, 4], torch.float64, "cpu")
    strategy = STRATEGIES["two-timescale"].fitted(data.problem)
    training = Training(strategy, data, 7, max_runs_at_once=1)
    assert (len(training.cohorts), len(made)) == (3, 1)
    training.run([0, 2])
    assert len(made) == 3
