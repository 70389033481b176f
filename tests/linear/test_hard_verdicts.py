"""What is said of systems whose numbers lie far apart: solved, singular, or without a minimum."""

import mpmath
import numpy as np
import pytest
import torch
from hard_systems import FAR_APART
from linear_heads import ONE, build, exact_solve, fractions, normal
from test_linear_system import four_runs, spd

import bilevel
from bilevel import ClosedForm, Cvxpy, Dense, LogisticLoss, Newton, SoftmaxLoss, Status
from bilevel.errors import SingularHeadError
from bilevel.linear import Operator
from bilevel.linear.cholesky import diagonal_scales, factorise

SCALES = torch.tensor([2.0**24, 1.0, 2.0**-23, 4.0, 2.0**-5], dtype=torch.float64)


def scaled(matrix):
    """Rows and columns of (..., 5, 5) multiplied by powers of two."""
    return matrix * SCALES.unsqueeze(-1) * SCALES


# systems


def test_a_factorisation_does_not_see_scales():
    """Powers of two change no digit, of factors, of statuses and of what is added."""
    matrix = four_runs()
    column = torch.from_numpy(normal(8, 5, 2))
    matrix[1, 0] = column @ column.T  # rank 2 of 5
    plain, used, status = factorise(matrix)
    factor, shifted, told = factorise(scaled(matrix))
    assert told.tolist() == status.tolist() == [1, int(Status.JITTERED), 1, 1]
    assert torch.equal(factor, plain * SCALES.unsqueeze(1))
    assert torch.equal(shifted, scaled(used))


def test_scales_are_powers_of_two_near_the_roots():
    matrix = torch.diag(torch.tensor([3e40, 1.0, 7e-30, 0.0, -2.0], dtype=torch.float64))[
        None, None
    ]
    found = diagonal_scales(matrix)[0, 0]
    assert torch.equal(found.log2(), found.log2().round())
    ratio = matrix[0, 0].diagonal()[:3] / found[:3].square()
    assert bool(((ratio >= 0.5) & (ratio <= 2)).all())
    assert bool((found > 0).all())


def test_dense_adjoints_on_scales_that_differ():
    matrix, right = scaled(four_runs()[:, 0]), torch.from_numpy(normal(4, 4, 5)) * SCALES
    found = Dense().solve(Operator.from_matrix(matrix, right), right)
    assert found.status.tolist() == [int(Status.CONVERGED)] * 4
    for run in range(4):
        exact = exact_solve(*(fractions(x[run].numpy()) for x in (matrix, right)))
        off = (fractions(found.value[run].numpy()) - exact).astype(float) * SCALES.numpy()
        assert np.abs(off).max() < 1e-13 * np.abs(exact.astype(float) * SCALES.numpy()).max()


def test_dense_still_tells_singular_from_indefinite():
    matrix = four_runs()[:, 0]
    column = torch.from_numpy(normal(8, 5, 2))
    matrix[1] = column @ column.T
    matrix[2] -= 2 * torch.eye(5, dtype=torch.float64)
    right = torch.ones(4, 5, dtype=torch.float64)
    found = Dense().solve(Operator.from_matrix(scaled(matrix), right), right)
    expected = [Status.CONVERGED, Status.SINGULAR, Status.INDEFINITE, Status.CONVERGED]
    assert found.status.tolist() == [int(code) for code in expected]
    assert bool(found.value[1:3].isnan().all())


class Curved(bilevel.StackelbergProblem):
    """g = 1/2 theta'A theta - w b'theta, a head of any quadratic objective."""

    def __init__(self, matrix, moment):
        self.matrix, self.moment = matrix, moment

    def data(self, seed=None):
        return {}

    def init_body(self, generator):
        return ONE

    def init_head(self, generator):
        return torch.zeros_like(self.moment)

    def head_objective(self, body, head, batch):
        return 0.5 * head @ (self.matrix @ head) - body * (self.moment @ head)


@pytest.mark.parametrize("solver", [ClosedForm(), Newton()], ids=["closed form", "Newton"])
def test_heads_of_any_quadratic_objective(solver):
    matrix, moment = scaled(spd(3, 5)), torch.from_numpy(normal(5, 5)) * SCALES
    found = bilevel.best_response(Curved(matrix, moment), ONE, solver)
    exact = exact_solve(fractions(matrix.numpy()), fractions(moment.numpy()))
    off = (fractions(found.head.numpy()) - exact).astype(float) * SCALES.numpy()
    assert found.status is Status.CONVERGED
    assert np.abs(off).max() < 1e-8 * np.abs(exact.astype(float) * SCALES.numpy()).max()


# what is singular stays so

Z, Y = normal(1, 30, 4) * FAR_APART, normal(2, 30)
SINGULAR = {
    "twice the same": (Z[:, [0, 1, 2, 1]], {}, "Set `ridge`"),
    "a sum of others": (np.column_stack([Z, Z @ [1, 1e-7, 1e7, 0.1]]), {}, "Set `ridge`"),
    "fewer rows": (Z[:3], {}, "fewer features than rows"),
    "a constant far away": (np.column_stack([Z, np.full(30, 1e7)]), {"fit_bias": True}, "ridge"),
    "a dead feature": (Z * [1, 1, 0, 1], {}, "Set `ridge`"),
}


@pytest.mark.parametrize("case", SINGULAR)
def test_singular_systems_are_refused_on_any_scale(case):
    inputs, attributes, advice = SINGULAR[case]
    problem = build(inputs, Y[: len(inputs)], **attributes)
    with pytest.raises(SingularHeadError, match=advice) as told:
        bilevel.best_response(problem, ONE)
    assert "no unique minimiser, as far as float64 can tell" in str(told.value)
    assert "scale" not in str(told.value)


def test_features_far_from_zero_without_a_bias_are_told_from_missing_penalties():
    """Their minimiser is unique; it is lost in rounding, and a bias brings it back."""
    problem = build(3e9 + normal(3, 30, 4), Y)
    with pytest.raises(SingularHeadError, match="subtract the means: `fit_bias = True`") as told:
        bilevel.best_response(problem, ONE)
    assert "no unique minimiser" not in str(told.value)
    assert "ridge" not in str(told.value)
    again = bilevel.best_response(build(3e9 + normal(3, 30, 4), Y, fit_bias=True), ONE)
    assert again.status is Status.CONVERGED


def test_a_ridge_is_never_called_too_little():
    """Collinear features far from zero: singular in float64, but not without a minimiser."""
    z = normal(4, 30, 1) * 1e10 + [1e12, 3e12]
    found = bilevel.best_response(build(z, Y, ridge=1e-3, fit_bias=True), ONE)
    assert found.status in (Status.CONVERGED, Status.JITTERED)
    assert found.mu > 0


# heads without a closed form


def logistic(inputs, labels, ridge, digits=40):
    """argmin of the mean logistic loss with a free bias, by Newton steps to many digits."""
    with mpmath.workdps(digits):
        middle, spread = inputs.mean(0), inputs.std(0)
        n, m = inputs.shape
        z = mpmath.matrix(n, m + 1)
        for i in range(n):
            z[i, m] = 1
            for j in range(m):
                z[i, j] = (mpmath.mpf(inputs[i, j]) - middle[j]) / spread[j]
        p = [mpmath.mpf(ridge) / mpmath.mpf(s) ** 2 for s in spread] + [mpmath.mpf(0)]
        theta = mpmath.matrix(m + 1, 1)
        for _ in range(300):
            rate = [1 / (1 + mpmath.exp(-u)) for u in z * theta]
            off = mpmath.matrix([r - int(y) for r, y in zip(rate, labels, strict=True)])
            slope = z.T * off / n + mpmath.diag(p) * theta
            weight = mpmath.diag([r * (1 - r) for r in rate])
            step = mpmath.lu_solve(z.T * weight * z / n + mpmath.diag(p), -slope)
            theta += step / max(1, mpmath.norm(step, mpmath.inf) / 2)
            if mpmath.norm(step) < mpmath.mpf(10) ** (10 - digits) * mpmath.norm(theta):
                break
        head = [theta[j] / spread[j] for j in range(m)]
        head.append(theta[m] - sum(h * x for h, x in zip(head, middle, strict=True)))
        return np.array([float(number) for number in head])


POINTS = normal(6, 16, 2)
MIXED = (POINTS @ [1.0, -1.0] + normal(7, 16) > 0).astype(np.int64)
APART = (POINTS @ [1.0, -1.0] > 0.1).astype(np.int64)
LOGISTIC = {
    "separable, large": (POINTS * 3e6, APART, 1e-6),
    "large": (POINTS * [2e6, 1e-6], MIXED, 1e-7),
    "separable": (POINTS, APART, 1e-12),
    "years": (POINTS + 1900.0, MIXED, 1e-2),
    "far": (POINTS + 1e6, MIXED, 1e-2),
}


@pytest.mark.parametrize("case", LOGISTIC)
def test_a_positive_ridge_has_a_minimiser(case):
    inputs, labels, ridge = LOGISTIC[case]
    problem = build(inputs, labels, ridge=ridge, fit_bias=True, criterion=LogisticLoss())
    found = bilevel.best_response(problem, ONE, Newton())
    exact = logistic(inputs, labels, ridge)
    sizes = np.append(np.sqrt((inputs**2).mean(0)), 1.0)
    off = np.abs((found.head.numpy() - exact) * sizes).max() / np.abs(exact * sizes).max()
    assert found.status is Status.CONVERGED
    assert off < 1e-7


@pytest.mark.parametrize("solver", [Newton(), Cvxpy()], ids=["Newton", "Cvxpy"])
@pytest.mark.parametrize(
    ("options", "ridge", "runs_away"),
    [
        ({"criterion": LogisticLoss()}, 0.0, True),
        ({"criterion": LogisticLoss()}, 1e-2, False),
        ({"criterion": SoftmaxLoss(), "outputs": 3}, 1e-2, True),
        ({"criterion": SoftmaxLoss(), "outputs": 2}, 1e-2, False),
    ],
    ids=["separable", "held by a ridge", "a class without rows", "all classes"],
)
def test_minima_that_run_away_are_told_by_the_direction(options, ridge, runs_away, solver):
    """What is penalised stays; an unpenalised bias goes where its class has no rows."""
    problem = build(POINTS, APART, ridge=ridge, fit_bias=True, **options)
    status = bilevel.best_response(problem, ONE, solver).status
    assert (status is Status.NO_MINIMISER) == runs_away
