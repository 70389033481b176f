"""The cross derivative where a penalty is all of g that depends on the body, and its norm."""

import math

import pytest
import torch

import bilevel
from bilevel.bounds.cross_derivative import CrossDerivative, spectral
from bilevel.data.rows import Rows
from bilevel.derivatives.head_point import HeadPoint
from bilevel.derivatives.oracles import Oracles

M, D = 4, 3


def normal(seed, *shape):
    source = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=source, dtype=torch.float64)


MIX = normal(2, M, D)


class Penalised(bilevel.LinearHeadProblem):
    """Penalties exp(A w) of features, or the same for all."""

    body_free_features = True

    def __init__(self, outputs, fit_bias, alike):
        self.outputs, self.fit_bias, self.alike = outputs, fit_bias, alike

    def data(self, seed=None):
        targets = normal(1, 9) if self.outputs is None else normal(1, 9, self.outputs)
        return {"train": bilevel.Batch(normal(0, 9, M), targets)}

    def init_body(self, generator):
        return {"a": normal(3, D), "b": normal(4, 2, 2)}

    def init_head(self, generator):
        rows = M + self.fit_bias
        return normal(5, rows) if self.outputs is None else normal(5, rows, self.outputs)

    def features(self, inputs):
        return inputs

    def penalty(self, body):
        found = (MIX @ body["a"]).exp() + body["b"].square().sum()
        return found.mean() if self.alike else found


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("fit_bias", [False, True])
@pytest.mark.parametrize("outputs", [None, 2])
def test_columns_by_penalties_are_the_products(outputs, fit_bias, alike):
    problem = Penalised(outputs, fit_bias, alike)
    rows = Rows(problem.data(), {"train": None})
    body = {name: leaf.unsqueeze(0) for name, leaf in problem.init_body(None).items()}
    head = problem.init_head(None).unsqueeze(0)
    matrix = CrossDerivative(HeadPoint(Oracles(problem), body, head, rows))
    assert matrix.slopes is not None
    expected = matrix.products(torch.eye(head.numel(), dtype=torch.float64))
    torch.testing.assert_close(matrix.columns(), expected, rtol=1e-12, atol=1e-14)


def test_penalties_of_outputs_are_multiplied():
    class ByOutput(Penalised):
        def penalty(self, body):
            return super().penalty(body).unsqueeze(1).expand(M, 2)

    problem = ByOutput(2, False, False)
    rows = Rows(problem.data(), {"train": None})
    body = {name: leaf.unsqueeze(0) for name, leaf in problem.init_body(None).items()}
    at = HeadPoint(Oracles(problem), body, problem.init_head(None).unsqueeze(0), rows)
    assert CrossDerivative(at).slopes is None


class Own(Penalised):
    """A penalty for each feature from a number of its own, or nearly so."""

    def __init__(self, outputs, fit_bias, beside=0.0):
        super().__init__(outputs, fit_bias, False)
        self.beside = beside

    def init_body(self, generator):
        return {"a": normal(3, 2), "b": normal(4, 2)}

    def penalty(self, body):
        found = torch.cat([body["a"], body["b"]]).exp()
        return torch.cat([found[:1] + self.beside * body["b"][1], found[1:]])


def own(*options):
    problem = Own(*options)
    rows = Rows(problem.data(), {"train": None})
    body = {name: leaf.unsqueeze(0) for name, leaf in problem.init_body(None).items()}
    return CrossDerivative(
        HeadPoint(Oracles(problem), body, problem.init_head(None).unsqueeze(0), rows)
    )


@pytest.mark.parametrize("fit_bias", [False, True])
@pytest.mark.parametrize("outputs", [None, 2])
def test_penalties_with_numbers_of_their_own_are_a_diagonal(outputs, fit_bias, monkeypatch):
    matrix = own(outputs, fit_bias)
    moves = normal(8, 5, 1, (M + fit_bias) * (outputs or 1))
    unit = normal(9, *matrix.point.head.shape)
    norm, turned = matrix.norm(), matrix.turned(moves, unit)
    assert matrix.own_slopes is not None
    expected = float(torch.linalg.svdvals(matrix.columns())[0, 0])
    assert expected * (1 - 1e-15) <= float(norm) <= expected * (1 + 1e-9)
    monkeypatch.setattr(CrossDerivative, "own_slopes", None)  # by the whole matrix
    torch.testing.assert_close(norm, own(outputs, fit_bias).norm(), rtol=1e-9, atol=0)
    general = own(outputs, fit_bias).turned(moves, unit)
    torch.testing.assert_close(turned, general, rtol=1e-12, atol=0)


@pytest.mark.parametrize("fit_bias", [False, True])
@pytest.mark.parametrize("beside", [1e-9, 1.0])
def test_penalties_that_share_numbers_are_no_diagonal(beside, fit_bias):
    matrix = own(None, fit_bias, beside)
    assert matrix.own_slopes is None
    expected = matrix.products(torch.eye(M + fit_bias, dtype=torch.float64))
    torch.testing.assert_close(matrix.columns(), expected, rtol=1e-12, atol=1e-14)


MATRICES = {
    "diagonal": (torch.diag(normal(6, M)), True),
    "permuted": (torch.diag(normal(6, M))[[2, 0, 3, 1]], True),
    "wide": (torch.cat([torch.diag(normal(6, M)), torch.zeros(M, 2)], 1), True),
    "zero": (torch.zeros(M, D, dtype=torch.float64), True),
    "nearly diagonal": (torch.diag(normal(6, M)) + 1e-9, False),
    "two in a row": (torch.tensor([[3.0, 1.0], [0.0, 0.5]], dtype=torch.float64), False),
    "dense": (normal(7, M, D), False),
}


@pytest.mark.parametrize("name", MATRICES)
def test_norms_are_no_less_than_the_largest_singular_value(name, monkeypatch):
    matrix, sparse = MATRICES[name]
    asked, function = [], torch.linalg.eigvalsh
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda x: asked.append(1) or function(x))
    found, expected = spectral(matrix.unsqueeze(0)), float(torch.linalg.svdvals(matrix)[0])
    assert expected <= float(found) <= expected * (1 + 1e-9)
    assert bool(asked) is not sparse


@pytest.mark.parametrize("scale", [1e-170, 1e-250, 1e170])
@pytest.mark.parametrize("name", ["diagonal", "nearly diagonal", "dense"])
def test_norms_of_extreme_numbers_are_no_less_either(name, scale):
    """Their squares are zero, or infinite."""
    matrix = MATRICES[name][0]
    found, expected = spectral(scale * matrix.unsqueeze(0)), float(torch.linalg.svdvals(matrix)[0])
    assert expected * (1 - 1e-15) <= float(found / scale) <= expected * (1 + 1e-9)


def test_a_norm_of_no_numbers_is_none():
    matrix = torch.eye(M, dtype=torch.float64)
    matrix[1, 1] = torch.nan
    assert math.isnan(float(spectral(matrix.unsqueeze(0))))
