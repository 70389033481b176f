"""Adjoints are as exact as their heads are asked to be, and bounds count what is left."""

import pytest
import torch

import bilevel
from bilevel.linear import preconditioned
from tests.support.small_problems import doubles

CLASSES, FEATURES = 3, 6


class Classes(bilevel.LinearHeadProblem):
    """A softmax head with a penalty e^w of each feature, judged on other rows."""

    body_free_features = True
    criterion = bilevel.SoftmaxLoss()
    outputs = CLASSES

    def data(self, seed=None):
        x, z = doubles(0, 90, FEATURES), doubles(1, 50, FEATURES)
        weights = doubles(2, FEATURES, CLASSES)
        noise = 2 * doubles(3, 140, CLASSES)
        y, t = (x @ weights + noise[:90]).argmax(1), (z @ weights + noise[90:]).argmax(1)
        return {"train": bilevel.Batch(x, y), "validation": bilevel.Batch(z, t)}

    def init_body(self, generator):
        return torch.full((FEATURES,), -3.0)

    def init_head(self, generator):
        return torch.zeros(FEATURES, CLASSES)

    def features(self, inputs):
        return inputs

    def penalty(self, body):
        return body.exp()

    def body_objective(self, body, head, batch):
        rows = batch["validation"]
        return torch.nn.functional.cross_entropy(rows.inputs @ head, rows.targets)


@pytest.fixture
def asked(monkeypatch):
    """Tolerances that adjoints were asked for with."""
    seen, quickly = [], preconditioned._quickly

    def noted(product, right, factor, rtol):
        seen.append(float(rtol))
        return quickly(product, right, factor, rtol)

    monkeypatch.setattr(preconditioned, "_quickly", noted)
    return seen


@pytest.mark.parametrize(
    ("tolerance", "rtol"), [(1e-10, 1e-12), (1e-7, 1e-9), (1e-2, 1e-6), (1e-14, 1e-12)]
)
def test_an_adjoint_is_as_exact_as_its_head(asked, tolerance, rtol):
    body = torch.linspace(-5, -1, FEATURES).double()
    found = bilevel.hypergradient(Classes(), body, solver=bilevel.Newton(tolerance))
    assert asked == [pytest.approx(rtol)]
    best = bilevel.Implicit(bilevel.Dense())
    true = bilevel.hypergradient(Classes(), body, best, solver=bilevel.Newton(1e-14)).body
    error = float((found.body - true).norm())
    assert error <= found.bound
    assert error <= 10 * tolerance
