"""Gradients at constrained heads: Danskin's, the implicit one, and the bounds of both."""

from fractions import Fraction

import cvxpy
import numpy as np
import pytest
import torch
from convex_heads import RADIUS, exact, sets
from linear_heads import ONE, Given, build, distance, exact_system, fractions, normal
from scipy.optimize import lsq_linear
from small_problems import doubles

import bilevel
from bilevel import Cvxpy, Envelope, FastSGD, Implicit, Status
from bilevel.errors import IncompatibleError

Z, Y = normal([60, 4], 60, 4), normal([60, 8], 60)
WEIGHT = doubles(3, 3, 4)


def network(**options):
    """Features tanh(x W), a body of 3 x 4 numbers."""
    x, y = normal(11, 50, 3), normal(12, 50)
    return build(
        x, y, features=lambda w, x: torch.tanh(x @ w), body=WEIGHT, **{"ridge": 0.02, **options}
    )


def check_gradient(gradient, value, atol):
    """A gradient at WEIGHT against central differences along three directions, to 1e-6."""
    for seed in range(3):
        along = doubles([seed, 31], 3, 4)
        there, back = (value(WEIGHT + step * along) for step in (1e-5, -1e-5))
        expected = float(there - back) / 2e-5
        assert float((gradient * along).sum()) == pytest.approx(expected, rel=1e-6, abs=atol)


def phi(problem, solver):
    """Phi with the head solved anew."""
    data = problem.data()

    def value(body):
        head = bilevel.best_response(problem, body, solver).head
        return problem.body_objective(body, head, data)

    return value


# Danskin


@pytest.mark.parametrize("name", sets())
def test_the_envelope_gradient_is_that_of_phi(name):
    problem = network(head_set=sets()[name])
    found = bilevel.hypergradient(problem, WEIGHT, Envelope(), solver=Cvxpy())
    assert found.status is Status.CONVERGED
    check_gradient(found.body, phi(problem, Cvxpy()), 1e-9)
    # it is another one without the set
    free = bilevel.hypergradient(network(), WEIGHT).body
    assert float((free - found.body).norm()) > 1e-2 * float(free.norm())


def test_the_envelope_gradient_with_constraints_of_ones_own():
    """An l1 ball and a half-space of two outputs; heads have the accuracy of the solver."""
    problem = build(
        normal(11, 50, 3), normal(12, 50, 2), features=lambda w, x: torch.tanh(x @ w), body=WEIGHT,
        ridge=0.02,
    )  # fmt: skip
    solver = Cvxpy(lambda t: [cvxpy.sum(cvxpy.abs(t)) <= 0.2, cvxpy.sum(t[:, 0]) >= 0.08])
    found = bilevel.hypergradient(problem, WEIGHT, Envelope(), solver=solver)
    assert float(found.response.head[:, 0].sum()) == pytest.approx(0.08, abs=1e-9)
    check_gradient(found.body, phi(problem, solver), 1e-8)


@pytest.mark.parametrize("name", sets())
def test_projected_steps_lead_to_the_same_gradient(name):
    problem = network(head_set=sets()[name])
    solver = FastSGD(0.5, 5000, tolerance=1e-12)
    stepped = bilevel.hypergradient(problem, WEIGHT, Envelope(), solver=solver)
    assert stepped.status is Status.CONVERGED
    solved = bilevel.hypergradient(problem, WEIGHT, Envelope(), solver=Cvxpy())
    torch.testing.assert_close(stepped.body, solved.body, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(stepped.response.head, solved.response.head, rtol=0, atol=1e-9)


# F is not g


def validated(**options):
    """F: squared error on other rows."""
    x, y = torch.as_tensor(normal(21, 40, 3)), torch.as_tensor(normal(22, 40))
    kind = type(network(extra={"validation": bilevel.Batch(x, y)}, **options))

    class Validated(kind):
        def body_objective(self, body, head, batch):
            rows = batch["validation"]
            return (self.predict(body, head, rows.inputs) - rows.targets).square().mean()

    return Validated()


def active_set_head(body, low, high):
    """theta*(w) by scipy's active-set method on the rows."""
    x, y = normal(11, 50, 3), normal(12, 50)
    z = np.tanh(x @ body.numpy())
    rows = np.vstack([z / np.sqrt(50), np.sqrt(0.02) * np.eye(4)])
    right = np.concatenate([y / np.sqrt(50), np.zeros(4)])
    return torch.as_tensor(lsq_linear(rows, right, (low, high), method="bvls", tol=1e-15).x)


@pytest.mark.parametrize("name", ["box", "nonnegative"])
@pytest.mark.parametrize("options", [None, {"tol_gap_abs": 1e-4, "tol_gap_rel": 1e-4}])
def test_implicit_gradients_at_bounds(name, options):
    """Against the formula on the free coordinates and differences of an active-set head.

    Interior points stay inside: with loose tolerances they are 1e-3 away from the bounds.
    """
    box = bilevel.Box(-0.05, 0.15)
    problem = validated(head_set=box if name == "box" else bilevel.Nonnegative())
    low, high = (-0.05, 0.15) if name == "box" else (0.0, np.inf)
    found = bilevel.hypergradient(problem, WEIGHT, Implicit(), solver=Cvxpy(options=options))
    assert found.status is Status.CONVERGED
    head = active_set_head(WEIGHT, low, high)
    torch.testing.assert_close(found.response.head, head, rtol=0, atol=1e-12)
    held = ((head == low) | (head == high)).numpy()
    assert 0 < held.sum() < 4
    data = problem.data()

    def outer(body):
        return problem.body_objective(body, active_set_head(body, low, high), data)

    check_gradient(found.body, outer, 1e-9)
    # without the implicit term, or with all coordinates free, it is another one
    everywhere = bilevel.hypergradient(validated(), WEIGHT, Implicit()).body
    assert float((everywhere - found.body).norm()) > 1e-2 * float(found.body.norm())
    assert found.bound < 1e-9


@pytest.mark.parametrize("name", ["ball", "simplex", "l1 ball"])
def test_implicit_gradients_on_other_sets_are_refused(name):
    with pytest.raises(IncompatibleError, match=r"Derivatives of a head on .* are not available"):
        bilevel.hypergradient(validated(head_set=sets()[name]), WEIGHT, Implicit(), solver=Cvxpy())


def test_a_training_on_a_box_where_f_is_not_g():
    """Best response with Cvxpy descends Phi; every head is exact, whatever the training's type."""
    problem = validated(head_set=bilevel.Nonnegative())
    optimizer = bilevel.SGD()
    strategy = bilevel.BestResponse(1.0, Cvxpy(), optimizer=optimizer)
    solution = bilevel.solve(
        problem, strategy, steps=30, batch_size=None, seeds=1, every=10, dtype=torch.float64
    )
    assert set(solution.status) == {Status.COMPLETED}
    last = {name: values[:, 0] for name, values in solution.history.items()}
    assert (last["head_residual"] < 1e-12).all()
    value = phi(problem, Cvxpy())
    values = [float(value(WEIGHT)), float(value(solution.body[0]))]
    assert values[1] < 0.96 * values[0]


# bounds


def scalar(name):
    """Features w z with a body of one number: everything is rational."""
    return build(Z, Y, ridge=0.01, head_set=sets()[name])


@pytest.mark.parametrize("name", sets())
@pytest.mark.parametrize("off", [0.0, 1e-12, 1e-6, 1e-2])
def test_bounds_are_not_below_the_true_errors(name, off):
    """Of heads and envelope gradients, in rational arithmetic, at w = 1."""
    problem = scalar(name)
    matrix, moment = exact_system(Z, Y, None, 0.01)
    best = exact(name, matrix[0], moment[0])
    head = bilevel.best_response(problem, ONE, Cvxpy()).head
    moved = problem.head_set.project((head + off * doubles(9, 4)).unsqueeze(0))[0]
    solver = Given(moved) if off else Cvxpy()
    response = bilevel.best_response(problem, ONE, solver)
    error = distance(response.head, best.reshape(-1, 1))
    assert response.bound_kind == "proven"
    assert error <= response.bound
    # not a bound that says nothing
    assert response.bound <= 2e3 * max(error, 1e-16)
    gradient = bilevel.hypergradient(problem, ONE, Envelope(), solver=solver)
    assert gradient.bound_kind == "proven"
    fitted = fractions(Z) @ best
    slope = sum((fitted - fractions(Y)) * fitted) / Fraction(len(Y))
    assert abs(float(Fraction(float(gradient.body)) - slope)) <= gradient.bound


def test_the_bound_of_a_constraint_that_only_the_solver_knows():
    """It is one on the distance to the head of the problem, as documented."""
    problem = build(Z, Y, ridge=0.01)
    own = bilevel.best_response(problem, ONE, Cvxpy(lambda t: cvxpy.norm1(t) <= RADIUS))
    free = bilevel.best_response(problem, ONE)
    apart = float((own.head - free.head).norm())
    assert 1e-3 < apart <= own.bound
