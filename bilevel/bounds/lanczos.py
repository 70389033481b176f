"""The largest eigenvalue of a symmetric matrix that is known by its products."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

MOST_STEPS, FEWEST_STEPS = 16, 4
NEAR = 1e-2
"""A residual, relative to its Ritz value, at which no further steps are made."""


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
        for _ in range(2):  # once leaves what rounding made of the parts that it took away
            image = image - (basis.mT @ (basis @ image.unsqueeze(2))).squeeze(2)
        length = image.norm(dim=1, keepdim=True)
        vector = image / torch.where(length > 0, length, torch.ones_like(length))
    return found


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
