"""What the rows say of a linear head: slopes, losses and curvatures at its predictions U = Z theta.

With many rows and outputs a pass through the predictions takes as long as a multiplication, and
several times as long where it goes through memory. So rows are looked at in pieces, and each piece
is done with while it is in the cache.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bilevel.derivatives.linear_parts import LinearParts
from bilevel.problem.criteria import AbstractCriterion, RowCurvature

Losses = Callable[[], Tensor] | None
ALL = slice(None)
AT_ONCE = 2**16
"""Predictions of a run that are looked at together, so that they stay in cache."""


class Told(NamedTuple):
    """What slopes found at some predictions."""

    at: Tensor
    losses: list[Losses]  # of each piece
    slopes: Tensor | None  # in the type of products


class Passes:
    """All rows of R runs; predictions (R, n, K), heads as columns (R, M, K).

    Args:
        parts: of g, from `Oracles.linear_parts`.
        criterion: which knows its slope and its curvature.
        outputs: K, None for a head without an axis of outputs.
        bent: in this type slopes are kept for `curvature`; None: they are not.
    """

    def __init__(
        self,
        parts: LinearParts,
        criterion: AbstractCriterion,
        outputs: int | None,
        bent: torch.dtype | None = None,
    ) -> None:
        self.design, self.criterion, self.outputs = parts.design, criterion, outputs
        self.bent = bent
        self.count, targets = outputs or 1, parts.targets
        self.targets = targets.double() if targets.is_floating_point() else targets
        n = self.design.shape[1]
        # s_i, the same number for all, or (R, n, 1), or (R, n, K)
        columns = parts.columns
        self.weights = 1 / n if columns is None else columns.double() / n
        self.by_output = parts.by_output
        self._curved: tuple[Tensor, RowCurvature] | None = None
        self._told: list[Told] = []

    @functools.cached_property
    def double(self) -> Tensor:
        """The features in float64."""
        return self.design.double()

    @functools.cached_property
    def single(self) -> Tensor:
        """The features in float32."""
        return self.design.float()

    def features(self, dtype: torch.dtype) -> Tensor:
        """The features in one of the two types."""
        return self.double if dtype == torch.float64 else self.single

    def slopes(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Z'(s S), output by output (R, K, M), and the predictions: two products.

        In the type of the columns.
        """
        every = self.features(columns.dtype)
        predictions = columns.new_empty(*self.design.shape[:2], self.count)
        found, lost = torch.zeros_like(columns.mT), []
        slopes = (
            None if self.bent is None else predictions.new_empty(predictions.shape, dtype=self.bent)
        )
        for rows in self._pieces:
            design, here = every[:, rows], predictions[:, rows]
            torch.bmm(design, columns, out=here)
            told, losses = self.criterion.slope_and_rows(*self.flat(here, rows))
            lost.append(losses)
            assert told is not None
            slope = told.reshape(here.shape).to(here)
            if slopes is not None:
                slopes[:, rows] = slope
            if isinstance(self.weights, Tensor):
                slope = slope * self.weights[:, rows].to(slope)
            found.baddbmm_(slope.mT, design)
        made = Told(predictions, lost, slopes)
        self._told = [*self._told[-1:], made]  # where a step begins and ends
        return self._averaged(found), predictions

    def single_rounding(self) -> Tensor | None:
        """By how much an entry of the last slopes may be off in float32, (R,).

        Its rounding times the root mean squares of slopes and of the largest feature. None: slopes
        are not kept.
        """
        slopes = self._told[-1].slopes if self._told else None
        if slopes is None:
            return None
        norm = torch.linalg.vector_norm(slopes.flatten(1), dim=1) / self.count**0.5
        weights = self.weights.amax((1, 2)) if isinstance(self.weights, Tensor) else self.weights
        found: Tensor = torch.finfo(torch.float32).eps * weights * norm.double() * self._largest
        return found

    @functools.cached_property
    def _largest(self) -> Tensor:
        """The largest norm of a feature, (R,)."""
        found: Tensor = self.single.square().sum(1).amax(1).double().sqrt()
        return found

    @property
    def most(self) -> Tensor | float:
        """The largest weights of the rows, a number or (R, n, 1)."""
        weights = self.weights
        return weights.amax(2, keepdim=True) if isinstance(weights, Tensor) else weights

    def losses(self, predictions: Tensor) -> Tensor:
        """The loss of every row, (R, n, 1), or of its outputs where these have weights, (R, n, K).

        Of what the last two slopes found, or anew.
        """
        if self.by_output:
            return self.criterion.entries(*self.flat(predictions)).reshape(predictions.shape)
        unknown: list[Losses] = [None] * len(self._pieces)
        lost = next((told.losses for told in self._told if told.at is predictions), unknown)
        pairs = zip(self._pieces, lost, strict=True)
        found = [made() if made else self._losses_of(predictions, rows) for rows, made in pairs]
        return torch.cat([one.reshape(len(predictions), -1) for one in found], 1).unsqueeze(2)

    def _losses_of(self, predictions: Tensor, rows: slice) -> Tensor:
        """The losses of some rows of all runs, one run after the other."""
        return self.criterion.rows(*self.flat(predictions[:, rows], rows))

    def product(self, predictions: Tensor, columns: Tensor) -> Tensor:
        """sum_i s_i C_i (x) z_i z_i' times columns, (R, K, M), in their type: two products."""
        dtype = columns.dtype
        every, (diagonal, outer) = self.features(dtype), self.curvature(predictions, dtype)
        found = torch.zeros_like(columns.mT)
        spare = columns.new_empty(len(every), self._pieces[0].stop, self.count)
        for rows in self._pieces:
            design = every[:, rows]
            along = torch.bmm(design, columns, out=spare[:, : design.shape[1]])
            if isinstance(self.weights, Tensor):
                along.mul_(self.weights[:, rows])
            turned = along if diagonal is outer else diagonal[:, rows] * along
            if outer is not None:
                inner = along.mul_(outer[:, rows]).sum(2, keepdim=True)
                turned.addcmul_(outer[:, rows], inner, value=-1)
            found.baddbmm_(turned.mT, design)
        return self._averaged(found)

    def slope(self, predictions: Tensor, rows: slice = ALL) -> Tensor:
        """S at the predictions of some rows, shaped like them."""
        found = self.criterion.slope(*self.flat(predictions, rows))
        assert found is not None
        return found.reshape(predictions.shape)

    def curvature(self, predictions: Tensor, dtype: torch.dtype) -> RowCurvature:
        """C_i = diag(d_i) - f_i f_i' of all rows, (R, n, K) each; the last ones are kept."""
        kept = self._curved
        if kept is not None and kept[0] is predictions and kept[1].diagonal.dtype == dtype:
            return kept[1]
        made = self._bent_by_slopes(predictions, dtype) or self._curvature_anew(predictions, dtype)
        self._curved = predictions, made
        return made

    def _bent_by_slopes(self, predictions: Tensor, dtype: torch.dtype) -> RowCurvature | None:
        """The curvature of what the last two slopes found, which are used up by it."""
        for i, (at, losses, slopes) in enumerate(self._told):
            if at is predictions and slopes is not None and slopes.dtype == dtype:
                self._told[i] = Told(at, losses, None)
                flat = slopes.flatten(0, 1), self.targets.flatten(0, 1)
                found = self.criterion.curvature_of_slope(*flat)
                if found is None or found.outer is None:
                    return found
                return RowCurvature(found.diagonal.view_as(slopes), found.outer.view_as(slopes))
        return None

    def _curvature_anew(self, predictions: Tensor, dtype: torch.dtype) -> RowCurvature:
        """The curvature at predictions of which nothing is known."""
        found = [self._curvature_of(predictions[:, rows], rows, dtype) for rows in self._pieces]
        diagonal = _joined([one.diagonal for one in found])
        if found[0].outer is found[0].diagonal:  # as of softmax: a pass less, see `product`
            return RowCurvature(diagonal, diagonal)
        outer = [one.outer for one in found if one.outer is not None]
        return RowCurvature(diagonal, _joined(outer) if outer else None)

    def mean_curvature(self, predictions: Tensor, dtype: torch.dtype) -> Tensor:
        """sum_i s_i C_i / sum_i s_i, (R, K, K)."""
        diagonal, outer = self.curvature(predictions, dtype)
        assert outer is not None
        weights = self.weights.to(dtype) if isinstance(self.weights, Tensor) else None
        total = outer.new_zeros(len(outer), self.count, self.count)
        for rows in self._pieces:
            here, beside, own = outer[:, rows], outer[:, rows], diagonal[:, rows]
            if weights is not None:
                beside, own = here * weights[:, rows], own * weights[:, rows]
            total.baddbmm_(here.mT, beside, alpha=-1)
            total.diagonal(dim1=1, dim2=2).add_(own.sum(1))
        return total / (diagonal.shape[1] if weights is None else weights.sum(1, keepdim=True))

    @functools.cached_property
    def gram(self) -> Tensor:
        """Z'SZ, (R, M, M)."""
        if isinstance(self.weights, Tensor):
            return (self.double * self.weights).mT @ self.double
        return self.double.mT @ self.double * self.weights

    def flat(self, predictions: Tensor, rows: slice = ALL) -> tuple[Tensor, Tensor]:
        """Predictions of some rows, and the targets, of all runs, one run after the other."""
        flat = predictions.reshape(-1) if self.outputs is None else predictions.flatten(0, 1)
        targets = self.targets[:, rows].flatten(0, 1)
        return flat, targets.to(flat) if targets.is_floating_point() else targets

    def _curvature_of(self, predictions: Tensor, rows: slice, dtype: torch.dtype) -> RowCurvature:
        """C_i of some rows, (R, n, K) each."""
        shape = predictions.shape
        found = self.criterion.curvature(*self.flat(predictions.to(dtype), rows))
        assert found is not None
        diagonal, outer = found.diagonal.reshape(shape), found.outer
        if outer is None or outer is found.diagonal:
            return RowCurvature(diagonal, outer if outer is None else diagonal)
        return RowCurvature(diagonal, outer.reshape(shape))

    def _averaged(self, sums: Tensor) -> Tensor:
        """Sums over rows whose weights are all the same."""
        return sums if isinstance(self.weights, Tensor) else sums.mul_(self.weights)

    @functools.cached_property
    def _pieces(self) -> list[slice]:
        """Rows that are looked at together."""
        n = self.design.shape[1]
        count = max(1, round(n * self.count / AT_ONCE))  # batches of slices are multiplied slowly
        size = max(1, -(-n // count))
        return [slice(i, i + size) for i in range(0, n, size)]


def _joined(pieces: list[Tensor]) -> Tensor:
    """Pieces of the rows, one after the other."""
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)
