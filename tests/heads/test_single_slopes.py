"""Slopes that are made in float32 far from a minimiser: what they may not decide."""

import numpy as np
import pytest
import torch
from class_heads import given, many_classes
from linear_heads import ONE
from points import Point
from small_problems import doubles

from bilevel import Newton, SoftmaxLoss, Status
from bilevel.derivatives.head_point import HeadPoint
from bilevel.heads.newton import descent
from bilevel.heads.objectives.passes import Passes

CLASSES = (1.0, 2.0) * 30


@pytest.fixture
def types(monkeypatch):
    """In which types slopes were made."""
    made, slopes = [], Passes.slopes

    def spied(self, columns):
        made.append(columns.dtype)
        return slopes(self, columns)

    monkeypatch.setattr(Passes, "slopes", spied)
    return made


def slope_of(problem, head, weights=None, ridge=1e-3):
    """d g at a head, by automatic differentiation in float64."""
    batch = problem.data()["train"]
    inputs, labels = batch.inputs.double(), batch.targets
    head = head.double().requires_grad_()
    losses = torch.nn.functional.cross_entropy(inputs @ head, labels, reduction="none")
    scale = 1.0 if weights is None else torch.tensor(weights).double()[labels]
    value = (losses * scale).mean() + 0.5 * ridge * head.square().sum()
    return torch.autograd.grad(value, head)[0]


@pytest.mark.parametrize("weights", [None, CLASSES])
def test_far_slopes_are_made_in_float32_and_the_last_ones_are_not(types, monkeypatch, weights):
    problem = many_classes(3000, weights)
    found = Point(problem, [ONE]).solved(Newton(1e-8))
    assert found.status.tolist() == [int(Status.CONVERGED)]
    assert types.count(torch.float32) >= 4
    assert types[0] == types[-1] == types[-2] == torch.float64
    slope = slope_of(problem, found.head[0], weights)
    assert slope.abs().max() <= 1e-8
    torch.testing.assert_close(found.residual[0], slope.norm(), rtol=1e-4, atol=0)
    count = len(types)
    types.clear()
    monkeypatch.setattr(descent, "SINGLE", torch.inf)
    exact = Point(problem, [ONE]).solved(Newton(1e-8))
    assert set(types) == {torch.float64}
    assert len(types) >= count
    torch.testing.assert_close(found.head, exact.head, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("weights", "scale"), [(None, 1.0), (CLASSES, 1.0), (None, 1e6)])
def test_what_float32_would_round_of_slopes_is_known(weights, scale):
    point = Point(many_classes(3000, weights), [ONE])
    at = HeadPoint(point.oracles, point.body, point.head, point.rows)
    parts = point.oracles.linear_parts(at.body, at.rows)
    parts = parts._replace(design=parts.design * scale)
    rows = Passes(parts, point.problem.criterion, 60, torch.float32)
    assert rows.single_rounding() is None
    columns = doubles(3, 1, 40, 60) / scale
    exact = rows.slopes(columns)[0]
    rounding = rows.single_rounding()
    off = (rows.slopes(columns.float())[0] - exact).abs().max()
    assert 0.05 * rounding <= off <= 4 * rounding


def test_a_solve_that_ends_far_off_tells_its_slope_in_float64(types):
    problem = many_classes(3000)
    found = Point(problem, [ONE]).solved(Newton(1e-8, max_steps=2))
    assert torch.float32 in types
    assert types[-1] == torch.float64
    assert found.status.tolist() == [int(Status.NOT_CONVERGED)]
    torch.testing.assert_close(
        found.residual[0], slope_of(problem, found.head[0]).norm(), rtol=1e-9, atol=0
    )


def test_no_slope_in_float32_is_below_the_tolerance(monkeypatch):
    """Were it that of a minimiser, a step more would be made by a slope in float64."""
    slopes = Passes.slopes

    def flat(self, columns):
        found, predictions = slopes(self, columns)
        return found * 0 if columns.dtype == torch.float32 else found, predictions

    monkeypatch.setattr(Passes, "slopes", flat)
    problem = many_classes(3000)
    found = Point(problem, [ONE]).solved(Newton(1e-8, max_steps=10))
    assert found.status.tolist() == [int(Status.CONVERGED)]
    assert slope_of(problem, found.head[0]).abs().max() <= 1e-8


class Doubled(SoftmaxLoss):
    """A criterion of somebody's own, which computes in float64 whatever it is given."""

    def slope(self, predictions, targets):
        return super().slope(predictions.double(), targets)


def test_slopes_of_a_criterion_of_ones_own_come_in_any_type(types):
    problem = many_classes(3000)
    type(problem).criterion = Doubled()
    found = Point(problem, [ONE]).solved(Newton(1e-8))
    assert torch.float32 in types
    assert found.status.tolist() == [int(Status.CONVERGED)]
    assert slope_of(problem, found.head[0]).abs().max() <= 1e-8


class Bounded(SoftmaxLoss):
    """With curvatures above its own."""

    def majorant(self, predictions, targets):
        return torch.full_like(predictions, 0.5)


@pytest.mark.parametrize(("seed", "tolerance"), [(1, 50.0), (18, 13.9), (19, 2e-4), (27, 410.0)])
def test_what_is_told_of_far_features_is_their_slope(types, seed, tolerance):
    """Where searches in float64 find nothing better than what was seen in float32."""
    source = np.random.default_rng(seed)
    far = 10 ** source.uniform(3, 6) * source.choice([-1, 1], 30)
    near = source.standard_normal((400, 30))
    labels = (near @ source.standard_normal((30, 75))).argmax(1)
    problem = given(near + far, labels, Bounded(), 75, ridge=1e-2, fit_bias=False)
    found = Point(problem, [ONE]).solved(Newton(tolerance, max_steps=30))
    slope = slope_of(problem, found.head[0], ridge=1e-2)
    assert torch.float32 in types
    torch.testing.assert_close(found.residual[0], slope.norm(), rtol=0.02, atol=1e-6)


@pytest.mark.parametrize("wrong", [torch.nan, 0.01])
def test_slopes_in_float32_that_lead_nowhere_are_left(types, monkeypatch, wrong):
    slopes = Passes.slopes

    def spoilt(self, columns):
        found, predictions = slopes(self, columns)
        bad = columns.dtype == torch.float32
        return (found + wrong if bad else found), predictions

    monkeypatch.setattr(Passes, "slopes", spoilt)
    problem = many_classes(3000)
    found = Point(problem, [ONE]).solved(Newton(1e-8))
    assert 1 <= types.count(torch.float32) <= 12
    assert found.status.tolist() == [int(Status.CONVERGED)]
    assert slope_of(problem, found.head[0]).abs().max() <= 1e-8


def test_a_sure_start_takes_no_more_slopes(types, monkeypatch):
    """Its slopes are nearly nothing, and what float32 rounds of them with them."""
    problem = many_classes(300)
    starts = [1e4 * Point(problem, [ONE]).solved(Newton(1e-8)).head[0]]
    counts = []
    for limit in (descent.SINGLE, torch.inf):
        monkeypatch.setattr(descent, "SINGLE", limit)
        types.clear()
        found = Point(problem, [ONE], starts).solved(Newton(1e-8))
        assert found.status.tolist() == [int(Status.CONVERGED)]
        assert slope_of(problem, found.head[0]).abs().max() <= 1e-8
        counts.append(len(types))
    assert counts[0] <= counts[1] + 6


def test_a_run_that_does_not_arrive_costs_no_second_solve(types, monkeypatch):
    problem, counts = many_classes(3000), []
    for limit in (descent.SINGLE, torch.inf):
        monkeypatch.setattr(descent, "SINGLE", limit)
        types.clear()
        Point(problem, [ONE]).solved(Newton(1e-8, max_steps=3))
        counts.append(len(types))
    assert counts[0] <= counts[1] + 1


def test_runs_far_and_near_arrive_where_each_does_alone(types):
    """One starts at its minimiser, whose slope is nothing but rounding in float32."""
    problem = many_classes(3000)
    done = Point(problem, [ONE]).solved(Newton(1e-9)).head[0]
    types.clear()
    starts = [torch.zeros_like(done), done, 3 * doubles(7, 40, 60)]
    found = Point(problem, [ONE] * 3, starts).solved(Newton(1e-9))
    assert found.status.tolist() == [int(Status.CONVERGED)] * 3
    assert torch.float32 in types
    for i, start in enumerate(starts):
        alone = Point(problem, [ONE], [start]).solved(Newton(1e-9))
        torch.testing.assert_close(found.head[i], alone.head[0], rtol=0, atol=1e-6)
        assert slope_of(problem, found.head[i]).abs().max() <= 1e-9
