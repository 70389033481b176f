"""Heads between bounds, g quadratic: active sets, rational arithmetic, the KKT conditions."""

import itertools

import numpy as np
import pytest
import torch
from boxed_heads import BOUNDS, BOXES, INF, problem_slope, violation
from linear_heads import ONE, build, dense, exact_box_head, exact_system, normal
from points import Custom, Point, number
from scipy.optimize import lsq_linear, nnls
from small_problems import Smooth, as_maps, grouped

import bilevel
from bilevel import Box, ClosedForm, Nonnegative, ProjectedNewton, Status


def stacked(z, y, ridge):
    """Rows whose plain least squares are g."""
    rows = np.vstack([z / np.sqrt(len(z)), np.sqrt(ridge) * np.eye(z.shape[1])])
    return rows, np.concatenate([y / np.sqrt(len(z)), np.zeros(z.shape[1])])


# squared error


@pytest.mark.parametrize("columns", [1, 8, 40])
@pytest.mark.parametrize("bounds", BOUNDS)
def test_active_sets_of_scipy_agree(bounds, columns):
    """lsq_linear's BVLS, and nnls, on all rows; at bounds exactly, not near them."""
    z, y, ridge = normal([1, columns], 90, columns), normal(2, 90), 1e-3
    y = y + z @ normal(3, columns)
    problem = build(z, y, ridge=ridge, head_set=BOXES[bounds])
    found = bilevel.best_response(problem, ONE, ProjectedNewton())
    assert found.status is Status.CONVERGED
    rows, right = stacked(z, y, ridge)
    expected = lsq_linear(rows, right, BOUNDS[bounds], method="bvls", tol=1e-14).x
    np.testing.assert_allclose(found.head, expected, rtol=0, atol=1e-11)
    if bounds == "nonnegative":
        theirs = nnls(rows, right)[0]
        np.testing.assert_allclose(found.head, theirs, rtol=0, atol=1e-11)
        assert ((found.head == 0).numpy() == (theirs == 0)).all()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spread", [0, 4])
def test_heads_equal_those_of_all_active_sets_in_rational_arithmetic(seed, spread):
    """Of condition up to 1e8; what is left is the rounding of H, times the condition."""
    z = normal([seed, 1], 12, 4) * np.logspace(0, -spread, 4) @ normal([seed, 2], 4, 4)
    y, ridge = z @ normal([seed, 3], 4) + 0.1 * normal([seed, 4], 12), 1e-9
    problem = build(z, y, ridge=ridge, head_set=Box(-0.25, 0.5))
    found = bilevel.best_response(problem, ONE, ProjectedNewton())
    assert found.status is Status.CONVERGED
    matrix, moment = exact_system(z, y, None, ridge)
    expected = exact_box_head(matrix[0], moment[0], -0.25, 0.5)
    condition = np.linalg.cond(matrix[0].astype(float))
    atol = max(1e-12, 1e-15 * condition)
    np.testing.assert_allclose(found.head, expected.astype(float), rtol=0, atol=atol)
    at_bound = [value in (-0.25, 0.5) for value in expected]
    assert any(at_bound)
    assert ((found.head == -0.25) | (found.head == 0.5)).tolist() == at_bound


@pytest.mark.parametrize(("columns", "condition"), [(5, 1e8), (30, 1e8)])
def test_runs_that_would_zigzag_arrive(columns, condition):
    """Where steps free what they have just met, 100 of them are not enough for one run in ten."""
    runs, rows = 20, 3 * columns
    turned = np.linalg.qr(normal(1, runs, columns, columns))[0]
    scale = np.logspace(0, -np.log10(condition) / 2, columns)
    z = (normal(2, runs, rows, columns) * scale) @ turned
    # the last column of each body are the targets of its run
    y = np.einsum("rnm,rm->rn", z, normal(3, runs, columns)) + 0.1 * normal(4, runs, rows)
    bodies = torch.from_numpy(np.concatenate([z, y[..., None]], axis=2))

    class Designs(bilevel.StackelbergProblem):
        """g of a linear head whose features and targets are the body."""

        head_set = Nonnegative()

        def data(self, seed=None):
            return {}

        def init_body(self, generator):
            return bodies[0]

        def init_head(self, generator):
            return torch.zeros(columns).double()

        def head_objective(self, body, head, batch):
            left = body[:, :-1] @ head - body[:, -1]
            return 0.5 * (left**2).mean() + 5 / condition * (head**2).sum()

    found = Point(Designs(), list(bodies)).solved(ProjectedNewton())
    assert (found.status == int(Status.CONVERGED)).all()
    for run in range(runs):
        matrix, moment = dense(z[run], y[run], None, 10 / condition)
        head = found.head[run].numpy()
        assert violation(head, matrix[0] @ head - moment[0], 0, INF) <= 1e-13
    assert 0.2 < float((found.head == 0).double().mean()) < 0.8


CASES = {
    "outputs": {"targets": normal(5, 60, 3), "ridge": 0.01},
    "bias": {"ridge": 0.01, "fit_bias": True},
    "penalties by output": {
        "targets": normal(5, 60, 2), "penalty": lambda w: torch.arange(1.0, 11).reshape(5, 2) / 50,
    },
    "weights": {"ridge": 0.01, "row_weights": lambda w, b: torch.linspace(0.1, 2, 60).double()},
    "body-free": {"ridge": 0.01, "body_free_features": True},
    "rank deficient": {"inputs": normal(6, 60, 2) @ normal(7, 2, 5), "ridge": 0.001},
    "fewer rows than features": {"inputs": normal(8, 60, 70), "ridge": 0.001},
}  # fmt: skip


@pytest.mark.parametrize("bounds", BOXES)
@pytest.mark.parametrize("case", CASES)
def test_all_forms_of_squared_error(case, bounds):
    """The KKT conditions in NumPy; without bounds that bind, the closed form."""
    options = dict(CASES[case])
    z, y = options.pop("inputs", normal(4, 60, 5)), options.pop("targets", normal(5, 60))
    problem = build(z, y, head_set=BOXES[bounds], **options)
    found = bilevel.best_response(problem, ONE, ProjectedNewton())
    assert found.status is Status.CONVERGED
    assert found.residual <= 1e-13
    slope = problem_slope(problem, found.head)
    low, high = BOUNDS.get(bounds, (-INF, INF))
    assert violation(found.head, slope, low, high) <= 1e-13
    if bounds == "everywhere":
        closed = bilevel.best_response(build(z, y, **options), ONE, ClosedForm()).head
        torch.testing.assert_close(found.head, closed, rtol=0, atol=1e-11)
    else:
        assert bool(((found.head == low) | (found.head == high)).any())


@pytest.mark.parametrize("outputs", [None, 2])
def test_rows_in_chunks_give_the_same_heads(outputs, tmp_path):
    """Gram matrices are added up chunk by chunk; nothing else asks for the rows."""
    options = {"outputs": outputs, "ridge": 0.01, "head_set": Box(-0.2, 0.1)}
    groups = grouped(0, outputs)
    whole, chunked = (
        Smooth(groups=groups, **options),
        Smooth(groups=as_maps(tmp_path, groups), chunk_rows=5, **options),
    )
    body = whole.init_body(torch.Generator().manual_seed(0))
    expected = bilevel.best_response(whole, body)
    found = bilevel.best_response(chunked, body)
    assert found.status is Status.CONVERGED
    assert bool((found.head == 0.1).any())
    torch.testing.assert_close(found.head, expected.head, rtol=0, atol=1e-13)


# degenerate heads


def quadratic(matrix, moment, head_set):
    """g = 1/2 theta' A theta - w b' theta."""
    a, b = number(*matrix), number(*moment)
    return Custom(
        lambda w, t: (t**2).sum(), lambda w, t: 0.5 * t @ a @ t - w * b @ t, [0.5] * len(b),
        head_set=head_set,
    )  # fmt: skip


MATRIX = [[4.0, 1.0, -2.0], [1.0, 3.0, 0.5], [-2.0, 0.5, 5.0]]


@pytest.mark.parametrize("weak", [(1, 0, 0), (0, 1, 1), (1, 1, 1)])
@pytest.mark.parametrize("start", [0.5, 0.0, 1.0])
def test_bounds_without_a_multiplier_do_no_harm(weak, start):
    """The minimiser without bounds lies on them: 0 where `weak`, exactly, since all is integer."""
    best = torch.where(torch.tensor(weak) == 1, 0.0, 0.75).double()
    problem = quadratic(MATRIX, (number(*MATRIX) @ best).tolist(), Box(0.0, 1.0))
    problem.head = torch.full((3,), start).double()
    found = bilevel.best_response(problem, ONE, ProjectedNewton())
    assert found.status is Status.CONVERGED
    torch.testing.assert_close(found.head, best, rtol=0, atol=1e-15)


@pytest.mark.parametrize("corner", list(itertools.product((0, 1), repeat=3)))
def test_heads_in_a_corner_are_the_corner(corner):
    """All numbers at bounds, each with its multiplier."""
    at = number(*[float(side) for side in corner])
    push = torch.where(at == 0, 1.0, -1.0).double()
    problem = quadratic(MATRIX, (number(*MATRIX) @ at - push).tolist(), Box(0.0, 1.0))
    found = bilevel.best_response(problem, ONE, ProjectedNewton())
    assert found.status is Status.CONVERGED
    assert torch.equal(found.head, at)


def test_numbers_that_bounds_fix_stay_fixed():
    low, high = number(0.3, -INF, 0.0), number(0.3, INF, 0.0)
    problem = quadratic(MATRIX, [1.0, 2.0, 3.0], Box(low, high))
    found = bilevel.best_response(problem, ONE, ProjectedNewton())
    assert found.status is Status.CONVERGED
    torch.testing.assert_close(found.head, number(0.3, (2 - 0.3) / 3, 0.0), rtol=1e-15, atol=0)
