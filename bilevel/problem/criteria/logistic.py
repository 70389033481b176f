"""The loss of two classes."""

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from bilevel.core.optional import extra
from bilevel.errors import ShapeError
from bilevel.problem.criteria.base import AbstractCriterion, RowCurvature
from bilevel.problem.criteria.class_weights import ClassWeights, set_weights, weighted
from bilevel.problem.criteria.labels import check_labels, check_shapes, check_variety


@dataclasses.dataclass(frozen=True, eq=False)
class LogisticLoss(AbstractCriterion):
    r"""Minus the log probability of a label 0 or 1.

    $$c(u, y) = \log(1 + e^u) - y u$$

    Computed as $\log(1 + e^{-s u})$ with $s = 2y - 1$, in a form that never overflows and loses no
    digits. Targets are int64 (n,), `outputs` is None, the head (M,). The probability of class 1 is
    sigmoid(u).

    Args:
        class_weights: what the losses of rows with the label 0 and with 1 are multiplied with,
            positive; None: 1. g is divided by the number of rows all the same. torch's
            `pos_weight` is (1, w); balanced ones are in `SoftmaxLoss`.

    Metrics: `cross_entropy`, the mean over rows in nats, without class weights; `accuracy`, the
    fraction of rows whose prediction has the sign of s (u = 0 counts as class 0).

    Raises:
        ArgumentError: a weight is not positive and finite.
        ShapeError: there are not two of them.

    Source: arXiv 2605.15530, equation (11). Differs from the source in: class weights.

    Examples:
        >>> import torch
        >>> from bilevel import LogisticLoss
        >>> LogisticLoss().rows(torch.tensor([0.0, 10000.0]), torch.tensor([1, 0]))
        tensor([6.9315e-01, 1.0000e+04])
    """

    class_weights: ClassWeights = None

    largest_curvature = 0.25
    curvature_change = 1 / (6 * math.sqrt(3))

    def __post_init__(self) -> None:
        set_weights(self, 2)

    @override
    def rows(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return weighted(self.class_weights, _losses(predictions, targets), targets)

    def metrics(self, predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """`cross_entropy` and `accuracy`."""
        losses = _losses(predictions, targets)
        right = (predictions > 0) == (targets > 0)
        return {"cross_entropy": losses.mean(), "accuracy": right.to(losses.dtype).mean()}

    def check_targets(self, targets: Tensor, outputs: int | None) -> None:
        """int64 labels 0 and 1, for a head with one output."""
        if outputs is not None:
            raise ShapeError(
                f"LogisticLoss has one prediction for a row: set `outputs = None`, not {outputs}, "
                "or use SoftmaxLoss()."
            )
        remedy = "Labels -1 and 1 become 0 and 1 with `(y + 1) // 2`; "
        check_labels(targets, 2, remedy + "for more than two classes use SoftmaxLoss().")

    def check_training(self, targets: Tensor, outputs: int | None) -> None:
        """Both classes must be there."""
        check_variety(targets)

    def slope(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """sigmoid(u) - y, as -s sigmoid(-s u)."""
        sign = _signs(predictions, targets)
        return weighted(self.class_weights, -sign * torch.sigmoid(-sign * predictions), targets)

    @override
    def curvature(self, predictions: Tensor, targets: Tensor) -> RowCurvature:
        found = torch.sigmoid(predictions) * torch.sigmoid(-predictions)
        return RowCurvature(weighted(self.class_weights, found, targets))

    @override
    def rising(self, targets: Tensor, outputs: int | None) -> Tensor:
        return targets == 0

    @override
    def atom(self, predictions: Any, targets: Any) -> Any:
        cvxpy = extra("cvxpy", "cvxpy", "An atom of LogisticLoss")
        losses = cvxpy.logistic(cvxpy.multiply(1.0 - 2.0 * targets, predictions))
        if self.class_weights is None:
            return losses
        return cvxpy.multiply(np.array(self.class_weights)[targets], losses)


def _losses(predictions: Tensor, targets: Tensor) -> Tensor:
    return -torch.nn.functional.logsigmoid(_signs(predictions, targets) * predictions)


def _signs(predictions: Tensor, targets: Tensor) -> Tensor:
    """s: -1 and 1 for the labels 0 and 1."""
    check_shapes(predictions, targets, "None")
    if predictions.ndim != 1:
        raise ShapeError(
            f"LogisticLoss needs predictions (n,), got {tuple(predictions.shape)}: set "
            "`outputs = None`."
        )
    return (2 * targets - 1).to(predictions.dtype)
