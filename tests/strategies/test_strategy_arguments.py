"""What a step costs, what the presets are, and what strategies refuse."""

import dataclasses

import pytest
import torch
from small_problems import Scalar, Smooth, TrueBilevel, points, sampler

import bilevel
from bilevel import (
    SGD,
    BatchData,
    BestResponse,
    ClosedForm,
    Constant,
    FastSGD,
    Polynomial,
    RMSProp,
    RunningData,
    TwoTimescale,
    preset_strategies,
    uniform,
)
from bilevel.core.cost import Cost
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import ArgumentError, IncompatibleError, UnknownNameError
from bilevel.strategies.presets import PRESETS

ALPHA, BETA = Polynomial(0.2, 3 / 5), Polynomial(0.3, 2 / 5, 2.0)


def test_uniform_is_two_timescale_with_one_rate():
    found = uniform(ALPHA, SGD(0.5), order="simultaneous", head_steps=2)
    assert found.body_lr is found.head_lr is ALPHA
    assert (found.optimizer.momentum, found.order, found.head_steps) == (0.5, "simultaneous", 2)
    assert isinstance(uniform(0.1).optimizer, RMSProp)
    rates = torch.tensor([0.1, 0.2])
    assert uniform(0.1).is_uniform
    assert uniform(rates).is_uniform
    assert TwoTimescale(Constant(0.1), 0.1).is_uniform
    assert not TwoTimescale(0.1, 0.2).is_uniform
    assert not TwoTimescale(0.1, rates).is_uniform
    assert not TwoTimescale(ALPHA, BETA).is_uniform


def test_presets_are_the_experiments_by_name():
    found = preset_strategies(1e-4, 4e-4, order="simultaneous", optimizer=SGD())
    rates = {
        name: (s.body_lr(0), s.head_lr(0)) for name, s in found.items() if hasattr(s, "head_lr")
    }
    assert rates == {
        "uniform slow": (1e-4, 1e-4),
        "uniform fast": (4e-4, 4e-4),
        "two-timescale": (1e-4, 4e-4),
        "swapped": (4e-4, 1e-4),
        "uniform sqrt": (pytest.approx(2e-4), pytest.approx(2e-4)),
    }
    assert found["best response"].body_lr(0) == 1e-4
    assert all(isinstance(s.optimizer, SGD) for s in found.values())
    assert {s.order for s in found.values() if hasattr(s, "order")} == {"simultaneous"}


def test_presets_by_name():
    assert tuple(preset_strategies(1e-4, 4e-4)) == PRESETS
    assert len(PRESETS) == 6
    names = ["best response running", "two-timescale"]
    found = preset_strategies(1e-4, 4e-4, optimizer=SGD(), names=names)
    assert list(found) == names
    assert isinstance(found["best response running"].solver.data, RunningData)
    assert isinstance(found["best response running"].optimizer, SGD)
    with pytest.raises(UnknownNameError, match="Did you mean 'best response running'"):
        preset_strategies(1e-4, 4e-4, names=["best response runing"])


@pytest.mark.parametrize("rates", [(0.1, 0.01), (0.1, 0.1)])
def test_presets_whose_names_would_be_false_are_refused(rates):
    with pytest.raises(ArgumentError, match=r"must be below.*build the strategies yourself"):
        preset_strategies(*rates)


@pytest.mark.parametrize(
    ("strategy", "cost"),
    [
        (TwoTimescale(0.1, 0.2), Cost(gradients=2)),
        (TwoTimescale(0.1, 0.2, order="simultaneous"), Cost(gradients=1)),
        (TwoTimescale(0.1, 0.2, head_steps=3), Cost(gradients=4)),
        (TwoTimescale(0.1, 0.2, order="simultaneous", head_steps=3), Cost(gradients=3)),
        (BestResponse(0.1), Cost(gradients=1, solves=1, passes=1)),
        (BestResponse(0.1, ClosedForm(BatchData())), Cost(gradients=1, solves=1)),
        (BestResponse(0.1, ClosedForm(RunningData())), Cost(gradients=1, solves=1)),
        (BestResponse(0.1, FastSGD(0.1, 4)), Cost(gradients=1, passes=4 + 1)),
        (BestResponse(0.1, FastSGD(0.1, 4, batch_size=5)), Cost(gradients=1 + 4, passes=1)),
    ],
)
def test_the_cost_of_a_step_is_the_number_of_backward_passes(strategy, cost, monkeypatch):
    problem, calls = Smooth(), []
    strategy = strategy.fitted(problem)
    assert strategy.cost == cost
    true = Oracles._gradients
    monkeypatch.setattr(Oracles, "_gradients", lambda *a: calls.append(1) or true(*a))
    source, (body, head) = sampler(problem, [0], 5, ["train"]), points(problem)
    state = strategy.init(Oracles(problem), body, head, source.rows(0))
    calls.clear()
    strategy.step(Oracles(problem), state, source.rows(0), 0)
    # the pass of an exact solve is forward only
    assert len(calls) == cost.gradients + (0 if cost.solves else cost.passes)


@pytest.mark.parametrize("ask", ["cost", "compilable", "draws"])
def test_a_strategy_is_asked_after_it_was_fitted(ask):
    with pytest.raises(ArgumentError, match=r"left to the problem.*fitted\(problem\)"):
        getattr(BestResponse(0.1), ask)
    with pytest.raises(ArgumentError, match=r"left to the problem.*fitted\(problem\)"):
        assert bilevel.SingleLoop(0.1, 0.1, 0.1).cost
    found = BestResponse(0.1).fitted(Smooth())
    assert (
        getattr(found, ask) == {"cost": Cost(1, 0, 1, 1), "compilable": True, "draws": False}[ask]
    )


MAKERS = {
    "TwoTimescale": lambda lr: TwoTimescale(lr, 0.1),
    "uniform": uniform,
    "BestResponse": BestResponse,
}


@pytest.mark.parametrize("lr", [0, -1e-3, float("nan"), float("inf"), "slow", None], ids=repr)
@pytest.mark.parametrize("make", MAKERS)
def test_bad_step_sizes_are_refused(make, lr):
    with pytest.raises(ArgumentError, match="`body_lr` must be"):
        MAKERS[make](lr)
    with pytest.raises(ArgumentError, match="`head_lr` must be"):
        TwoTimescale(0.1, lr)


@pytest.mark.parametrize("order", ["Alternating", "jacobi", None, 1])
def test_unknown_orders_are_refused(order):
    with pytest.raises(ArgumentError, match='`order` must be "alternating" or "simultaneous"'):
        TwoTimescale(0.1, 0.1, order=order)


@pytest.mark.parametrize("head_steps", [0, -1, 1.5, "2", None, True])
def test_bad_head_steps_are_refused(head_steps):
    with pytest.raises(ArgumentError, match="`head_steps` must be a positive integer"):
        TwoTimescale(0.1, 0.1, head_steps=head_steps)


ENVELOPES = [BestResponse(0.1, solver, bilevel.Envelope()) for solver in (None, FastSGD(0.1, 3))]


@pytest.mark.parametrize("strategy", [TwoTimescale(0.1, 0.1), uniform(0.1), *ENVELOPES])
def test_a_true_bilevel_problem_is_refused_and_implicit_named(strategy):
    for refuse in (
        lambda: strategy.fitted(TrueBilevel()).check(TrueBilevel()),
        lambda: bilevel.solve(TrueBilevel(), strategy, steps=1, seeds=1),
        lambda: bilevel.compare(TrueBilevel(), {"a": strategy}, seeds=1, steps=1),
    ):
        with pytest.raises(IncompatibleError, match=r"overrides `body_objective`.*`Implicit`"):
            refuse()
    strategy.fitted(Scalar()).check(Scalar())


def test_a_linear_head_with_its_own_body_objective_is_refused_too():
    problem = type("Validated", (Smooth,), {"body_objective": lambda *a: torch.zeros(())})()
    for strategy in (TwoTimescale(0.1, 0.1), ENVELOPES[0]):
        with pytest.raises(IncompatibleError, match=r"Validated overrides.*`Implicit`"):
            strategy.fitted(problem).check(problem)


def test_best_response_takes_newton_where_there_is_no_closed_form():
    @dataclasses.dataclass(frozen=True, eq=False)
    class Quartic(bilevel.SquaredError):
        quadratic = False

    problem = Smooth(criterion=Quartic())
    assert isinstance(BestResponse(0.1).fitted(problem).solver, bilevel.Newton)
    with pytest.raises(IncompatibleError, match=r"no closed form. Use Newton\(\)"):
        BestResponse(0.1, bilevel.ClosedForm()).fitted(problem).check(problem)
    BestResponse(0.1, FastSGD(0.1, 3)).fitted(problem).check(problem)
