"""The lowest Phi between bounds: against closed forms, faces that are all solved, fine searches."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch

import bilevel
from bilevel import Box, Status
from problems.analytic import RandomQuadratic, RidgePenalty, analytic
from problems.toy import ScalarProduct
from tests.support.small_problems import doubles


def at(problem, convex):
    """A copy with another set of bodies; some problems are frozen, and all alike are one."""
    problem = copy.copy(problem)
    object.__setattr__(problem, "body_set", convex)
    return problem


@pytest.mark.parametrize("name", ["A1", "A2", "A4", "A5", "A6", "A7", "A8", "A10", "A11", "A12"])
@pytest.mark.parametrize("boxed", [False, True])
def test_known_optima_are_found(name, boxed):
    """Everywhere, and in a box that holds the optimum inside."""
    problem = analytic(name)
    best = problem.solution.body
    if boxed:
        problem = at(problem, Box(best - 0.9, best + 0.7))
    found = bilevel.minimize(problem)
    assert found.status is Status.CONVERGED
    torch.testing.assert_close(found.body, best, rtol=0.0, atol=1e-8)
    assert found.value == pytest.approx(problem.solution.value, abs=1e-12)
    torch.testing.assert_close(found.head, problem.best_response(best), rtol=1e-7, atol=1e-7)
    assert not bool(found.at_bound.any())


@pytest.mark.parametrize("method", ["TNC", "SLSQP", "BFGS", "CG"])
def test_other_methods_find_them_too(method):
    problem = analytic("A7")
    if method in ("BFGS", "CG"):
        problem = at(problem, bilevel.Everywhere())
    found = bilevel.minimize(problem, torch.tensor(1.5), method, tolerance=1e-10)
    assert abs(float(found.body) - 1) <= 1e-8


@pytest.mark.parametrize(
    ("name", "low", "high", "body"),
    [("A7", 1.5, 4.0, 1.5), ("A7", 0.1, 0.6, 0.6), ("A8", 1.0, 3.0, 1.0), ("A6", -3.0, 1.25, 1.25)],
)
def test_boxes_cut_the_optimum_off(name, low, high, body):
    """Phi has one valley: its lowest point between the bounds is the nearest one."""
    problem = at(analytic(name), Box(low, high))
    found = bilevel.minimize(problem)
    assert found.status is Status.CONVERGED
    assert float(found.body) == body
    assert found.value == pytest.approx(float(problem.phi(found.body)), rel=1e-12)
    assert bool(found.at_bound)
    assert found.gradient_norm == 0.0
    assert float(found.gradient.body.abs()) > 0.01  # the gradient pushes against the bound


def lowest_on_a_face(hessian, slope, low, high):
    """The minimiser of x'Hx/2 + s'x between bounds, of all 3^n faces, in NumPy."""
    best, found = math.inf, None
    for sides in itertools.product((-1, 0, 1), repeat=len(slope)):
        sides = np.array(sides)
        free, point = sides == 0, np.where(sides < 0, low, high)
        if free.any():
            held = hessian[np.ix_(free, ~free)] @ point[~free]
            point[free] = np.linalg.solve(hessian[np.ix_(free, free)], -slope[free] - held)
        value = 0.5 * point @ hessian @ point + slope @ point
        if (point >= low).all() and (point <= high).all() and value < best:
            best, found = value, point
    return found


@pytest.mark.parametrize("half", [0.2, 0.6, 50.0])
def test_a_quadratic_phi_between_bounds(half):
    """Phi of A14 is quadratic: its Hessian from differences of its closed gradient, exactly."""
    problem = RandomQuadratic(body=5, head=7, mu=0.5, largest=4.0, seed=1)
    zero, unit = torch.zeros(5).double(), torch.eye(5).double()
    slope = problem.phi_gradient(zero)
    hessian = torch.stack([problem.phi_gradient(row) - slope for row in unit])
    low, high = np.full(5, -half), np.full(5, 1.5 * half)
    expected = lowest_on_a_face(hessian.numpy(), slope.numpy(), low, high)
    at_bound = (expected == low) | (expected == high)
    assert {0.2: at_bound.sum() >= 3, 0.6: at_bound.any(), 50.0: not at_bound.any()}[half]

    found = bilevel.minimize(at(problem, Box(-half, 1.5 * half)), tolerance=1e-9)
    np.testing.assert_allclose(found.body.numpy(), expected, atol=1e-8)
    np.testing.assert_array_equal(found.at_bound.numpy(), at_bound)
    assert found.value == pytest.approx(float(problem.phi(torch.from_numpy(expected))), rel=1e-12)


@pytest.mark.parametrize("bounds", [(0.0, math.inf), (1.0, 2.0), (0.0, 0.05)])
def test_a_ridge_penalty_is_the_best_of_a_fine_search(bounds):
    """Phi in NumPy on 20,001 penalties, then on as many around the best."""
    problem = RidgePenalty(train=9, validation=11, seed=4)
    (x, y), (z, t) = (tuple(leaf.numpy() for leaf in group) for group in problem.data().values())

    def phi(penalty):
        head = np.linalg.solve(x.T @ x / len(x) + penalty * np.eye(x.shape[1]), x.T @ y / len(x))
        return 0.5 * np.mean((z @ head - t) ** 2)

    low, high = bounds[0], min(bounds[1], 20.0)
    for _ in range(3):
        grid = np.linspace(low, high, 2001)
        values = [phi(penalty) for penalty in grid]
        place = int(np.argmin(values))
        low, high = grid[max(place - 1, 0)], grid[min(place + 1, 2000)]
    found = bilevel.minimize(at(problem, Box(*bounds)))
    assert found.value <= min(values) + 1e-14
    assert float(found.body) == pytest.approx(grid[place], abs=1e-5)


def test_the_certificate_holds():
    """The bound is above the true error of the gradient, and proven where constants are known."""
    problem = analytic("A8")
    found = bilevel.minimize(problem, tolerance=1e-3)
    error = float((found.gradient.body - problem.phi_gradient(found.body)).abs())
    assert error <= found.gradient.bound <= 1e-9
    assert found.gradient.bound_kind == "proven"
    assert found.gradient.response.bound_kind == "proven"
    assert 0.0 < found.gradient_norm == pytest.approx(float(found.gradient.body.abs()), rel=1e-12)


def test_the_history_and_what_is_told():
    told = []
    found = bilevel.minimize(
        ScalarProduct(), torch.tensor(0.7), callback=lambda k, values: told.append((k, values))
    )
    assert found.iterations > 2
    assert [k for k, _ in told] == list(range(found.iterations + 1))
    for name in ("value", "gradient_norm"):
        assert [values[name] for _, values in told] == found.history[name].tolist()
        assert found.history[name].dtype == torch.float64
    assert bool((found.history["value"].diff() <= 0).all())
    assert found.value == pytest.approx(float(found.history["value"][-1]), rel=1e-14)
    assert found.gradient_norm <= 1e-8 * found.history["gradient_norm"][0]
    assert found.head_solves >= found.iterations + 1
    text = repr(found)
    assert "CONVERGED" in text
    assert "proven" in text
    assert "0 of 1 number at a bound" in text


def test_a_seed_is_that_of_solve():
    """Where the problem starts, and the noise is none, as in records."""
    noisy, still = ScalarProduct(noise_scale=0.3), ScalarProduct()
    starts = bilevel.solve(noisy, bilevel.uniform(0.1), steps=1, seeds=3, dtype=torch.float64)
    for seed in range(3):
        found = bilevel.minimize(noisy, seed=seed)
        assert float(found.history["value"][0]) == pytest.approx(
            float(starts.history["phi"][0, seed]), rel=1e-10
        )
        assert bool(found.body == bilevel.minimize(still, seed=seed).body)


class Weighed(bilevel.LinearHeadProblem):
    """theta* = (e^w t_1 + t_2 + ... + t_7) / (e^w + 6) on rows of the seed; F has an aim."""

    redraws_data = True
    body_free_features = True

    def data(self, seed=None):
        rows = 1 + 0.3 * doubles(seed or 0, 7)
        aims = (rows[0] + rows.mean()) / 2 + torch.tensor([-0.1, 0.1])
        ones = torch.ones(7, 1).double()
        return {"train": bilevel.Batch(ones, rows), "validation": bilevel.Batch(ones[:2], aims)}

    def init_body(self, generator):
        return torch.zeros(())

    def init_head(self, generator):
        return torch.zeros(1)

    def features(self, inputs):
        return inputs

    def row_weights(self, body, batch):
        return (body * (batch["train"].row_numbers == 0)).exp()

    def body_objective(self, body, head, batch):
        rows = batch["validation"]
        return 0.5 * (rows.inputs @ head - rows.targets).square().mean()


def test_rows_of_the_seed_know_their_numbers():
    rows = 1 + 0.3 * doubles(5, 7)
    aim = float((rows[0] + rows.mean()) / 2)
    expected = math.log((float(rows[1:].sum()) - 6 * aim) / (aim - float(rows[0])))
    found = bilevel.minimize(Weighed(), seed=5)
    assert float(found.body) == pytest.approx(expected, rel=1e-6)
