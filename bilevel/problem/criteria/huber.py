"""A regression loss for targets with outliers."""

import dataclasses
import math
from typing import Any

from torch import Tensor
from typing_extensions import override

from bilevel.core.optional import extra
from bilevel.errors import ArgumentError, spell
from bilevel.problem.criteria.base import AbstractCriterion, RowCurvature
from bilevel.problem.criteria.squared_error import SquaredError, difference


@dataclasses.dataclass(frozen=True, eq=False)
class HuberLoss(AbstractCriterion):
    r"""Squared near the target, absolute far from it.

    $$
    c(u, t) = \tfrac12 r^2 \text{ where } |r| \le \delta, \text{ else }
    \delta\,(|r| - \tfrac12\delta), \qquad r = u - t
    $$

    Outliers pull with a force of at most $\delta$. For K outputs the losses are added up. Its
    second derivative is 1 or 0 and jumps: heads that have rows exactly at the jump are still
    unique, with a penalty, but have no derivative.

    Metrics: `mse` and `r2` as those of `SquaredError`, and `mae`, the mean over rows of $|r|$,
    summed over outputs.

    Args:
        delta: where it changes, positive, in the units of the targets.

    Raises:
        ArgumentError: `delta` is not positive and finite.

    Source: Huber, Robust Estimation of a Location Parameter (1964). Differs from the source in:
    None.

    Examples:
        >>> import torch
        >>> from bilevel import HuberLoss
        >>> HuberLoss(1.0).rows(torch.tensor([0.5, 3.0]), torch.tensor([0.0, 0.0]))
        tensor([0.1250, 2.5000])
    """

    delta: float = 1.0

    largest_curvature = 1.0
    by_output = True

    def __post_init__(self) -> None:
        real = isinstance(self.delta, int | float) and not isinstance(self.delta, bool)
        largest = math.inf if isinstance(self.delta, float) else 2**53  # of tensors' integers
        if not (real and 0 < self.delta < largest):
            raise ArgumentError(f"`delta` must be a positive number, got {spell(self.delta)}.")

    def rows(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """The losses, summed over outputs."""
        # r clamped times the rest of r is 1/2 r^2 inside, and has the right derivative everywhere
        off = difference(predictions, targets)
        inner = off.clamp(-self.delta, self.delta)
        losses = inner * (off - 0.5 * inner)
        return losses if losses.ndim == 1 else losses.sum(-1)

    @override
    def metrics(self, predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
        sizes = difference(predictions, targets).abs()
        sizes = sizes if sizes.ndim == 1 else sizes.sum(-1)
        return {**SquaredError().metrics(predictions, targets), "mae": sizes.mean()}

    def check_targets(self, targets: Tensor, outputs: int | None) -> None:
        """As those of `SquaredError`."""
        SquaredError().check_targets(targets, outputs)

    def slope(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """r, clipped at -delta and delta."""
        return difference(predictions, targets).clamp(-self.delta, self.delta)

    def curvature(self, predictions: Tensor, targets: Tensor) -> RowCurvature:
        """1 where |r| <= delta, else 0 (a generalised derivative)."""
        inside = difference(predictions, targets).abs() <= self.delta
        return RowCurvature(inside.to(predictions.dtype))

    @override
    def majorant(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return self.delta / difference(predictions, targets).abs().clamp(min=self.delta)

    def atom(self, predictions: Any, targets: Any) -> Any:
        """`cvxpy.huber`, halved, summed over outputs."""
        cvxpy = extra("cvxpy", "cvxpy", "An atom of HuberLoss")
        losses = 0.5 * cvxpy.huber(predictions - targets, self.delta)
        return losses if losses.ndim == 1 else cvxpy.sum(losses, axis=1)
