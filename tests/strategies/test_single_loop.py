"""SingleLoop on problems with directions of their own, and on others with those of SOBA."""

import numpy as np
import pytest
import torch
from small_problems import General, Scalar, TrueBilevel, doubles

import bilevel
from bilevel import (
    SGD,
    AuxiliaryProblem,
    BestResponse,
    Box,
    Polynomial,
    Pullback,
    RMSProp,
    SingleLoop,
    TwoTimescale,
    trees,
)
from bilevel.errors import ArgumentError, CheckError, IncompatibleError, ProblemError, ShapeError
from bilevel.strategies import SOBA
from bilevel.training import compiled as compiled_module

ROWS = doubles(3, 6, 4)


class Tracked(AuxiliaryProblem):
    """g = mean (a' sin(w) theta - 1)^2 / 2 over rows; the auxiliary variable tracks the residual.

    The body's direction is a `Pullback`; nested trees; every set is active sometimes.
    """

    body_set, head_set, auxiliary_set = Box(-2.0, 2.0), Box(-0.9, 0.9), Box(-0.5, 0.5)

    def data(self, seed=None):
        return {"train": {"a": ROWS[:, :3], "b": ROWS[:, 3]}}

    def init_body(self, generator):
        return {"w": torch.randn(3, generator=generator, dtype=torch.float64)}

    def init_head(self, generator):
        return torch.rand((), generator=generator, dtype=torch.float64)

    def init_auxiliary(self, generator):
        return {"residual": (torch.randn((), generator=generator, dtype=torch.float64),)}

    def head_objective(self, body, head, batch):
        rows = batch["train"]
        residual = rows["a"] @ torch.sin(body["w"]) * head - rows["b"]
        return 0.5 * residual.square().mean() + 0.05 * head**2

    def directions(self, body, head, auxiliary, batch):
        rows, (tracked,) = batch["train"], auxiliary["residual"]
        z = rows["a"] @ torch.sin(body["w"])
        residual = (z * head - rows["b"]).mean()
        along = tracked * head * torch.ones_like(z) / len(z)
        return Pullback(z, along), tracked * z.mean(), {"residual": (tracked - residual,)}


class Plain(Tracked):
    """The same without the library's differentiation."""

    def directions(self, body, head, auxiliary, batch):
        pulled, *others = super().directions(body, head, auxiliary, batch)
        slope = (pulled.along @ batch["train"]["a"]) * torch.cos(body["w"])
        return {"w": slope}, *others


class Together(Plain):
    """The same for all runs at once."""

    def directions_of_runs(self, body, head, auxiliary, batch):
        rows, (tracked,) = batch["train"], auxiliary["residual"]
        z = (rows["a"] @ torch.sin(body["w"]).unsqueeze(2)).squeeze(2)
        residual = (z * head.unsqueeze(1) - rows["b"]).mean(1)
        along = (tracked * head).unsqueeze(1) * torch.ones_like(z) / z.shape[1]
        return Pullback(z, along), tracked * z.mean(1), {"residual": (tracked - residual,)}


RATES = (Polynomial(0.3, 0.6), Polynomial(0.4, 0.4), Polynomial(0.4, 0.4).scaled(1.5))


def by_hand(seed, order, steps):
    """The trace of `Tracked` in NumPy, on all rows."""
    problem = Tracked()
    data = bilevel.data.training_data.TrainingData(problem, [seed], torch.float64, "cpu")
    w = data.initial(problem.init_body, "body")["w"][0].numpy().clip(-2, 2)
    theta = float(data.initial(problem.init_head, "head").clamp(-0.9, 0.9))
    drawn = data.initial(problem.init_auxiliary, "auxiliary")["residual"][0]
    v = float(drawn.clamp(-0.5, 0.5))
    a, b = ROWS[:, :3].numpy(), ROWS[:, 3].numpy()

    def directions():
        z = a @ np.sin(w)
        slope = v * theta * a.mean(0) * np.cos(w)
        return slope, v * z.mean(), v - (z * theta - b).mean()

    for k in range(steps):
        alpha, beta = 0.3 * (k + 1) ** -0.6, 0.4 * (k + 1) ** -0.4
        found = directions()
        v = np.clip(v - 1.5 * beta * found[2], -0.5, 0.5)
        found = found if order == "simultaneous" else directions()
        theta = np.clip(theta - beta * found[1], -0.9, 0.9)
        found = found if order == "simultaneous" else directions()
        w = np.clip(w - alpha * found[0], -2, 2)
    return w, theta, v


@pytest.mark.parametrize("order", ["simultaneous", "alternating"])
@pytest.mark.parametrize(
    "problem", [Tracked(), Plain(), Together()], ids=lambda p: type(p).__name__
)
def test_a_trace_by_hand(problem, order):
    strategy = SingleLoop(*RATES, order=order)
    options = {"batch_size": None, "dtype": torch.float64}
    found = bilevel.solve(problem, strategy, steps=7, seeds=[5, 2, 9], **options)
    for run, seed in enumerate((5, 2, 9)):
        w, theta, v = by_hand(seed, order, 7)
        np.testing.assert_allclose(found.body["w"][run], w, rtol=1e-12)
        np.testing.assert_allclose(found.head[run], theta, rtol=1e-12)
        (tracked,) = found.state.strategy.auxiliary["residual"]
        np.testing.assert_allclose(tracked[run], v, rtol=1e-12)


def numbers(solution):
    return trees.leaves(solution.state.strategy)


@pytest.mark.parametrize("optimizer", [SGD(), RMSProp()], ids=["SGD", "RMSProp"])
def test_going_on_is_the_same_as_going_through(optimizer, tmp_path):
    strategy = SingleLoop(*RATES, optimizer=optimizer)
    options = {"batch_size": 5, "seeds": 3, "every": 4, "dtype": torch.float64}
    whole = bilevel.solve(Tracked(), strategy, steps=20, **options)
    half = bilevel.solve(Tracked(), strategy, steps=9, **options)
    stored = bilevel.Solution.load(half.save(tmp_path / "half.safetensors"), Tracked())
    rest = bilevel.solve(Tracked(), strategy, steps=11, state=stored.state, **options)
    assert all(map(torch.equal, numbers(whole), numbers(rest)))


def test_runs_do_not_depend_on_each_other():
    strategy = SingleLoop(*RATES)
    options = {"batch_size": 5, "every": 10, "dtype": torch.float64}
    together = bilevel.solve(Tracked(), strategy, steps=10, seeds=[4, 0, 7], **options)
    turns = bilevel.solve(
        Tracked(), strategy, steps=10, seeds=[4, 0, 7], max_runs_at_once=2, **options
    )
    alone = bilevel.solve(Tracked(), strategy, steps=10, seeds=[0], **options)
    for a, b, c in zip(numbers(together), numbers(turns), numbers(alone), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-15)
        torch.testing.assert_close(a[1:2], c, rtol=1e-13, atol=1e-15)
    assert len(set(together.state.strategy.auxiliary["residual"][0].tolist())) == 3


@pytest.mark.slow  # a compilation each; by default one is traced in training/test_recalled.py
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own compiler
@pytest.mark.parametrize(
    ("problem", "order"),
    [
        (Tracked(), "simultaneous"),
        (Tracked(), "alternating"),
        (Together(), "simultaneous"),
        (TrueBilevel(power=2), "simultaneous"),
        (TrueBilevel(power=2), "alternating"),
    ],
)
def test_compiled_steps_give_the_same_numbers(problem, order, monkeypatch):
    monkeypatch.setattr(compiled_module, "STEPS_PER_CALL", 2)
    strategy = SingleLoop(Polynomial(0.05, 0.6), 0.1, 0.1, order=order)
    options = {"batch_size": 5, "seeds": 2, "every": 20, "dtype": torch.float64}
    eager = bilevel.solve(problem, strategy, steps=20, **options)
    compiled = bilevel.solve(problem, strategy, steps=20, compile=True, **options)
    for a, b in zip(numbers(eager), numbers(compiled), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


def test_a_frozen_body_stays():
    strategy = SingleLoop(0.0, 0.1, 0.2)
    assert strategy.rates == (("head_lr",), ("auxiliary_lr",))
    assert SingleLoop(0.1, 0.1, 0.2).rates == (("body_lr",), ("head_lr",), ("auxiliary_lr",))
    options = {"batch_size": None, "seeds": 2, "dtype": torch.float64}
    start, end = (bilevel.solve(Tracked(), strategy, steps=n, **options) for n in (1, 30))
    assert torch.equal(start.body["w"], end.body["w"])
    assert not torch.equal(start.head, end.head)


@pytest.mark.usefixtures("untimed")
def test_all_strategies_of_a_seed_start_alike():
    strategies = {
        "single loop": SingleLoop(0.1, 0.1, 0.1),
        "frozen": SingleLoop(0.0, 0.1, 0.1),
        "two-timescale": TwoTimescale(0.01, 0.1),
        "adjoint": SingleLoop(0.01, 0.1, 0.1, directions=SOBA()),
    }
    problem = Plain()
    problem.head_set = bilevel.Everywhere()
    found = bilevel.compare(problem, strategies, seeds=3, steps=10, batch_size=5)
    first = [found.history[name]["objective"][0] for name in strategies]
    assert all(np.array_equal(first[0], other) for other in first[1:])


def test_costs():
    assert SingleLoop(0.1, 0.1, 0.1).fitted(Tracked()).cost == bilevel.Cost(gradients=1)
    soba = SingleLoop(0.1, 0.1, 0.1).fitted(TrueBilevel())
    assert soba.cost == bilevel.Cost(gradients=2, products=2)
    turns = SingleLoop(0.1, 0.1, 0.1, order="alternating").fitted(TrueBilevel())
    assert turns.cost == bilevel.Cost(gradients=6, products=6)


# what is refused


def test_sets_of_heads_and_missing_directions_are_refused():
    strategy = SingleLoop(0.1, 0.1, 0.1)
    boxed = General()
    boxed.head_set = Box(0.0, 1.0)
    with pytest.raises(IncompatibleError, match=r"SOBA.*Box.*Implicit"):
        bilevel.solve(boxed, strategy, steps=1)
    own = bilevel.strategies.single_loop.OwnDirections()
    with pytest.raises(IncompatibleError, match="Scalar is no AuxiliaryProblem"):
        bilevel.solve(Scalar(), SingleLoop(0.1, 0.1, 0.1, directions=own), steps=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"order": "jacobi"}, '"alternating" or "simultaneous"'),
        ({"head_lr": 0.0}, "`head_lr` must be positive"),
        ({"auxiliary_lr": -1.0}, "`auxiliary_lr` must be positive"),
        ({"body_lr": -0.1}, "`body_lr` must be positive"),
        ({"directions": "soba"}, r"`directions` must be an object such as SOBA\(\)"),
        ({"optimizer": None}, "`optimizer`"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        SingleLoop(**{"body_lr": 0.1, "head_lr": 0.1, "auxiliary_lr": 0.1, **arguments})


def broken(**functions):
    return type("Broken", (Tracked,), functions)()


BREACHES = {
    "two directions": (lambda s, w, t, v, b: (w, t), ProblemError, "must return the directions"),
    "a wrong shape": (lambda s, w, t, v, b: (w, t.reshape(1), v), ShapeError,
                      r"direction of the head like the head: a tensor \(\); it returns .*\(1,\)"),
    "a wrong tree": (lambda s, w, t, v, b: (w, t, t), ShapeError, "direction of the auxiliary"),
    "not finite": (lambda s, w, t, v, b: (w, t / 0, v), ProblemError, "head that is not finite"),
    "item": (lambda s, w, t, v, b: (w, t * t.item(), v), ProblemError, "torch.func.vmap"),
}  # fmt: skip


@pytest.mark.parametrize("breach", BREACHES)
def test_directions_that_do_not_fit_are_refused(breach):
    directions, error, message = BREACHES[breach]
    with pytest.raises(error, match=message):
        bilevel.solve(broken(directions=directions), SingleLoop(0.1, 0.1, 0.1), steps=1)


def test_auxiliary_variables_that_are_no_points_are_refused():
    problem = broken(init_auxiliary=lambda self, generator: torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ProblemError, match=r"init_auxiliary\(\)` must be floating point"):
        bilevel.solve(problem, SingleLoop(0.1, 0.1, 0.1), steps=1)


# conformance


class OnTheSide(Tracked):
    """A dependence on the number of runs, which only many runs show."""

    def directions_of_runs(self, body, head, auxiliary, batch):
        found = Together.directions_of_runs(self, body, head, auxiliary, batch)
        return found[0], found[1] - found[1].mean(), found[2]


def test_conformance_finds_directions_that_mix_runs():
    with pytest.raises(CheckError, match="other directions for many runs"):
        bilevel.check_problem(OnTheSide())
    found = dict(bilevel.check_problem(Together()))
    assert "`directions_of_runs` included" in found["directions"]
    assert "best response" not in found


def test_conformance_finds_a_formula_for_runs_that_is_another():
    def doubled(self, body, head, auxiliary, batch):
        found = Together.directions_of_runs(self, body, head, auxiliary, batch)
        return found[0], 2 * found[1], found[2]

    with pytest.raises(CheckError, match="another formula"):
        bilevel.check_problem(broken(directions_of_runs=doubled))


def test_overriding_directions_alone_counts():
    assert Together.knows_runs()
    assert not Tracked.knows_runs()

    class Halved(Together):
        def directions(self, body, head, auxiliary, batch):
            first, second, third = Plain.directions(self, body, head, auxiliary, batch)
            return first, 0.5 * second, third

    assert not Halved.knows_runs()


def test_best_response_and_hypergradients_take_an_auxiliary_problem():
    class Free(Plain):
        body_set = head_set = bilevel.Everywhere()

    options = {"batch_size": None, "seeds": 2, "dtype": torch.float64}
    solution = bilevel.solve(Free(), BestResponse(0.01), steps=20, **options)
    assert bool((solution.history["head_gap"][-1] < 1e-10).all())
