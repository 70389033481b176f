"""The ends of the spectra of symmetric matrices, and how far rounding may have moved them."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bilevel.linear.cholesky import EPS

NEAR = 3
"""How many times a lower bound on an eigenvalue may lie below it, to be taken in its place."""


class Spectrum(NamedTuple):
    """The ends of the spectra of R times J symmetric matrices, (R, J).

    Attributes:
        least: the smallest eigenvalue, as it was computed.
        low: less what rounding may have added.
        high: the largest one, and what rounding may have taken away.
    """

    least: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, matrix: Tensor, rows: int, terms: Tensor | None = None) -> "Spectrum":
        """Of (R, J, m, m), whose entries are sums over rows of terms with a trace of `terms`.

        None, or less: that of the matrix.
        """
        values = torch.linalg.eigvalsh(matrix)
        trace = matrix.diagonal(dim1=2, dim2=3).abs().sum(2)
        terms = trace if terms is None else torch.maximum(trace, terms)
        # the eigensolver is exact for a matrix within about m eps |H| of this one; a sum over rows
        # is off by rows eps times the sum of its sizes, and a norm is at most a trace
        slack = EPS * (matrix.shape[-1] * values.abs().amax(2) + (rows + 8) * terms)
        return cls(values.amin(2), values.amin(2) - slack, values.amax(2) + slack)

    def definite(self, size: int) -> Tensor:
        """Whether all m x m matrices of a run are positive definite, with room for rounding."""
        return (self.low > size * EPS * self.high).all(1)


class GramSpectrum:
    """The spectrum of Gram matrices that are kept, found when it is first asked for.

    Args:
        make: the ends, (R, 1).
        diagonal: of the matrices, (R, m).
    """

    def __init__(self, make: Callable[[], Spectrum], diagonal: Tensor) -> None:
        self._make, self.diagonal = make, diagonal

    @functools.cached_property
    def ends(self) -> Spectrum:
        """Of the matrices as they are."""
        return self._make()

    @functools.cached_property
    def trace(self) -> Tensor:
        """(R,), rounded up."""
        size = self.diagonal.shape[1]
        return self.diagonal.sum(1) * (1 + size * EPS)


class Penalised(NamedTuple):
    """Gram matrices G whose spectrum is kept, and the penalties that make H = G + diag(p) of them.

    Attributes:
        gram: of G.
        penalty: p, (R, J, m).
    """

    gram: GramSpectrum
    penalty: Tensor

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Bounds on the eigenvalues of H from below and from above, (R,): those of G and p apart.

        Source: Weyl's inequalities, Horn and Johnson, Matrix Analysis (2nd ed. 2013), theorem
        4.3.1. Differs from the source in: None.
        """
        ends, penalty = self.gram.ends, self.penalty.flatten(1)
        low = (ends.low.amin(1) + penalty.amin(1)) * (1 - 4 * EPS)
        high = (ends.high.amax(1) + penalty.amax(1)) * (1 + 4 * EPS)
        return low, high

    def near(self) -> tuple[Tensor, Tensor] | None:
        """The same where they are as good as eigenvalues; None: these may tell much more.

        The smallest eigenvalue is below each entry of the diagonal, and the largest one above half
        of its bound.
        """
        low, high = self.bounds()
        least = (self.gram.diagonal.unsqueeze(1) + self.penalty).amin((1, 2))
        least = torch.minimum(least, self.gram.ends.least.amin(1) + self.penalty.amax((1, 2)))
        # rounding that takes half of it is for eigenvalues of the scaled matrix to judge
        return (low, high) if bool(((low > 0) & (NEAR * low >= least)).all()) else None
