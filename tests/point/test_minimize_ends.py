"""Rows of `minimize`, bodies without a head, and other ends than the optimum."""

import copy
import math

import pytest
import torch

import bilevel
from bilevel import Box, Status
from bilevel.errors import (
    AllRunsFailedError,
    ArgumentError,
    IncompatibleError,
    ProblemError,
    ShapeError,
    UnknownNameError,
)
from problems.analytic import RandomQuadratic, RidgePenalty, analytic
from problems.toy import ScalarProduct
from tests.support.small_problems import doubles


def at(problem, convex):
    """A copy with another set of bodies; some problems are frozen, and all alike are one."""
    problem = copy.copy(problem)
    object.__setattr__(problem, "body_set", convex)
    return problem


class Redrawn(bilevel.LinearHeadProblem):
    """g = |theta - t|^2 / 2n + e^w theta^2 / 2 on rows of the seed; F on their first ones."""

    redraws_data = True
    body_free_features = True
    body_set = Box(-8.0, 3.0)

    def data(self, seed=None):
        rows = 1 + 0.3 * doubles(seed or 0, 7)
        ones = torch.ones(7, 1).double()
        return {
            "train": bilevel.Batch(ones, rows),
            "validation": bilevel.Batch(ones[:3], 0.8 * rows[:3]),
            "test": bilevel.Batch(ones, rows),
        }

    def init_body(self, generator):
        return {"penalty": torch.zeros(())}

    def init_head(self, generator):
        return torch.zeros(1)

    def features(self, inputs):
        return inputs

    def penalty(self, body):
        return body["penalty"].exp()

    def body_objective(self, body, head, batch):
        assert "test" not in batch
        rows = batch["validation"]
        return 0.5 * (rows.inputs @ head - rows.targets).square().mean()


@pytest.mark.parametrize("seed", [0, 5])
def test_rows_are_those_of_the_seed(seed):
    """theta* = mean / (1 + p), whose best value is the mean of the others."""
    rows = 1 + 0.3 * doubles(seed, 7)
    mean, aim = float(rows.mean()), float(0.8 * rows[:3].mean())
    found = bilevel.minimize(Redrawn(), seed=seed)
    assert float(found.head) == pytest.approx(min(aim, mean / (1 + math.exp(-8))), rel=1e-7)
    if aim < 0.99 * mean:
        assert float(found.body["penalty"]) == pytest.approx(math.log(mean / aim - 1), rel=1e-6)
    assert found.body["penalty"].dtype == torch.float64
    assert bool(found.at_bound["penalty"]) == (aim > mean / (1 + math.exp(-8)))


def test_rows_that_are_given_are_taken():
    rows = {name: group for name, group in Redrawn().data(5).items() if name != "test"}
    given, drawn = bilevel.minimize(Redrawn(), batch=rows), bilevel.minimize(Redrawn(), seed=5)
    assert bool(given.body["penalty"] == drawn.body["penalty"])


def test_rows_in_chunks_are_the_same_rows(capfd):
    """And the line of `progress` where there is no terminal."""
    whole, chunked = RidgePenalty(), RidgePenalty()
    chunked.chunk_rows = 5
    found = bilevel.minimize(chunked, progress=True)
    expected = bilevel.minimize(whole)
    torch.testing.assert_close(found.body, expected.body, rtol=1e-9, atol=1e-9)
    assert found.value == pytest.approx(expected.value, rel=1e-12)
    assert "iterations" in capfd.readouterr().err


class Runaway(bilevel.StackelbergProblem):
    """g = (theta - 1)^2/2 + w theta^2/2, without a minimiser at w <= -1; F wants theta* = 40."""

    def data(self, seed=None):
        return {}

    def init_body(self, generator):
        return torch.tensor(6.0)

    def init_head(self, generator):
        return torch.zeros(())

    def head_objective(self, body, head, batch):
        return 0.5 * (head - 1) ** 2 + 0.5 * body * head**2

    def body_objective(self, body, head, batch):
        return 0.5 * (head - 40.0) ** 2


def test_bodies_without_a_head_are_avoided():
    """theta* = 1 / (1 + w) is 40 at w = -39/40, close to where there is none."""
    found = bilevel.minimize(Runaway(), max_iterations=400)
    assert not found.status.failed
    assert float(found.body) == pytest.approx(-39 / 40, abs=1e-6)
    assert bool(found.history["value"].isfinite().all())


@pytest.mark.parametrize("start", [-1.0, -1.5])
def test_a_start_without_a_head_is_said(start):
    with pytest.raises(bilevel.errors.SingularHeadError, match="eigenvalue"):
        bilevel.minimize(Runaway(), torch.tensor(start))


class Below(Redrawn):
    """A penalty w that no set keeps positive, and F that wants theta* larger than the mean."""

    body_set = bilevel.Everywhere()

    def penalty(self, body):
        return body["penalty"]

    def body_objective(self, body, head, batch):
        return 0.5 * (head[0] - 40.0) ** 2


def test_negative_penalties_on_the_way_are_an_error_with_a_remedy():
    with pytest.raises(bilevel.errors.ProblemError, match=r"on the way.*Nonnegative\(\)"):
        bilevel.minimize(Below(), {"penalty": torch.tensor(1.0)})
    found = bilevel.minimize(at(Below(), bilevel.Nonnegative()), {"penalty": torch.tensor(1.0)})
    assert float(found.body["penalty"]) == 0.0
    assert bool(found.at_bound["penalty"])


class Separable(Redrawn):
    """Classes that the feature separates, and a penalty of w: none at w = 0."""

    criterion = bilevel.LogisticLoss()
    body_set = bilevel.Nonnegative()

    def data(self, seed=None):
        x = torch.tensor([[-2.0], [-1.0], [1.0], [3.0]]).double()
        rows = bilevel.Batch(x, torch.tensor([0, 0, 1, 1]))
        return {"train": rows, "validation": bilevel.Batch(x, rows.targets.flip(0))}

    def penalty(self, body):
        return body["penalty"]

    def body_objective(self, body, head, batch):
        return 0.5 * (head[0] - 3.0) ** 2


def test_a_head_that_runs_away_is_said_and_avoided():
    """|theta*| grows without end as w falls to zero; F wants theta* = 3."""
    with pytest.raises((AllRunsFailedError, bilevel.errors.SingularHeadError)):
        bilevel.minimize(Separable(), {"penalty": torch.tensor(0.0)})
    found = bilevel.minimize(Separable(), {"penalty": torch.tensor(1.0)})
    assert float(found.head) == pytest.approx(3.0, abs=1e-6)
    assert not found.status.failed


def test_what_failed_can_be_looked_at():
    found = bilevel.minimize(Separable(), {"penalty": torch.tensor(0.0)}, throw=False)
    assert found.status is Status.NO_MINIMISER
    assert found.iterations == 0
    assert "not finite" in found.message
    assert "NO_MINIMISER" in repr(found)


def test_ctrl_c_returns_the_best():
    def callback(k, values):
        if k == 3:
            raise KeyboardInterrupt

    found = bilevel.minimize(analytic("A10"), callback=callback)
    assert found.status is Status.INTERRUPTED
    assert found.iterations == 3
    assert found.value == pytest.approx(float(found.history["value"].min()), rel=1e-12)


def test_inexact_heads_are_said():
    """Ten steps of SGD from one start: a function of the body, but not Phi."""
    problem = analytic("A4")
    found = bilevel.minimize(problem, solver=bilevel.FastSGD(0.05, 10))
    assert found.status is Status.INEXACT_HEAD
    exact = bilevel.minimize(problem, solver=bilevel.FastSGD(0.2, 500, tolerance=1e-13))
    assert exact.status in (Status.CONVERGED, Status.STALLED)
    assert abs(float(exact.body)) <= 1e-7


def test_a_method_with_a_bias_is_named_where_it_stalls():
    problem = RandomQuadratic(body=3, head=4, seed=0)
    found = bilevel.minimize(problem, gradient=bilevel.PenaltyMethod(10.0))
    assert found.status is Status.STALLED
    assert found.gradient.bound >= found.gradient_norm
    assert "PenaltyMethod is off by up to" in found.message
    exact = bilevel.minimize(problem)
    assert "off by" not in exact.message
    assert exact.value < found.value


def test_a_batch_without_the_rows_of_f_is_told():
    problem = Redrawn()
    rows = {"train": problem.data(0)["train"]}
    with pytest.raises(ProblemError, match=r"asks for 'validation', but the batch has train"):
        bilevel.minimize(problem, batch=rows)


def test_iterations_that_are_not_enough_are_said():
    problem = RandomQuadratic(body=8, head=9, seed=2)
    found = bilevel.minimize(problem, max_iterations=3)
    assert found.status is Status.OUT_OF_ITERATIONS
    assert not found.status.failed
    assert found.iterations == 3


def test_float32_is_that_of_the_computation():
    found = bilevel.minimize(ScalarProduct(), torch.tensor(1.0).double(), dtype=torch.float32)
    assert found.body.dtype == found.head.dtype == torch.float32
    assert float(found.body) == pytest.approx(1.470468517231, abs=2e-3)


def test_the_start_is_projected():
    found = bilevel.minimize(ScalarProduct(), torch.tensor(-4.0), max_iterations=1)
    exact = bilevel.hypergradient(ScalarProduct(), torch.tensor(0.6, dtype=torch.float64))
    assert float(found.history["value"][0]) == pytest.approx(exact.value, rel=1e-12)


@pytest.mark.parametrize(
    ("convex", "method", "match"),
    [
        (bilevel.Ball(2.0), "L-BFGS-B", "Ball.*single numbers only"),
        (Box(0.0, 3.0), "BFGS", "takes no bounds"),
        (bilevel.Nonnegative(), "CG", "takes no bounds"),
    ],
)
def test_sets_that_do_not_go_with_scipy_are_refused(convex, method, match):
    with pytest.raises(IncompatibleError, match=match):
        bilevel.minimize(at(analytic("A11"), convex), method=method)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"method": "LBFGS"}, UnknownNameError, "L-BFGS-B"),
        ({"tolerance": 0.0}, ArgumentError, "`tolerance`"),
        ({"max_iterations": 0}, ArgumentError, "`max_iterations`"),
        ({"seed": -1}, ArgumentError, "`seed`"),
        ({"dtype": torch.float16}, ArgumentError, "`dtype`"),
        ({"body": torch.ones(3)}, ShapeError, "init_body"),
        ({"body": torch.tensor(math.nan)}, ShapeError, "not finite"),
        ({"gradient": bilevel.Envelope()}, IncompatibleError, "Implicit"),
        ({"solver": bilevel.SGD()}, ArgumentError, "`solver`"),
        ({"callback": lambda: None}, ArgumentError, "`callback`"),
        ({"progress": 1}, ArgumentError, "`progress`"),
        ({"throw": "no"}, ArgumentError, "`throw`"),
    ],
)
def test_arguments_that_cannot_work_are_named(options, error, match):
    with pytest.raises(error, match=match):
        bilevel.minimize(analytic("A7"), **options)


class Scattered(Redrawn):
    """Heads start far away, elsewhere with each seed."""

    def init_head(self, generator):
        return 5 * torch.randn(1, generator=generator)


@pytest.mark.parametrize("seed", [0, 7])
def test_the_value_is_that_of_the_search(seed):
    """Heads that are not exact depend on where they start, which the seed says."""
    solver = bilevel.FastSGD(0.1, 5)
    found = bilevel.minimize(Scattered(), seed=seed, solver=solver, max_iterations=5)
    assert found.value == pytest.approx(float(found.history["value"].min()), rel=1e-12)
    assert found.status is Status.INEXACT_HEAD


class Twice(Redrawn):
    """Two equal columns with a penalty each."""

    body_set = bilevel.Everywhere()

    def init_body(self, generator):
        return {"penalty": torch.zeros(2)}

    def init_head(self, generator):
        return torch.zeros(2)

    def features(self, inputs):
        return inputs.expand(-1, 2)

    def body_objective(self, body, head, batch):
        rows = batch["validation"]
        return (rows.inputs.expand(-1, 2) @ head - rows.targets).square().mean()


class Shifted(Twice):
    """F has numbers of the body that the head does not depend on."""

    def __init__(self, *shape):
        self.shape = shape

    def init_body(self, generator):
        return {"a shift": torch.zeros(self.shape), "penalty": torch.zeros(2)}

    def body_objective(self, body, head, batch):
        return super().body_objective(body, head, batch) + ((body["a shift"] - 1) ** 2).sum()


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_numbers_that_no_penalty_depends_on(shape):
    same = bilevel.minimize(Twice())
    found = bilevel.minimize(Shifted(*shape))
    assert found.status is Status.CONVERGED
    torch.testing.assert_close(found.body["a shift"], torch.ones(shape).double())
    assert found.value == pytest.approx(same.value, rel=1e-9)
    assert found.gradient.bound_kind == same.gradient.bound_kind
    assert found.gradient.bound <= 1e-9
