"""Certificates of general heads, and bounds on the error of a hypergradient."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from linear_heads import (
    HEADS,
    ONE,
    Given,
    Quadratic,
    build,
    exact_head,
    exact_solve,
    fractions,
    length,
    normal,
)

import bilevel
from bilevel import trees
from bilevel.core.status import Status

SCALES = [0.0, 1e-12, 1e-6, 1e-2, 1.0]


def exact_quadratic(problem, w):
    """theta* of a `Quadratic` as fractions, and its Hessian."""
    u = fractions(problem.u)
    matrix = np.outer(u, u)
    for i in range(problem.size):
        matrix[i, i] += Fraction(problem.shift) + i
    return exact_solve(matrix, Fraction(w) * fractions(problem.b)), matrix


def like(problem, numbers):
    """Numbers as a head of the problem."""
    head = problem.init_head(None)
    flat = torch.as_tensor(numbers).unsqueeze(0)
    return trees.take(trees.unflatten(flat, trees.single(head)), 0)


@pytest.mark.parametrize("shape", HEADS)
@pytest.mark.parametrize("shift", [1e-3, 1.0])
@pytest.mark.parametrize("scale", SCALES)
def test_bounds_hold_for_general_heads(shape, shift, scale):
    problem, w = Quadratic(HEADS[shape], shift=shift), 0.75
    exact, matrix = exact_quadratic(problem, w)
    for seed in range(3):
        numbers = np.vectorize(float)(exact) + scale * normal([seed, 7], problem.size)
        found = bilevel.best_response(problem, w * ONE, Given(like(problem, numbers)))
        assert found.bound_kind == "proven"
        off = fractions(numbers) - exact
        assert length(off) <= found.bound
        assert off @ matrix @ off / 2 <= Fraction(found.value_bound)
        if shape == "0-dim" and scale > 1e-6:  # one curvature: the bound is the error
            assert found.bound == pytest.approx(length(off), rel=1e-6)


def test_a_box_of_a_tree_is_certified():
    """One coordinate at a time: with a diagonal Hessian the constrained head is the clipped one."""
    problem = Quadratic(HEADS["tree"], head_set=bilevel.Box(-0.2, 0.3))
    problem.u[:] = 0.0
    curvature = 1 + np.arange(problem.size)
    exact = np.clip(problem.b / curvature, -0.2, 0.3)
    for scale in (0.0, 1e-6, 0.1):
        numbers = exact + scale * normal(1, problem.size)
        found = bilevel.best_response(problem, ONE, Given(like(problem, numbers)))
        assert np.linalg.norm(numbers - exact) <= found.bound
        assert found.bound <= 1e-12 + 20 * curvature.max() * scale


def test_a_head_that_is_not_quadratic_gets_an_estimate():
    problem = Quadratic(HEADS["vector"], power=4.0)
    found = bilevel.best_response(problem, ONE, bilevel.FastSGD(0.02, 4000, tolerance=1e-10))
    assert found.status is Status.CONVERGED
    assert found.bound_kind == "estimated"
    assert "local estimate" in found.note
    assert 0 < found.bound < 1e-8
    assert bilevel.hypergradient(
        problem, ONE, solver=bilevel.FastSGD(0.02, 4000, tolerance=1e-10)
    ).bound_kind == "estimated"  # fmt: skip


def test_a_large_general_head_gets_no_bound_rather_than_a_guess():
    problem = Quadratic({"only": (1025,)})
    solver = bilevel.FastSGD(1e-4, 2)
    found = bilevel.hypergradient(problem, ONE, solver=solver)
    assert found.response.bound_kind == found.bound_kind == "unknown"
    assert math.isnan(found.response.bound)
    assert math.isnan(found.bound)
    assert found.response.residual > 0
    assert "too large" in found.response.note


N, D, M, RIDGE = 11, 3, 4, 0.1


def features(body, inputs):
    return torch.tanh(inputs @ body["weight"] + body["bias"])


def network(k=None, **options):
    body = {
        "weight": torch.as_tensor(normal(1, D, M)),
        "bias": torch.as_tensor(normal(2, M)),
    }
    targets = normal(4, N) if k is None else normal(4, N, k)
    return build(
        normal(3, N, D), targets, features=features, body=body, ridge=RIDGE, **options
    ), body


def error_of(problem, body, head):
    """|d_w g(theta) - grad Phi| with the exact head, and what the library says of it."""
    exact = bilevel.hypergradient(problem, body).body
    found = bilevel.hypergradient(problem, body, solver=Given(head))
    off = trees.tree_map(torch.sub, found.body, exact)
    return float(trees.norm(trees.single(off))), found


@pytest.mark.parametrize("k", [None, 2])
@pytest.mark.parametrize("scale", [1e-8, 1e-4, 1e-2, 0.1, 1.0])
def test_the_envelope_bound_covers_the_error(scale, k):
    """(|g_wt(theta)| + |T| e) e, T = d3_{w theta theta} g: proven, however large e is."""
    problem, body = network(k)
    best = bilevel.best_response(problem, body).head
    for seed in range(5):
        head = best + scale * torch.as_tensor(normal([seed, 8], *best.shape)) / best.numel() ** 0.5
        error, found = error_of(problem, body, head)
        assert found.bound_kind == "proven"
        assert "computed" in found.note
        assert error <= found.bound
        assert error > 1e-3 * scale  # the head matters
        assert found.bound <= (200 if scale < 1 else 400) * error  # and the bound is of use


def test_shrinking_the_head_error_shrinks_the_gradient_error_in_proportion():
    problem, body = network()
    best = bilevel.best_response(problem, body).head
    direction = torch.as_tensor(normal(5, M))
    errors = [error_of(problem, body, best + s * direction)[0] for s in (1e-3, 1e-5)]
    assert errors[0] / errors[1] == pytest.approx(100, rel=1e-2)


def test_the_envelope_bound_is_the_norm_of_the_cross_derivative_times_the_distance():
    """Every entry of g_wt and of T by differences of d_w g, which is quadratic in the head."""
    problem, body = network()
    head = bilevel.best_response(problem, body).head + 0.01
    found = bilevel.hypergradient(problem, body, solver=Given(head))
    units = torch.eye(M, dtype=torch.float64)

    def slope(theta):
        made = bilevel.hypergradient(problem, body, solver=Given(theta)).body
        return trees.flatten(trees.single(made))[0]

    cross = torch.stack([(slope(head + u) - slope(head - u)) / 2 for u in units])
    pairs = [
        [slope(head + u + v) - slope(head + u) - slope(head + v) for v in units] for u in units
    ]
    third = torch.stack([torch.stack(row) for row in pairs]) + slope(head)
    e = found.response.bound
    norm = torch.linalg.matrix_norm(cross, 2) + e * torch.linalg.matrix_norm(third.flatten(1), 2)
    assert found.bound == pytest.approx(float(norm) * e, rel=1e-6)


@pytest.mark.parametrize("ridge", [1e-6, 1e-2, 1.0])
@pytest.mark.parametrize("shape", [(9, 3), (3, 6)])
def test_the_bound_covers_rounding_at_the_exact_head(ridge, shape):
    """Features w x: grad Phi in rational arithmetic, so that an error of 1e-17 counts."""
    for seed in range(10):
        z, y = normal([seed, *shape, 1], *shape), normal([seed, *shape, 2], shape[0])
        w = 1.25
        theta = exact_head(w * z, y, None, ridge)[:, 0]
        fit = fractions(z) @ theta
        exact = (Fraction(w) * fit - fractions(y)) @ fit / shape[0]
        found = bilevel.hypergradient(build(z, y, ridge=ridge), w * ONE)
        error = abs(Fraction(float(found.body)) - exact)
        assert error <= Fraction(found.bound)
        assert found.bound <= 1e-11 / ridge


def test_a_head_outside_of_its_set_leaves_a_gradient_with_a_wide_bound():
    """The projected head is not the constrained one, so the gradient is off, and says so."""
    box = bilevel.Box(-0.05, 0.05)
    problem, body = network(head_set=box)
    precise = bilevel.hypergradient(
        problem, body, solver=bilevel.FastSGD(0.3, 20000, tolerance=1e-14)
    )
    clipped = bilevel.hypergradient(problem, body, solver=bilevel.ClosedForm())
    assert precise.status is Status.CONVERGED
    assert clipped.status is Status.OUTSIDE_SET
    off = float(trees.norm(trees.single(trees.tree_map(torch.sub, clipped.body, precise.body))))
    assert 1e-5 < off <= clipped.bound
    assert precise.bound < 1e-10


def test_float32_is_certified_in_float64():
    """A head solved in float32 carries the error of its rounding, which the bound covers."""
    problem, body = network()
    single = {name: leaf.float() for name, leaf in body.items()}
    double = {name: leaf.double() for name, leaf in single.items()}
    found = bilevel.best_response(problem, single)
    best = bilevel.best_response(problem, double).head
    assert found.head.dtype == torch.float32
    assert isinstance(found.bound, float)
    assert 1e-10 < found.bound < 1e-5
    # the data are float32 too, in the first problem; that is a change of the problem
    assert float((found.head - best).norm()) < 1e-5
