"""The analytic problems against the numbers of their sources."""

import itertools
import math

import pytest
import torch
from analytic_cases import CASES, Dense, bodies, directions
from torch.func import grad

import bilevel
from bilevel.core.generators import generator

# F and g at the start and its best response, worked out by hand
AT_START = {
    "A1": (1, 0), "A2": (203401, -101250), "A3": (1, -0.5), "A4": (4, 0), "A5": (1, 0),
    "A6": (0.5, 0), "A7": (0.125, 1.5), "A8": (0.5, -2), "A9": (0.5, -0.5),
    "A10": (0.03125, 0.125), "A11": (1, 0), "A12": (3.25, -2.5), "A13": (7 / 6, 7 / 6),
    "B1": (-0.1875, 0.0625), "B2": (-1.4375, 0.0625), "B5": (0.5, 0.25), "B7": (13, 0),
}  # fmt: skip
# grad Phi at the start, from the published table where it has a number
SLOPES = {
    "A1": 2, "A2": -45100, "A3": 2, "A4": 4, "A5": 2, "A6": -0.5, "A7": 0.0625, "A8": -2,
    "A9": 0.2689414, "A10": 0.0625, "A11": (0.57142857, 2.85714286), "A12": (-0.75, 2.25),
    "A13": -4 / 9, "B1": (2, -1.5), "B2": (1, -2.5), "B5": -1, "B7": -4,
}  # fmt: skip


@pytest.mark.parametrize("name", AT_START)
def test_values_at_the_start(name):
    problem, rows = CASES[name], CASES[name].rows()
    head = problem.best_response(problem.start)
    values = [
        float(problem.body_objective(problem.start, head, rows)),
        float(problem.head_objective(problem.start, head, rows)),
    ]
    assert values == pytest.approx(AT_START[name], rel=1e-14, abs=1e-15)
    assert problem.start_value == pytest.approx(AT_START[name][0], rel=1e-14)
    slope = torch.tensor(SLOPES[name], dtype=torch.float64)
    torch.testing.assert_close(problem.start_gradient, slope, rtol=1e-7, atol=0)
    torch.testing.assert_close(problem.phi_gradient(problem.start), problem.start_gradient)
    assert problem.start_gradient.ndim == problem.start.ndim


OPTIMA = {
    "A1": (0.5, 0.5), "A2": (25051 / 2501, 81.3278689), "A3": (0, 0), "A4": (0, 2), "A5": (1, 0),
    "A6": (2, 0), "A7": (1, 0), "A8": (math.log(2), 0), "A9": (1, 0), "A10": (-math.log(3), 0),
    "A11": ((0.97397847, -0.8151322), 0.113804995), "A12": ((38 / 11, -10 / 11), 2 / 11),
    "B1": ((0.5, 0.5), -1), "B2": ((0.75, 0.75), -2.25), "B5": (0, 0), "B7": (3, 9),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIMA)
def test_optima_are_those_of_the_table(name):
    body, value = OPTIMA[name]
    solution = CASES[name].solution
    torch.testing.assert_close(
        solution.body, torch.tensor(body, dtype=torch.float64), rtol=1e-8, atol=1e-15
    )
    assert solution.value == pytest.approx(value, rel=1e-8)


@pytest.mark.parametrize("name", ["B1", "B2", "B5"])
def test_one_sided_derivatives(name):
    """At kinks and beside them, against difference quotients from the side of the direction."""
    problem = CASES[name]
    if name == "B5":
        points = [torch.tensor(w, dtype=torch.float64) for w in (-0.4, 0.0, 0.7)]
    else:
        edges = (0.2, 0.5, 0.9, 1.5, 1.8)
        points = [torch.tensor(p, dtype=torch.float64) for p in itertools.product(edges, edges)]
    for body in points:
        for direction in directions(body):
            found = float(problem.directional_derivative(body, direction))
            t = 1e-6
            quotient = (problem.phi(body + t * direction) - problem.phi(body)) / t
            assert found == pytest.approx(float(quotient), abs=1e-5)


def test_kinks_are_kinks():
    """Left and right of the optimum of B1 and B5, per coordinate."""
    best, right = CASES["B1"].solution.body, torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert float(CASES["B1"].directional_derivative(best, right)) == 0
    assert float(CASES["B1"].directional_derivative(best, -right)) == 1
    for sign in (1.0, -1.0):
        direction = torch.tensor(sign, dtype=torch.float64)
        assert float(CASES["B5"].directional_derivative(CASES["B5"].solution.body, direction)) == 1


@pytest.mark.parametrize("name", ["B1", "B5"])
def test_gradient_descent_with_falling_steps_reaches_the_kink(name):
    problem, rate = CASES[name], bilevel.Polynomial(0.5, 0.9)
    body = problem.start
    for k in range(4000):
        body = body - rate(k) * problem.phi_gradient(body)
    assert float((body - problem.solution.body).abs().max()) < 1e-3


def test_the_minimum_of_b2_is_lower_than_the_one_listed():
    """Per coordinate (w - 3/2)^2 + clip(w)^2 - 9/4 is at least -9/8 and attains it at 3/4."""
    line = torch.linspace(-2, 4, 60001, dtype=torch.float64)
    one = (line - 1.5) ** 2 + line.clamp(0.5, 1.5) ** 2 - 2.25
    assert float(one.min()) == pytest.approx(-1.125, abs=1e-8)
    assert float(line[one.argmin()]) == pytest.approx(0.75, abs=1e-4)
    assert CASES["B2"].solution.value < -2.1962


def test_the_direct_gradient_of_a6_is_zero_forever():
    """d_w F, all that is left without the implicit term, does not move the body."""
    problem = CASES["A6"]
    body, head = problem.init_body(generator(0, "body")), problem.init_head(generator(0, "head"))
    for _ in range(50):
        assert float(grad(problem.body_objective)(body, head, {})) == 0
        head = head - 0.3 * grad(problem.head_objective, 1)(body, head, {})
    assert float(head) == pytest.approx(float(problem.best_response(body)), abs=1e-12)
    assert abs(float(problem.phi_gradient(body))) > 0.1


def test_alternation_of_a5_goes_to_the_wrong_point():
    """Steps along d_w F and d_theta g end in (2, 2); the optimum is (1, 1)."""
    problem = CASES["A5"]
    body, head = problem.init_body(generator(0, "body")), problem.init_head(generator(0, "head"))
    for _ in range(1000):
        body = body - 0.05 * grad(problem.body_objective)(body, head, {})
        head = head - 0.4 * grad(problem.head_objective, 1)(body, head, {})
    assert float(body) == pytest.approx(2.0, abs=1e-9)
    assert float(head) == pytest.approx(2.0, abs=1e-9)
    assert float(problem.phi(body)) == pytest.approx(1.0, abs=1e-8)
    assert problem.solution.value == 0.0


@pytest.mark.parametrize("name", ["A3", "B7"])
def test_implicit_terms_that_are_zero(name):
    problem = CASES[name]
    for body in bodies(problem):
        dense = Dense(problem, body)
        slope = grad(dense.F, 1)(dense.w, dense.theta)
        assert float((dense.cross(dense.theta) @ slope).abs().max()) == 0
        assert float(grad(dense.F, 0)(dense.w, dense.theta)) == float(problem.phi_gradient(body))
