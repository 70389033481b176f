"""The ends of the spectra of symmetric matrices, and how far rounding may have moved them."""

from typing import NamedTuple

import torch
from torch import Tensor

from bilevel.linear.cholesky import EPS


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
