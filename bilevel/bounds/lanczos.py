"""The ends of the spectrum of a symmetric matrix that is known by its products."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

MOST_STEPS, FEWEST_STEPS = 16, 4
NEAR = 1e-2
"""A residual, relative to its Ritz value, at which no further steps are made."""
SPENT = 1e-12
"""A length, relative to that of the matrix, that is rounding: nothing is left outside the basis."""


class Ritz(NamedTuple):
    """What is near the largest eigenvalue of R matrices.

    Attributes:
        value: a Ritz value, (R,); NaN where a product was not finite.
        residual: an eigenvalue is no further than this from the value, (R,).
        vector: the unit vector that belongs to it, (R, P).
    """

    value: Tensor
    residual: Tensor
    vector: Tensor


def lanczos(
    product: Callable[[Tensor], Tensor], start: Tensor, *, ends_early: bool = False
) -> Ritz:
    """Lanczos' method from unit vectors (R, P), one for each matrix, in up to 16 products.

    With `ends_early` it may end at an eigenvalue that is not the largest: what is larger may still
    be hidden in the start.

    Source: Golub and Van Loan, Matrix Computations (4th ed. 2013), section 10.1. Differs from the
    source in: 1. every vector is orthogonalised against all others, twice; 2. with `ends_early` it
    ends where all residuals are a hundredth of their values, but not before 4 products.
    """
    runs, size = start.shape
    basis = images = start.new_zeros(runs, 0, size)
    vector = start
    for step in range(1, min(size, MOST_STEPS) + 1):
        image = product(vector)
        basis = torch.cat([basis, vector.unsqueeze(1)], 1)
        images = torch.cat([images, image.unsqueeze(1)], 1)
        found = _ritz(basis, images)
        if (
            ends_early
            and step >= FEWEST_STEPS
            and not bool((found.residual > NEAR * found.value).any())
        ):
            break
        vector, _ = _further(image, basis)
    return found


class Ends(NamedTuple):
    """Both ends of the spectra of R matrices, (R,); NaN where products were not finite.

    Attributes:
        low: the smallest one.
        high: the largest one.
        residual: eigenvalues are no further than this from either.
        products: how many were made.
    """

    low: Tensor
    high: Tensor
    residual: Tensor
    products: int


def ends(
    product: Callable[[Tensor], Tensor], start: Tensor, *, tolerance: float, most: int
) -> Ends:
    """Both ends of the spectra by Lanczos' method, until the residuals of all runs are small.

    Args:
        product: v to A v, (R, P) to (R, P).
        start: unit vectors (R, P) that nothing is known of: what they are orthogonal to is not
            found.
        tolerance: of residuals, relative to the larger of the two in size.
        most: products; P of them find the ends whatever the tolerance, but for rounding.

    Source: as `lanczos`. Differs from the source in: 1. every vector is orthogonalised against all
    others, twice; 2. where the vectors of a run span all that its start leads to, what follows is
    zero, and stands for a value within the spectrum.
    """
    runs, size = start.shape
    basis, vector = start.new_empty(runs, min(size, MOST_STEPS), size), start
    diagonal, beside = start.new_zeros(2, runs, 0)
    due = FEWEST_STEPS
    for step in range(1, min(size, most) + 1):
        if step > basis.shape[1]:
            basis = torch.cat([basis, torch.empty_like(basis)], 1)
        basis[:, step - 1] = vector
        image = product(vector)
        along = (vector * image).sum(1, keepdim=True)
        diagonal = torch.cat([diagonal, along], 1)
        vector, length = _further(image, basis[:, :step])
        spent = length <= SPENT * torch.cat([diagonal, beside], 1).abs().amax(1, keepdim=True)
        # a value within the spectrum, in the place of an eigenvalue zero that the matrix may lack
        idle = (basis[:, step - 1] == 0).all(1)
        diagonal[:, -1] = torch.where(idle, diagonal[:, 0], diagonal[:, -1])
        vector = vector.masked_fill(spent, 0.0)
        beside = torch.cat([beside, length.masked_fill(spent, 0.0)], 1)
        if step in (due, min(size, most)):
            found = _ends(diagonal, beside, step)
            scale = torch.maximum(found.low.abs(), found.high.abs())
            if not bool((found.residual > tolerance * scale).any()):
                break
            due = step + max(FEWEST_STEPS, step // 4)
    return found


def _ends(diagonal: Tensor, beside: Tensor, products: int) -> Ends:
    """Of tridiagonal matrices, whose last entry beside the diagonal leads out of them."""
    bad = ~(diagonal.isfinite().all(1) & beside.isfinite().all(1))
    diagonal, beside = (x.masked_fill(bad.unsqueeze(1), 0.0) for x in (diagonal, beside))
    inner = beside[:, :-1]
    matrix = torch.diag_embed(diagonal) + sum(torch.diag_embed(inner, o) for o in (-1, 1))
    values, vectors = torch.linalg.eigh(matrix)
    residual = beside[:, -1] * vectors[:, -1, [0, -1]].abs().amax(1)
    low, high = (values[:, i].masked_fill(bad, math.nan) for i in (0, -1))
    return Ends(low, high, residual.masked_fill(bad, math.nan), products)


def _further(image: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """What of vectors (R, P) lies outside of a basis (R, k, P), of length one, and its length."""
    for _ in range(2):  # once leaves what rounding made of the parts that it took away
        image = image - (basis.mT @ (basis @ image.unsqueeze(2))).squeeze(2)
    length = image.norm(dim=1, keepdim=True)
    return image / torch.where(length > 0, length, torch.ones_like(length)), length


def _ritz(basis: Tensor, images: Tensor) -> Ritz:
    """From orthonormal vectors, or zeros, (R, k, P), and their products with the matrix."""
    bad = ~images.flatten(1).isfinite().all(1)
    basis, images = (x.masked_fill(bad.reshape(-1, 1, 1), 0.0) for x in (basis, images))
    small = basis @ images.mT
    values, vectors = torch.linalg.eigh(0.5 * (small + small.mT))
    value, weights = values[:, -1], vectors[:, :, -1:]
    vector = basis.mT @ weights
    off = (images.mT @ weights - value.reshape(-1, 1, 1) * vector).squeeze(2)
    return Ritz(value.masked_fill(bad, math.nan), off.norm(dim=1), vector.squeeze(2))
