"""Simplex, L1Ball and Nonnegative against independent references, and where digits are lost."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from small_problems import doubles

import bilevel
from bilevel import Box, L1Ball, Nonnegative, Simplex, trees
from bilevel.errors import IncompatibleError, ShapeError

SETS = {"simplex": Simplex(), "l1 ball": L1Ball(0.8), "nonnegative": Nonnegative()}


def threshold(sizes, total):
    """t with sum max(sizes - t, 0) = total, by bisection instead of sorting."""
    low, high = sizes.min() - total - 1, sizes.max()
    return brentq(lambda t: np.maximum(sizes - t, 0).sum() - total, low, high, xtol=1e-15)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    size=st.sampled_from([1, 2, 7, 60]),
    scale=st.sampled_from([1e-3, 0.3, 1.0, 1e4]),
)
def test_projections_agree_with_a_root_of_their_optimality_condition(seed, size, scale):
    x = scale * doubles([seed, 9], 3, size)
    on_simplex, in_ball = Simplex().project(x), L1Ball(0.8).project(x)
    for run in range(3):
        numbers = x[run].numpy()
        expected = np.maximum(numbers - threshold(numbers, 1.0), 0)
        np.testing.assert_allclose(on_simplex[run], expected, rtol=0, atol=1e-14 * max(1, scale))
        sizes = np.abs(numbers)
        if sizes.sum() <= 0.8:
            assert torch.equal(in_ball[run], x[run])
            continue
        expected = np.sign(numbers) * np.maximum(sizes - threshold(sizes, 0.8), 0)
        np.testing.assert_allclose(in_ball[run], expected, rtol=0, atol=1e-14 * max(1, scale))


@pytest.mark.parametrize("name", SETS)
def test_a_quadratic_programme_finds_the_same_points(name):
    """cvxpy on the set's own cvxpy form: the two descriptions are of one set."""
    import cvxpy

    x = doubles([3, len(name)], 4, 5)
    projected = SETS[name].project(x)
    for run in range(4):
        variable = cvxpy.Variable(5)
        distance = cvxpy.sum_squares(variable - x[run].numpy())
        cvxpy.Problem(cvxpy.Minimize(distance), SETS[name].constraints(variable)).solve(
            solver="CLARABEL"
        )
        np.testing.assert_allclose(projected[run], variable.value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", SETS)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([1e-3, 1.0, 1e3]))
def test_projections_do_not_push_points_apart(name, seed, scale):
    x, y = scale * doubles([seed, 1], 5, 6), scale * doubles([seed, 2], 5, 6)
    before = (x - y).norm(dim=1)
    after = (SETS[name].project(x) - SETS[name].project(y)).norm(dim=1)
    assert (after <= before * (1 + 1e-14) + 1e-15).all()


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_low_precision_is_projected_as_well_as_it_can_say(name, dtype):
    x = doubles(5, 4, 300).to(dtype)
    projected = SETS[name].project(x)
    assert projected.dtype == dtype
    expected = SETS[name].project(x.double())
    # entries are rounded once
    assert torch.equal(projected, expected.to(dtype))
    again = SETS[name].project(projected)
    assert torch.equal(again, projected)


def test_far_from_the_simplex_no_digits_are_lost():
    """1e8 + small differences: the answer in rational arithmetic depends on the differences."""
    x = 1e8 + torch.tensor([[0.25, 0.5, -0.125, -3.0]], dtype=torch.float64)
    exact = [Fraction(float(v)) for v in x[0]]
    shift = (exact[0] + exact[1] + exact[2] - 1) / 3
    expected = [max(v - shift, 0) for v in exact]
    np.testing.assert_allclose(
        Simplex().project(x)[0], [float(v) for v in expected], rtol=1e-15, atol=1e-16
    )


def test_numbers_of_all_leaves_are_projected_together():
    tree = {"a": doubles(1, 2, 3), "b": doubles(2, 2, 2, 2)}
    for name in ("simplex", "l1 ball"):
        flat = SETS[name].project(trees.flatten(tree))
        projected = SETS[name].project(tree)
        assert projected["b"].shape == (2, 2, 2)
        assert torch.equal(trees.flatten(projected), flat)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_run_that_is_not_finite_shows_and_harms_no_other(name, bad):
    x = 3 * doubles(4, 3, 5)
    expected = SETS[name].project(x)
    x[1, 2] = bad
    projected = SETS[name].project(x)
    assert torch.equal(projected[0], expected[0])
    assert torch.equal(projected[2], expected[2])
    assert not projected[1].isfinite().all()


def test_a_single_number_without_axis():
    x = torch.tensor([-3.0, 0.2, 9.0], dtype=torch.float64)
    assert torch.equal(Simplex().project(x), torch.ones(3, dtype=torch.float64))
    assert torch.equal(L1Ball(0.8).project(x), torch.tensor([-0.8, 0.2, 0.8], dtype=torch.float64))


def test_nonnegative_is_free_where_a_box_is():
    points = torch.tensor([[0.0, 0.0, 1.0, 0.0]], dtype=torch.float64)
    push = torch.tensor([[-1.0, 1.0, -1.0, 0.0]], dtype=torch.float64)
    free = Nonnegative().free(points, push)
    assert free.tolist() == [[False, True, True, True]]
    assert torch.equal(free, Box(0.0, float("inf")).free(points, push))


@pytest.mark.parametrize("convex", [Simplex(), L1Ball(1.0), bilevel.Ball(1.0)])
def test_derivatives_of_heads_on_curved_or_slanted_boundaries_are_refused(convex):
    x = torch.full((1, 2), 0.5)
    with pytest.raises(IncompatibleError, match=r"no coordinate plane\. Use a Box or Nonnegative"):
        convex.free(x, x)


def test_a_simplex_of_nothing_is_refused():
    with pytest.raises(ShapeError, match="there are none"):
        Simplex().check({"a": torch.ones(0), "b": torch.ones(0, 3)})


def test_a_set_without_a_cvxpy_form_says_what_to_define():
    class Halved(bilevel.ConvexSet):
        def project(self, tree):
            return tree

    with pytest.raises(IncompatibleError, match=r"Halved has no cvxpy form\. Define `constraints"):
        Halved().constraints(None)


def test_bounds_that_are_infinite_are_no_constraints():
    import cvxpy

    variable, inf = cvxpy.Variable((2, 3)), float("inf")
    assert Box(-inf, inf).constraints(variable) == []
    low = torch.tensor([0.0, -inf, 1.0])
    (only,) = Box(low, inf).constraints(variable)
    assert only.size == 4
    variable.value = np.array([[0.0, -9.0, 1.0], [0.5, 9.0, 2.0]])
    assert only.value()
    variable.value = np.array([[0.0, -9.0, 0.9], [0.5, 9.0, 2.0]])
    assert not only.value()
