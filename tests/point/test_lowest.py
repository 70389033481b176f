"""The search between bounds: against faces of the box that are all looked at, and its ends."""

import itertools

import numpy as np
import pytest
from scipy import optimize

from bilevel import Status
from bilevel.point.lowest import METHODS, UNBOUNDED, lowest

BOXED = [method for method in METHODS if method not in UNBOUNDED]


def quadratic(size, seed=0):
    random = np.random.default_rng(seed)
    root = random.standard_normal((size, size))
    return root @ root.T / size + 0.1 * np.eye(size), random.standard_normal(size)


def best_of_all_faces(matrix, right, low, high):
    """The minimiser of x'Ax/2 - b'x between bounds: the best stationary point of any face."""
    best, found = np.inf, None
    for sides in itertools.product((-1, 0, 1), repeat=len(right)):
        sides = np.array(sides)
        free, point = sides == 0, np.where(sides < 0, low, high)
        if free.any():
            held = right[free] - matrix[np.ix_(free, ~free)] @ point[~free]
            point[free] = np.linalg.solve(matrix[np.ix_(free, free)], held)
        value = 0.5 * point @ matrix @ point - right @ point
        if (point >= low - 1e-12).all() and (point <= high + 1e-12).all() and value < best:
            best, found = value, point
    return best, found


@pytest.mark.parametrize("method", BOXED)
@pytest.mark.parametrize("width", [0.2, 1.0, 100.0])
def test_the_best_of_all_faces_is_found(method, width):
    """Bounds hold most numbers, some, or none."""
    matrix, right = quadratic(5)
    low, high = np.full(5, -width), np.full(5, 0.8 * width)
    least, expected = best_of_all_faces(matrix, right, low, high)
    held = int(((expected == low) | (expected == high)).sum())
    assert {0.2: held >= 3, 1.0: 1 <= held <= 4, 100.0: held == 0}[width]

    found = lowest(
        lambda x: (0.5 * x @ matrix @ x - right @ x, matrix @ x - right),
        np.zeros(5),
        optimize.Bounds(low, high),
        method,
        tolerance=1e-7,
    )
    assert found.status in (Status.CONVERGED, Status.STALLED)  # where rounding hides the rest
    assert found.spot.value == pytest.approx(least, rel=1e-12)
    np.testing.assert_allclose(found.spot.point, expected, atol=1e-6)
    assert found.spot.norm <= 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_a_point_without_a_value_is_avoided(method):
    """sum -log(1 - x) - 3 x: nothing at x >= 1, the minimum at 2/3."""
    seen = []

    def evaluate(x):
        seen.append(x)
        if (x >= 1).any():
            return np.nan, np.full_like(x, np.nan)
        return float(-np.log(1 - x).sum() - 3 * x.sum()), 1 / (1 - x) - 3

    found = lowest(evaluate, np.array([-9.0, 0.0, 0.9]), None, method)
    assert any((x >= 1).any() for x in seen) or method == "SLSQP"
    assert found.status is Status.CONVERGED
    np.testing.assert_allclose(found.spot.point, 2 / 3, atol=1e-7)
    assert found.evaluations == len(seen)
    assert all(np.isfinite(value) for value, _ in found.history)


@pytest.mark.parametrize("method", METHODS)
def test_no_point_is_looked_at_twice(method):
    """scipy asks for the start again, and ends iterations at points that it asked for."""
    matrix, right = quadratic(4)
    seen = []

    def evaluate(x):
        seen.append(tuple(x))
        return 0.5 * x @ matrix @ x - right @ x, matrix @ x - right

    lowest(evaluate, np.ones(4), None, method, tolerance=1e-5)
    assert len(seen) == len(set(seen))


def test_values_fall_and_are_told():
    matrix, right = quadratic(4)
    told = []
    found = lowest(
        lambda x: (0.5 * x @ matrix @ x - right @ x, matrix @ x - right),
        np.ones(4),
        told=lambda *given: told.append(given),
    )
    assert [(value, norm) for _, value, norm in told] == found.history
    assert [k for k, _, _ in told] == list(range(len(told)))
    values = [value for value, _ in found.history]
    assert all(after <= before for before, after in itertools.pairwise(values))
    assert found.history[0][1] == pytest.approx(np.linalg.norm(matrix @ np.ones(4) - right))
    assert found.message == "The projected gradient fell to `tolerance`."


def test_an_end_at_rounding_has_scipys_words():
    """A tolerance that no double reaches: scipy finds nothing lower."""
    matrix, right = quadratic(4)
    found = lowest(
        lambda x: (1e6 + 0.5 * x @ matrix @ x - right @ x, matrix @ x - right),
        np.ones(4),
        tolerance=1e-15,
    )
    assert found.status is Status.STALLED
    assert not found.status.failed
    assert "FACTR" in found.message or "ABNORMAL" in found.message


def test_a_start_at_the_minimum_has_converged():
    matrix, right = quadratic(6, seed=3)
    start = np.linalg.solve(matrix, right)
    found = lowest(lambda x: (0.5 * x @ matrix @ x - right @ x, matrix @ x - right), start)
    assert found.status is Status.CONVERGED
    assert len(found.history) == 1


def test_iterations_are_counted():
    found = lowest(lambda x: (optimize.rosen(x), optimize.rosen_der(x)), -np.ones(4), most=7)
    assert found.status is Status.OUT_OF_ITERATIONS
    assert len(found.history) == 8
    assert "7 iterations" in found.message
    assert found.spot.value == min(value for value, _ in found.history)


@pytest.mark.parametrize("method", METHODS)
def test_ctrl_c_keeps_the_best(method):
    values = []

    def evaluate(x):
        if len(values) == 9:
            raise KeyboardInterrupt
        values.append(optimize.rosen(x))
        return values[-1], optimize.rosen_der(x)

    found = lowest(evaluate, -np.ones(4), None, method)
    assert found.status is Status.INTERRUPTED
    assert found.spot.value == min(values)


def test_ctrl_c_before_there_is_anything_is_raised():
    def evaluate(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lowest(evaluate, np.ones(2))


@pytest.mark.parametrize("method", METHODS)
def test_errors_of_the_function_are_its_own(method):
    calls = []

    def evaluate(x):
        calls.append(x)
        if len(calls) == 4:
            raise LookupError("here")
        return optimize.rosen(x), optimize.rosen_der(x)

    with pytest.raises(LookupError, match="here"):
        lowest(evaluate, -np.ones(4), None, method)


def test_a_start_without_a_value_is_said():
    found = lowest(lambda x: (np.inf, x), np.ones(2))
    assert found.status is Status.DIVERGED
    assert found.history == []
    np.testing.assert_array_equal(found.spot.point, np.ones(2))


@pytest.mark.parametrize("bounds", [None, optimize.Bounds([-np.inf] * 2, [3.0, np.inf])])
@pytest.mark.parametrize("method", ["L-BFGS-B", "TNC", "SLSQP"])
def test_a_function_without_a_lowest_point_does_not_converge(method, bounds):
    """Far away a step along the gradient changes no digit of the point."""

    def falls(x):
        return float(x @ [1.0, 2.0]), np.array([1.0, 2.0])

    found = lowest(falls, np.zeros(2), bounds, method, most=50)
    assert found.status is not Status.CONVERGED
    assert found.spot.norm == pytest.approx(5**0.5)


@pytest.mark.parametrize("unit", [1e-13, 1.0])
@pytest.mark.parametrize("method", ["L-BFGS-B", "TNC"])
def test_the_unit_of_the_value_does_not_matter(method, unit):
    """The rounding of the point is no measure of a gradient in small units."""
    matrix, right = quadratic(4)

    def small(x):
        return unit * (0.5 * x @ matrix @ x - right @ x), unit * (matrix @ x - right)

    found = lowest(small, 30 * np.ones(4), None, method)
    assert found.status is Status.CONVERGED
    np.testing.assert_allclose(found.spot.point, np.linalg.solve(matrix, right), rtol=1e-5)
