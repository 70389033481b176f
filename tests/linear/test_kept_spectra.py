"""Eigenvalues of a Gram matrix that is kept, with the penalties of many bodies beside them."""

import numpy as np
import pytest
import torch

import bilevel
from bilevel.data.known import known_of
from bilevel.data.rows import Rows
from bilevel.derivatives.oracles import Oracles
from bilevel.linear.gram import row_moments

ROWS, FEATURES = 40, 6


def normal(seed, *shape):
    source = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=source, dtype=torch.float64)


class Penalties(bilevel.LinearHeadProblem):
    """Log-penalties of features whose scales differ."""

    body_free_features = True

    def __init__(self, outputs=None, fit_bias=False, scale=1.0, far=0.0):
        self.outputs, self.fit_bias = outputs, fit_bias
        x = normal(0, ROWS, FEATURES) * torch.logspace(0, -scale, FEATURES).double() + far
        targets = normal(1, ROWS) if outputs is None else normal(1, ROWS, outputs)
        self.train = bilevel.Batch(x, targets)

    def data(self, seed=None):
        return {"train": self.train, "validation": self.train}

    def init_body(self, generator):
        return torch.zeros(FEATURES, dtype=torch.float64)

    def init_head(self, generator):
        rows = FEATURES + self.fit_bias
        shape = (rows,) if self.outputs is None else (rows, self.outputs)
        return torch.zeros(shape, dtype=torch.float64)

    def features(self, inputs):
        return inputs

    def penalty(self, body):
        found = body.exp()
        return found if self.outputs is None else torch.stack([found, 2 * found], 1)

    def body_objective(self, body, head, batch):
        rows = batch["validation"]
        return (self.predict(body, head, rows.inputs) - rows.targets).square().mean()


def system_of(problem, body):
    """The system of a problem that is known, and its matrix for each output."""
    oracles = Oracles(problem, mapped=False)
    oracles.known = known_of(problem)
    rows = Rows({"train": problem.train}, {"train": None})
    found = row_moments(oracles, body.unsqueeze(0), rows).system(ROWS)
    x = problem.train.inputs
    x = torch.cat([x, torch.ones_like(x[:, :1])], 1) if problem.fit_bias else x
    penalty = problem.penalty(body).reshape(FEATURES, -1)
    if problem.fit_bias:
        penalty = torch.cat([penalty, torch.zeros_like(penalty[:1])])
    return found, [x.T @ x / ROWS + torch.diag(p) for p in penalty.T]


BODIES = {
    "alike": torch.full((FEATURES,), -2.0),
    "small": torch.full((FEATURES,), -30.0),
    "large": torch.full((FEATURES,), 5.0),
    "apart": torch.linspace(-12.0, 4.0, FEATURES),
}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize(("outputs", "fit_bias"), [(None, False), (2, False), (None, True)])
@pytest.mark.parametrize(("scale", "far"), [(0.5, 0.0), (4.0, 0.0), (0.5, 30.0)])
def test_bounds_hold_and_are_near(body, outputs, fit_bias, scale, far):
    problem = Penalties(outputs, fit_bias, scale, far)
    system, matrices = system_of(problem, BODIES[body].double())
    values = torch.stack([torch.linalg.eigvalsh(matrix) for matrix in matrices])
    least, most = float(values.min()), float(values.max())
    rounding = 1e-13 * most
    taken = system.known.near() or system.curvature()
    for low, high in (system.known.bounds(), taken, system.curvature()):
        assert float(low) <= least + rounding
        assert most - rounding <= float(high) <= 2 * most
    # what rounding takes half of aside, no bound that is taken is further off
    assert 3.01 * float(taken[0]) >= least - 100 * rounding


def test_eigenvalues_are_asked_for_where_they_tell_more(monkeypatch):
    asked, function = [], torch.linalg.eigvalsh
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda x: asked.append(1) or function(x))
    problem, counts = Penalties(scale=4.0), []
    for body in BODIES.values():
        asked.clear()
        bilevel.hypergradient(problem, body.double())
        counts.append(len(asked))
    assert counts[0] == 1  # of the Gram matrix, once and for all
    assert counts[2] == 0
    assert counts[3] >= 1  # penalties that make up for small features
    asked.clear()
    bilevel.hypergradient(problem, BODIES["alike"].double(), bound=False)
    assert asked == []
    rough = bilevel.FastSGD(1e-3, 5)  # whose bound is more than rounding
    found = bilevel.hypergradient(problem, BODIES["large"].double(), solver=rough)
    assert len(asked) == 1
    _, (matrix,) = system_of(problem, BODIES["large"].double())
    assert found.response.mu == pytest.approx(float(torch.linalg.eigvalsh(matrix)[0]), rel=1e-9)


def test_a_free_bias_is_known_to_be_fine_without_eigenvalues(monkeypatch):
    problem = Penalties(fit_bias=True)
    bilevel.hypergradient(problem, BODIES["alike"].double(), bound=False)
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda x: pytest.fail("eigenvalues"))
    bilevel.hypergradient(problem, BODIES["large"].double(), bound=False)


@pytest.mark.parametrize(("outputs", "fit_bias"), [(None, False), (2, False), (None, True)])
@pytest.mark.parametrize("far", [0.0, 1e4])
def test_products_are_no_further_off_than_they_say(outputs, fit_bias, far):
    """Against exact sums, of fractions."""
    from fractions import Fraction

    problem = Penalties(outputs, fit_bias, far=far)
    body = BODIES["apart"].double()
    system, _ = system_of(problem, body)
    vector = normal(5, 1, FEATURES + fit_bias, outputs or 1)
    found, rounding = system.product(vector)
    x = problem.train.inputs
    x = torch.cat([x, torch.ones_like(x[:, :1])], 1) if fit_bias else x
    penalty = problem.penalty(body).reshape(FEATURES, -1)
    penalty = torch.cat([penalty, torch.zeros_like(penalty[:1])]) if fit_bias else penalty
    rows = [[Fraction(v) for v in row] for row in x.tolist()]
    off = Fraction(0)
    for k in range(outputs or 1):
        v = [Fraction(a) for a in vector[0, :, k].tolist()]
        along = [sum(a * b for a, b in zip(row, v, strict=True)) for row in rows]
        for j in range(len(v)):
            exact = sum(row[j] * a for row, a in zip(rows, along, strict=True)) / ROWS
            exact += Fraction(float(penalty[j, k])) * v[j]
            off += (exact - Fraction(float(found[0, j, k]))) ** 2
    assert float(off) ** 0.5 <= float(rounding * vector.norm())


@pytest.mark.parametrize("solver", [None, "steps"])
@pytest.mark.parametrize("fit_bias", [False, True])
@pytest.mark.parametrize("far", [0.0, 1e3])
def test_certificates_by_the_gram_matrix_hold(far, fit_bias, solver):
    """Of exact heads, whose distance is rounding, and of rough ones; in extended precision."""
    problem = Penalties(fit_bias=fit_bias, far=far)
    solver = solver and bilevel.FastSGD(1e-3 / (1 + far**2), 5)
    x, t = (leaf.numpy().astype(np.longdouble) for leaf in problem.train)
    x = np.concatenate([x, np.ones_like(x[:, :1])], 1) if fit_bias else x
    for body in BODIES.values():
        found = bilevel.hypergradient(problem, body.double(), solver=solver).response
        assert found.bound_kind == "proven"
        penalty = np.append(body.double().exp().numpy(), [0.0] * fit_bias)
        matrix, right = x.T @ x / ROWS + np.diag(penalty), x.T @ t / ROWS
        head = found.head.numpy().astype(np.longdouble)
        true = head.copy()
        for _ in range(10):  # refined, as the factor is one of float64
            off = (matrix @ true - right).astype(float)
            true = true - np.linalg.solve(matrix.astype(float), off)
        slope = np.linalg.norm((matrix @ head - right).astype(float))
        assert np.linalg.norm((head - true).astype(float)) <= found.bound
        assert abs(slope - found.residual) <= found.bound * found.mu
