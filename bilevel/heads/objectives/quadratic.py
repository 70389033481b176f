"""g of a linear head with squared error: known by its Hessian and its moment."""

import functools

import torch
from torch import Tensor
from typing_extensions import override

from bilevel.heads.objectives.base import AbstractObjective, Place
from bilevel.heads.objectives.linear import LARGEST_BLOCK
from bilevel.linear.cholesky import EPS


class QuadraticObjective(AbstractObjective):
    """1/2 theta' H theta - b' theta, on vectors that hold the head output by output.

    Args:
        matrix: H, (R, J, M, M): J = 1, or one matrix for each output.
        moment: b, (R, M, K).
        outputs: K, None for a head without an axis of outputs.
    """

    def __init__(self, matrix: Tensor, moment: Tensor, outputs: int | None) -> None:
        self.matrix, self.outputs = matrix, outputs
        self.moment = moment.mT.contiguous()  # (R, K, M)
        self.whole = matrix.shape[-1] <= LARGEST_BLOCK
        self.blocks = (outputs or 1) if self.whole else moment[0].numel()

    @override
    def vector(self, head: Tensor) -> Tensor:
        return (head.double() if self.outputs is None else head.double().mT).flatten(1)

    @override
    def head(self, vectors: Tensor) -> Tensor:
        columns = self._columns(vectors)
        return columns[:, 0] if self.outputs is None else columns.mT.contiguous()

    @override
    def at(self, point: Tensor) -> Place:
        slope = self.product(None, point) - self.moment.flatten(1)
        return Place(point, slope, point[:, :0])

    @override
    def value(self, place: Place) -> Tensor:
        value: Tensor = 0.5 * (place.point * (place.slope - self.moment.flatten(1))).sum(1)
        return value

    def product(self, place: Place | None, vectors: Tensor) -> Tensor:
        """H v, which is the same everywhere."""
        return _times(self.matrix, self._columns(vectors)).to(vectors.dtype)

    def hessian(self, place: Place, dtype: torch.dtype) -> Tensor:
        """A matrix for each output, or the diagonal where they are large."""
        if not self.whole:
            diagonal = self.matrix.diagonal(dim1=2, dim2=3).to(dtype)
            return diagonal.expand_as(self.moment).reshape(len(diagonal), -1, 1, 1)
        return self.matrix.to(dtype).expand(-1, self.outputs or 1, -1, -1)

    @override
    def take(self, which: Tensor | slice) -> "QuadraticObjective":
        return QuadraticObjective(self.matrix[which], self.moment[which].mT, self.outputs)

    def rounding(self, place: Place) -> Tensor:
        """Of the terms that cancel in H theta - b."""
        terms = _times(self._sizes, self._columns(place.point).abs()) + self.moment.abs().flatten(1)
        return EPS * (self.matrix.shape[-1] + 10) * terms.amax(1)

    @functools.cached_property
    def _sizes(self) -> Tensor:
        return self.matrix.abs()

    def _columns(self, vectors: Tensor) -> Tensor:
        return vectors.reshape(len(vectors), self.outputs or 1, -1)


def _times(matrix: Tensor, columns: Tensor) -> Tensor:
    """H v by output: (R, J, M, M) times (R, K, M), flattened; J is 1 or K."""
    if matrix.shape[1] == 1:
        return (columns.double() @ matrix[:, 0].mT).flatten(1)
    return (matrix @ columns.double().unsqueeze(3)).flatten(1)
