"""Newton's heads against scikit-learn, and slopes that are recomputed in NumPy."""

import numpy as np
import pytest
import torch
from class_heads import (
    CLASSES,
    CURVED,
    Classes,
    curved,
    given,
    huber_data,
    labelled,
    single,
    slope,
    slope_of,
    table,
)
from linear_heads import ONE, normal
from points import Point
from sklearn.linear_model import LogisticRegression
from small_problems import General, M, N, points

import bilevel
from bilevel import HuberLoss, LogisticLoss, Newton, SoftmaxLoss, Status, trees
from bilevel.heads.newton import factors
from bilevel.heads.objectives import base, linear
from bilevel.testing import check_head_solver
from problems.analytic import analytic


@pytest.mark.parametrize("fit_bias", [False, True])
@pytest.mark.parametrize("ridge", [1e-1, 1e-3])
@pytest.mark.parametrize("name", ["breast cancer", "digits"])
def test_scikit_learn_agrees_on_real_data(name, ridge, fit_bias):
    """Theirs minimises C sum c + |w|^2 / 2 with a free intercept: C = 1 / (n lambda)."""
    inputs, labels, criterion, outputs = table(name)
    problem = given(inputs, labels, criterion, outputs, ridge=ridge, fit_bias=fit_bias)
    found = bilevel.best_response(problem, ONE)  # Newton by default
    assert found.status is Status.CONVERGED
    head = found.head.numpy()
    own = slope_of(criterion, inputs, labels, head, problem)
    assert np.abs(own).max() <= 1e-12
    model = LogisticRegression(
        C=1 / (len(labels) * ridge), fit_intercept=fit_bias, tol=1e-10,
        solver="newton-cholesky", max_iter=1000,
    ).fit(inputs, labels)  # fmt: skip
    theirs = model.coef_[0] if outputs is None else model.coef_.T
    np.testing.assert_allclose(head[:-1] if fit_bias else head, theirs, rtol=0, atol=1e-6)
    assert np.abs(theirs).max() > 0.1
    if fit_bias:
        biases = model.intercept_ - model.intercept_.mean() * (outputs is not None)
        np.testing.assert_allclose(head[-1], biases if outputs else biases[0], rtol=0, atol=1e-6)


def penalty_of(kind, rows, k):
    shape = {"scalar": (), "vector": (rows,), "matrix": (rows, k)}[kind]
    return 0.02 + np.abs(normal([5, rows], *shape))


HOOKS = [
    (loss, bias, kind, kind != "scalar")
    for loss in ("logistic", "softmax", "huber", "huber, outputs")
    for bias in ("none", "free", "penalised")
    for kind in ("scalar", "vector", "matrix")
    if kind != "matrix" or loss in ("softmax", "huber, outputs")
]


@pytest.mark.parametrize(("loss", "bias", "kind", "weighted"), HOOKS)
def test_the_slope_vanishes(loss, bias, kind, weighted):
    """max |d_theta g| <= 1e-12, recomputed in NumPy, whatever the hooks; g is convex."""
    outputs = {"softmax": CLASSES, "huber, outputs": 2}.get(loss)
    z = normal(3, N, M)
    if loss.startswith("huber"):
        criterion = HuberLoss(0.4)
        targets = huber_data(3, outputs)["train"].targets.numpy()
    else:
        criterion = SoftmaxLoss() if outputs else LogisticLoss()
        targets = labelled(4, N, outputs or 2).targets.numpy()
    rows = M + (bias == "penalised")
    p = penalty_of(kind, rows, outputs)
    s = 0.2 + np.abs(normal(6, N)) if weighted else None
    problem = given(
        z, targets, criterion, outputs, penalty=lambda _: torch.as_tensor(p),
        row_weights=(lambda w, batch: torch.as_tensor(s)) if weighted else None,
        fit_bias=bias != "none", penalize_bias=bias == "penalised",
        start=3 * normal(7, *((M + (bias != "none"),) + ((outputs,) if outputs else ()))),
    )  # fmt: skip
    found = bilevel.best_response(problem, ONE)
    assert found.status is Status.CONVERGED
    head = found.head.numpy()
    full = np.broadcast_to(p if p.ndim in (0, head.ndim) else p[:, None], (rows, *head.shape[1:]))
    full = np.concatenate([full, np.zeros_like(full[:1])]) if bias == "free" else full
    own = slope_of(criterion, z, targets, head, problem, s, full)
    assert np.abs(own).max() <= 1e-12
    assert found.residual <= 1e-11
    if loss == "softmax" and bias == "free":  # undetermined sums are zero
        assert abs(head[-1].sum()) <= 1e-12 * np.abs(head[-1]).max()


def test_huber_pulls_less_than_squares():
    """Outliers of 8 on a fifth of the rows: the slope is theirs at most times delta."""
    problem = Classes(criterion=HuberLoss(0.3), ridge=1e-3, fit_bias=True)
    clean = problem.data()
    body = problem.init_body(torch.Generator().manual_seed(1))
    heads = {}
    for name, criterion in (("huber", HuberLoss(0.3)), ("squared", bilevel.SquaredError())):
        for kind, groups in (("clean", clean), ("far", huber_data(0))):
            one = Classes(criterion=criterion, ridge=1e-3, fit_bias=True)
            one.data = lambda seed=None, groups=groups: {"train": groups["train"]}
            heads[name, kind] = bilevel.best_response(one, body).head
    moved = {n: (heads[n, "far"] - heads[n, "clean"]).norm() for n in ("huber", "squared")}
    assert moved["huber"] < 0.3 * moved["squared"]


# paths to the same head


PATHS = {
    "float32": {(factors, "SINGLE_WORK"): 0.0},
    "by conjugate gradients": {(linear, "LARGEST_BLOCK"): M + 1},
    "by their diagonal": {(linear, "LARGEST_BLOCK"): 1},
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("fit_bias", [False, True])
@pytest.mark.parametrize("name", CURVED)
def test_every_path_ends_at_the_same_head(name, fit_bias, path, monkeypatch):
    problem = curved(name, fit_bias=fit_bias)
    point = Point(problem, [problem.init_body(torch.Generator().manual_seed(i)) for i in range(3)])
    expected = point.solved(Newton(1e-12))
    for (module, constant), value in PATHS[path].items():
        monkeypatch.setattr(module, constant, value)
    found = point.solved(Newton(1e-12))
    assert (found.status == int(Status.CONVERGED)).all()
    torch.testing.assert_close(found.head, expected.head, rtol=0, atol=1e-10)
    body = trees.take(point.body, 1)
    assert np.abs(slope(problem, body, found.head[1])).max() <= 1e-12


@pytest.mark.parametrize("name", CURVED)
def test_an_unknown_curvature_is_found_by_automatic_differentiation(name):
    problem, plain = curved(name, fit_bias=True, penalize_bias=True), curved(name)
    criterion = type(problem.criterion)
    hidden = type("Hidden", (criterion,), {"curvature": lambda self, p, t: None})
    plain = curved(name, fit_bias=True, penalize_bias=True)
    plain.criterion = hidden(0.5) if name.startswith("huber") else hidden()
    body = problem.init_body(torch.Generator().manual_seed(2))
    expected, found = (bilevel.best_response(p, body) for p in (problem, plain))
    assert found.status is Status.CONVERGED
    torch.testing.assert_close(found.head, expected.head, rtol=0, atol=1e-10)


def test_features_that_float32_cannot_tell_apart():
    """Two columns that differ by 1e-6: the float32 Hessian is singular, the float64 one is not."""
    z = normal(1, 40, 3)
    z = np.column_stack([z, z[:, 0] + 1e-6 * normal(2, 40)])
    y = (z[:, 0] + normal(3, 40) > 0).astype(int)
    problem = given(z, y, LogisticLoss(), ridge=1e-14)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(factors, "SINGLE_WORK", 0.0)
        found = bilevel.best_response(problem, ONE)
    assert found.status is Status.CONVERGED
    own = slope_of(LogisticLoss(), z, y, found.head.numpy(), problem)
    assert np.abs(own).max() <= 1e-10  # the tolerance; the head is some 1e5 long


@pytest.mark.parametrize("size", [1e-3, 1e3])
@pytest.mark.parametrize("name", ["logistic", "softmax", "huber"])
def test_steps_are_halved_from_far_away(name, size):
    """From heads where full steps overshoot, or the slope is nearly flat."""
    problem = curved(name)
    point = single(problem)
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    signs = signs if point.head.ndim == 2 else signs[:, None] * torch.arange(CLASSES)
    point.head = 100 * size * signs.expand(point.head.shape)
    found = point.solved(Newton())
    assert found.status.tolist() == [int(Status.CONVERGED)]
    assert np.abs(slope(problem, trees.take(point.body, 0), found.head[0])).max() <= 1e-10


def test_a_head_that_is_no_linear_one():
    a9 = analytic("A9")
    found = bilevel.best_response(a9, a9.start, Newton())
    assert abs(float(found.head - a9.best_response(a9.start))) <= 1e-14
    problem = General()
    body = problem.init_body(torch.Generator().manual_seed(0))
    found = bilevel.best_response(problem, body, Newton())
    slopes = torch.func.grad(problem.head_objective, 1)(body, found.head, problem.data())
    assert max(float(leaf.abs().max()) for leaf in trees.leaves(slopes)) <= 1e-12


class Large(bilevel.StackelbergProblem):
    """1,500 numbers: g = sum_j (a_j theta_j^2 / 2 + cosh(theta_j - w)) + (sum theta)^2 / 50."""

    def data(self, seed=None):
        return {}

    def init_body(self, generator):
        return ONE

    def init_head(self, generator):
        return torch.zeros(1500, dtype=torch.float64)

    def head_objective(self, w, theta, batch):
        a = torch.linspace(0.5, 3.0, 1500).double()
        return (a * theta**2 / 2 + torch.cosh(theta - w)).sum() + theta.sum() ** 2 / 50


def test_a_large_head_takes_products(monkeypatch):
    problem = Large()
    point = Point(problem, [ONE, 2 * ONE])
    point.oracles.head_hessian = lambda *given: pytest.fail("formed a matrix")
    found = point.solved(Newton(1e-11))
    assert found.status.tolist() == [int(Status.CONVERGED)] * 2
    slopes = torch.func.grad(problem.head_objective, 1)(2 * ONE, found.head[1], {})
    assert slopes.abs().max() <= 1e-10
    assert base.LARGEST_GENERAL_HESSIAN < 1500


@pytest.mark.parametrize("name", CURVED)
def test_the_contract_of_head_solvers(name):
    check_head_solver(Newton(), curved(name, fit_bias=True, penalize_bias=True))


def test_quadratic_heads_are_as_in_closed_form():
    check_head_solver(Newton())
    problem = Classes(criterion=bilevel.SquaredError(), ridge=0.1, outputs=None)
    problem.data = lambda seed=None: huber_data(1)
    body = problem.init_body(torch.Generator().manual_seed(0))
    newton, exact = (bilevel.best_response(problem, body, s) for s in (Newton(), None))
    torch.testing.assert_close(newton.head, exact.head, rtol=1e-11, atol=1e-13)


# many runs


@pytest.mark.parametrize("name", CURVED)
def test_many_runs_equal_single_runs(name):
    problem = curved(name, fit_bias=True)
    bodies = [problem.init_body(torch.Generator().manual_seed(i)) for i in range(5)]
    bodies[3] = trees.tree_map(lambda leaf: 30 * leaf, bodies[3])  # features of +-1: slow
    together = Point(problem, bodies).solved(Newton())
    for i, body in enumerate(bodies):
        point = Point(problem, [body])
        point.head = points(problem, range(5))[1][i : i + 1]
        alone = point.solved(Newton())
        torch.testing.assert_close(together.head[i], alone.head[0], rtol=0, atol=1e-11)
        assert together.status[i] == alone.status[0] == int(Status.CONVERGED)


@pytest.mark.parametrize("lost", [float("nan"), float("inf")])
def test_a_lost_run_harms_no_other(lost):
    problem = curved("softmax")
    bodies = [problem.init_body(torch.Generator().manual_seed(i)) for i in range(3)]
    expected = Point(problem, bodies).solved(Newton())
    bodies[1] = trees.tree_map(lambda leaf: leaf + lost, bodies[1])
    found = Point(problem, bodies).solved(Newton())
    assert found.status.tolist() == [1, int(Status.DIVERGED), 1]
    assert bool(found.head[1].isnan().all())
    for i in (0, 2):
        torch.testing.assert_close(found.head[i], expected.head[i], rtol=0, atol=1e-11)
    assert bool(trees.finite(found.state).all())  # it can go on
