"""Cholesky factors of R symmetric matrices at once, judged on the scale of their own diagonals.

A factorisation does not care about the scale of rows and columns: the factor of D H D is D times
that of H, with the same relative errors, so that features of any scale may stand side by side.
What must be scaled is the judgement: a pivot is what is left of its own diagonal entry, and what
is added to a singular matrix is a small part of each diagonal entry.
"""

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.status import Status

EPS = torch.finfo(torch.float64).eps
JITTERS = (1e-12, 1e-10, 1e-8, 1e-6, 1e-4)
"""Tried in turn, as multiples of each diagonal entry; more would change the problem."""


def factorise(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cholesky factors of (R, J, q, q), the matrices that were factored, and a code per run.

    A run that is numerically singular, its diagonal scaled to one, gets the smallest of `JITTERS`
    that makes its factorisation succeed, and the status `JITTERED`. Runs that are not finite, or so
    indefinite that none helps, give NaN and `DIVERGED`. Compiled code cannot try and look: all that
    fail are `DIVERGED`, and what is solved with their factors, which mean nothing, has to be made
    NaN (see `known`); `bilevel.training.compiled` repeats such a step eagerly.
    """
    factor, weak = positive_cholesky(matrix)
    status = torch.full((len(matrix),), int(Status.CONVERGED), device=matrix.device)
    if torch.compiler.is_compiling():  # no copy of factors to mark them: that takes longer than all
        return factor, matrix, status.masked_fill(weak, int(Status.DIVERGED))
    total = matrix.sum()  # no sum with a number that is not finite is: quicker than each of them
    if not bool(weak.any() | (total - total != 0)):
        return factor, matrix, status
    safe, bad = replace_bad(matrix)
    factor, weak = positive_cholesky(safe)
    status = status.masked_fill(weak, int(Status.JITTERED))
    for jitter in JITTERS:
        if not bool(weak.any()):
            break
        shifted = safe + torch.diag_embed(jitter * diagonal_sizes(safe) * weak.reshape(-1, 1, 1))
        factor, still = positive_cholesky(shifted)
        safe = torch.where((weak & ~still).reshape(-1, 1, 1, 1), shifted, safe)
        weak = weak & still
    nothing = bad | weak
    status = status.masked_fill(nothing, int(Status.DIVERGED))
    return factor.masked_fill(nothing.reshape(-1, 1, 1, 1), torch.nan), safe, status


def known(solution: Tensor, status: Tensor) -> Tensor:
    """A solution (R, ...), NaN where compiled code found no factor."""
    if not torch.compiler.is_compiling():
        return solution
    lost = status == int(Status.DIVERGED)
    return solution.masked_fill(lost.reshape(-1, *[1] * (solution.ndim - 1)), torch.nan)


def mended(cholesky: Tensor, bad: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The factors of the `bad` runs made by `factorise`, and which of them are not of their matrix.

    `cholesky` and `bad` are what `positive_cholesky` found; factors are changed in place.
    """
    if not bool(bad.any()):
        return cholesky, bad
    cholesky[bad], _, codes = factorise(matrix[bad])
    return cholesky, bad.index_put((bad,), codes != int(Status.CONVERGED))


def factorise_once(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`factorise` without a jitter: factors, NaN where there is none, and what was factored.

    Returns:
        Factors, matrices, and which runs are not finite and which numerically singular, (R,).
    """
    safe, bad = replace_bad(matrix)
    factor, weak = positive_cholesky(safe)
    return factor.masked_fill((bad | weak).reshape(-1, 1, 1, 1), torch.nan), safe, bad, weak


def positive_cholesky(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of (R, J, q, q), and which runs are not numerically positive definite, (R,).

    A pivot is positive if it is more than the rounding of its own diagonal entry.
    """
    factor, info = torch.linalg.cholesky_ex(matrix)
    pivots = factor.diagonal(dim1=2, dim2=3).square()
    limits = torch.finfo(matrix.dtype)
    rounding = matrix.shape[-1] * limits.eps * matrix.diagonal(dim1=2, dim2=3)
    large = (pivots > rounding.clamp(min=limits.tiny)).all(2)
    return factor, ~((info == 0) & large).all(1)


def replace_bad(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Runs that are not finite become the identity; which ones, (R,)."""
    bad = not_finite(matrix)
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return torch.where(bad.reshape(-1, 1, 1, 1), identity, matrix), bad


def not_finite(matrix: Tensor) -> Tensor:
    """Which runs have an entry that is not finite, (R,)."""
    return ~trees.finite(matrix)


def diagonal_sizes(matrix: Tensor) -> Tensor:
    """The diagonal of (R, J, q, q), (R, J, q); the largest entry where one is not positive."""
    diagonal = matrix.diagonal(dim1=2, dim2=3)
    largest = diagonal.abs().amax((1, 2), keepdim=True)
    return torch.where(diagonal > torch.finfo(matrix.dtype).tiny, diagonal, largest)


def diagonal_scales(matrix: Tensor) -> Tensor:
    """Powers of two near the roots of the diagonal of (R, J, q, q), (R, J, q).

    Dividing rows and columns by them is exact and leaves a diagonal between 1/2 and 2.
    """
    sizes = diagonal_sizes(matrix)
    sizes = torch.where(sizes > 0, sizes, torch.ones_like(sizes))
    return torch.ldexp(torch.ones_like(sizes), (0.5 * sizes.log2()).round())
