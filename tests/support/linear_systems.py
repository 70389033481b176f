"""Symmetric linear systems for tests."""

import math

import torch
from linear_heads import normal

from bilevel import Status, trees
from bilevel.linear import Operator

RUNS, SIZE = 3, 9
EPS = torch.finfo(torch.float64).eps


def tensor(*seed, shape):
    return torch.from_numpy(normal(list(seed), *shape))


def with_spectrum(values, runs=RUNS, seed=0):
    """Random symmetric matrices (R, P, P) with the eigenvalues (P,) or (R, P)."""
    values = torch.as_tensor(values, dtype=torch.float64)
    size = values.shape[-1]
    basis = torch.linalg.qr(tensor(size, seed, shape=(runs, size, size)))[0]
    matrix = basis @ torch.diag_embed(values.expand(runs, size)) @ basis.mT
    return 0.5 * (matrix + matrix.mT)


def spread(condition, size=SIZE):
    """Eigenvalues from 2 down to 2 / condition, evenly in the logarithm."""
    return 2 * torch.logspace(0, -math.log10(condition), size, dtype=torch.float64)


def reference(matrix, right):
    return torch.linalg.solve(matrix, trees.flatten(right))


def errors(solution, expected):
    difference = trees.flatten(solution.value) - expected
    return difference.norm(dim=1) / expected.norm(dim=1)


def assert_residual_is_true(solution, matrix, right):
    """The residual is the one of the value, up to the rounding of computing it."""
    v = trees.flatten(solution.value)
    expected = (torch.einsum("rij,rj->ri", matrix, v) - trees.flatten(right)).norm(dim=1)
    rounding = 100 * EPS * torch.linalg.matrix_norm(matrix, 2) * v.norm(dim=1)
    assert ((solution.residual - expected).abs() <= rounding).all()


def codes(solution):
    return [Status(int(code)).name for code in solution.status]


class Counted:
    """An operator that counts its products."""

    def __init__(self, matrix, like):
        self.inner, self.products = Operator.from_matrix(matrix, like), 0

    def __call__(self):
        return Operator(self.product, self.inner.matrix)

    def product(self, v):
        self.products += 1
        return self.inner.product(v)
