"""What penalties are judged by: values and gradients against independent computations."""

import numpy as np
import pytest
import torch
from scipy.optimize import approx_fprime, minimize_scalar
from scipy.stats import multivariate_normal
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold

import bilevel
from bilevel.estimators.columns import scaling
from bilevel.estimators.folds import folds_of
from bilevel.estimators.ridge_criteria import Evidence, FoldErrors
from bilevel.estimators.ridge_rows import RidgeRows, compressed

SHAPES = {"more rows": (45, 6, 3), "few rows": (13, 30, 2), "long folds": (100, 4, 7)}


def rows(n, d, outputs, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) * rng.uniform(0.5, 3, d) + rng.standard_normal(d)
    y = x @ rng.standard_normal((d, outputs)) + 2 * rng.standard_normal((n, outputs))
    return x, scaling(y)(y)


def criterion(name, x, y, scale=True):
    if name == "evidence":
        return Evidence(scaling(x, divided=scale)(x), y)
    return FoldErrors(x, y, folds_of(5, 0, x, y), scale=scale)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["cv", "evidence"])
def test_gradients_are_those_of_finite_differences(name, shape):
    x, y = rows(*SHAPES[shape])
    judged = criterion(name, x, y)
    u = np.random.default_rng(1).normal(-1, 1, x.shape[1])
    value, slope = judged.value_and_gradient(np.exp(u))
    assert judged.values(np.exp(u)).mean() == pytest.approx(value, rel=1e-12)
    central = [
        (judged.values(np.exp(u + 1e-5 * e)).mean() - judged.values(np.exp(u - 1e-5 * e)).mean())
        / 2e-5
        for e in np.eye(len(u))
    ]
    assert np.abs(slope).max() > 1e-4
    np.testing.assert_allclose(slope, central, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["cv", "evidence"])
def test_a_target_alone_is_its_part_of_all(name, shape):
    x, y = rows(*SHAPES[shape])
    judged, p = criterion(name, x, y), np.full(x.shape[1], 0.3)
    parts = [judged.of_target(t) for t in range(y.shape[1])]
    np.testing.assert_allclose([part.values(p)[0] for part in parts], judged.values(p), rtol=1e-12)
    slopes = [part.value_and_gradient(p)[1] for part in parts]
    expected = judged.value_and_gradient(p)[1]
    np.testing.assert_allclose(np.mean(slopes, axis=0), expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_fold_errors_are_those_of_ridge_on_each_fold(shape, scale):
    x, y = rows(*SHAPES[shape])
    p = np.random.default_rng(2).uniform(0.01, 1, x.shape[1])
    total = 0.0
    for train, left_out in KFold(5, shuffle=True, random_state=0).split(x):
        unit = x[train].std(0) if scale else 1.0
        columns = 1 / (unit * np.sqrt(len(train) * p))  # a ridge of one on these is p on x
        model = Ridge(alpha=1.0, solver="cholesky").fit(x[train] * columns, y[train])
        total += np.square(model.predict(x[left_out] * columns) - y[left_out]).sum(0)
    found = criterion("cv", x, y, scale).values(p)
    np.testing.assert_allclose(found, total / len(x), rtol=1e-9)


class Folds(bilevel.LinearHeadProblem):
    """Folds of one length as tasks; the body is the log-penalties."""

    tasks, body_free_features = True, True

    def __init__(self, x, y, folds):
        self.outputs = y.shape[1]
        pairs = []
        for train, left_out in folds:
            to_z, mean = scaling(x[train]), y[train].mean(0)
            pairs.append([(to_z(x[some]), y[some] - mean) for some in (train, left_out)])
        self.groups = [
            bilevel.Batch(*(torch.tensor(np.stack([fold[i][j] for fold in pairs])) for j in (0, 1)))
            for i in (0, 1)
        ]

    def data(self, seed=None):
        return dict(zip(("train", "validation"), self.groups, strict=True))

    def init_body(self, generator):
        return torch.zeros(self.groups[0].inputs.shape[2])

    def init_head(self, generator):
        return torch.zeros(self.groups[0].inputs.shape[2], self.outputs)

    def features(self, inputs):
        return inputs

    def penalty(self, body):
        return body.exp()

    def body_objective(self, body, head, batch):
        rows = batch["validation"]
        return (rows.inputs @ head - rows.targets).square().mean()


@pytest.mark.parametrize("shape", [(40, 6, 3), (20, 30, 2)])
def test_the_gradient_is_the_hypergradient_of_the_same_problem(shape):
    x, y = rows(*shape)
    folds = folds_of(5, 0, x, y)
    u = np.random.default_rng(3).normal(-1, 1, x.shape[1])
    value, slope = FoldErrors(x, y, folds, scale=True).value_and_gradient(np.exp(u))
    found = bilevel.hypergradient(Folds(x, y, folds), torch.tensor(u))
    assert float(found.value) == pytest.approx(value, rel=1e-10)
    np.testing.assert_allclose(slope, found.body.numpy(), atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_evidence_is_that_of_a_normal_distribution(shape):
    x, y = rows(*SHAPES[shape])
    n, d = x.shape
    z = scaling(x)(x)
    # rows around their mean are n - 1 numbers: in any orthonormal basis beside the ones
    basis = np.linalg.svd(np.ones((1, n)))[2][1:]

    def best(p, t):
        of_rows = np.eye(n - 1) + (basis @ z / (n * p)) @ (basis @ z).T

        def unlikely(log_variance):
            normal = multivariate_normal(cov=np.exp(log_variance) * of_rows)
            return -normal.logpdf(basis @ y[:, t])

        found = minimize_scalar(unlikely, bounds=(-8, 4), options={"xatol": 1e-9})
        return -found.fun

    judged = Evidence(z, y)
    rng = np.random.default_rng(4)
    two = [rng.uniform(0.01, 1, d) for _ in range(2)]
    logpdf = [[best(p, t) for t in range(y.shape[1])] for p in two]
    values = np.array([judged.values(p) for p in two])
    # up to a constant that no penalty changes
    np.testing.assert_allclose(values[0] - values[1], np.subtract(*logpdf) / -n, atol=1e-9)
    constant = (n - 1) / 2 * (1 + np.log(2 * np.pi))
    np.testing.assert_allclose(-n * values - constant, logpdf, atol=1e-6)


def test_compressed_rows_have_the_errors_of_all():
    x, y = rows(100, 4, 7)
    z, right, rest = compressed(x, y)
    w = np.random.default_rng(5).standard_normal((4, 7))
    assert z.shape == (4, 4)
    expected = np.square(x @ w - y).sum(0)
    np.testing.assert_allclose(np.square(z @ w - right).sum(0) + rest, expected, rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_both_forms_of_a_ridge_are_its_formulas(shape):
    x, y = rows(*SHAPES[shape])
    n, d = x.shape
    p = np.random.default_rng(6).uniform(0.01, 1, d)
    hessian = x.T @ x / n + np.diag(p)
    made = RidgeRows(x, y)
    assert made.primal == (n >= d)
    factor = made.factor(p)
    right = np.random.default_rng(7).standard_normal((d, 4))
    inverse = np.linalg.inv(hessian)
    np.testing.assert_allclose(made.head(factor, p), inverse @ x.T @ y / n, rtol=1e-8)
    np.testing.assert_allclose(made.solve(factor, p, right), inverse @ right, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(made.shares(factor, p), 1 - p * inverse.diagonal(), atol=1e-11)
    determinant = np.linalg.slogdet(hessian / p)[1]
    assert made.log_determinant(factor, p) == pytest.approx(determinant, rel=1e-10)


def test_a_wrong_gradient_would_be_seen():
    # the derivative at fixed heads, without the implicit term, is zero for errors of folds
    x, y = rows(45, 6, 3)
    judged = criterion("cv", x, y)
    slope = judged.value_and_gradient(np.ones(6))[1]
    numeric = approx_fprime(np.zeros(6), lambda u: judged.values(np.exp(u)).mean(), 1e-7)
    assert np.abs(numeric).max() > 1e-3
    np.testing.assert_allclose(slope, numeric, atol=1e-6)
