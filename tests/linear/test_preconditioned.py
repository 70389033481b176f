"""Adjoints led by a factor of a matrix nearby: how many products they take, and how exact."""

import pytest
import torch

from bilevel import Status
from bilevel.linear.factor import BlockFactor
from bilevel.linear.preconditioned import adjoint_by_factor
from tests.support.small_problems import doubles

SIZE = 40


def matrices(seed, runs=1, off=0.0, shift=0.5):
    """Symmetric matrices (R, P, P), and factors of others at a distance `off` from them."""
    root = doubles(seed, runs, SIZE, SIZE)
    near = root @ root.mT / SIZE + shift * torch.eye(SIZE).double()
    change = doubles(seed + 1, runs, SIZE, SIZE)
    change = off * (change + change.mT) / SIZE**0.5
    cholesky = torch.linalg.cholesky(near).unsqueeze(1)
    return near + change, BlockFactor(cholesky, torch.ones(runs, dtype=torch.bool))


def counted(matrix):
    """Products with the matrices, and how many."""
    asked = []

    def product(vectors):
        asked.append(vectors)
        return (matrix @ vectors.unsqueeze(2)).squeeze(2)

    return product, asked


@pytest.mark.parametrize(("off", "most"), [(0.0, 2), (1e-4, 6), (3e-2, 16)])
def test_a_close_factor_needs_few_products(off, most):
    """One of the matrix itself: a step, and the residual of what it found."""
    matrix, factor = matrices(0, runs=3, off=off)
    right = doubles(5, 3, SIZE)
    product, asked = counted(matrix)
    found = adjoint_by_factor(product, right, factor, 1e-12)
    expected = torch.linalg.solve(matrix, right)
    torch.testing.assert_close(found.value, expected, rtol=0.0, atol=1e-10)
    assert len(asked) <= most
    assert found.status.tolist() == [int(Status.CONVERGED)] * 3
    left = (product(found.value) - right).norm(dim=1)
    torch.testing.assert_close(found.residual, left, rtol=0.0, atol=1e-15)
    assert bool((left <= 1e-12 * right.norm(dim=1)).all())


def test_less_is_done_where_less_is_asked_for():
    """A number, or one for each run."""
    matrix, factor = matrices(1, runs=2, off=3e-2)
    right = doubles(6, 2, SIZE)
    counts = []
    for rtol in (1e-4, torch.tensor([1e-4, 1e-8]).double(), 1e-12):
        product, asked = counted(matrix)
        found = adjoint_by_factor(product, right, factor, rtol)
        assert bool((found.residual <= rtol * right.norm(dim=1)).all())
        counts.append(len(asked))
    assert counts == sorted(set(counts))


def test_a_far_factor_is_no_other_answer():
    """That of the identity, and more steps than a close factor would need."""
    matrix, factor = matrices(2, shift=1e-3)
    factor = BlockFactor.none(torch.zeros(1, SIZE).double(), 1)._replace(usable=factor.usable)
    right = doubles(7, 1, SIZE)
    found = adjoint_by_factor(counted(matrix)[0], right, factor, 1e-12)
    torch.testing.assert_close(found.value, torch.linalg.solve(matrix, right), rtol=1e-7, atol=1e-7)
    assert found.status.tolist() == [int(Status.CONVERGED)]


def test_what_cannot_be_solved_is_said_beside_what_can():
    """A matrix with a negative eigenvalue, and one without."""
    matrix, factor = matrices(3, runs=2, off=1e-3)
    matrix[1] -= 2 * torch.linalg.eigvalsh(matrix[1])[0] * torch.eye(SIZE).double()
    right = doubles(8, 2, SIZE)
    right[1] = torch.linalg.eigh(matrix[1]).eigenvectors[:, 0]
    found = adjoint_by_factor(counted(matrix)[0], right, factor, 1e-12)
    assert found.status.tolist() == [int(Status.CONVERGED), int(Status.INDEFINITE)]
    expected = torch.linalg.solve(matrix[0], right[0])
    torch.testing.assert_close(found.value[0], expected, rtol=0.0, atol=1e-9)


def test_nothing_is_solved_by_nothing():
    matrix, factor = matrices(4)
    found = adjoint_by_factor(counted(matrix)[0], torch.zeros(1, SIZE).double(), factor, 1e-12)
    assert not bool(found.value.any())
    assert found.status.tolist() == [int(Status.CONVERGED)]
