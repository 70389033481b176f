"""The loss of two classes."""

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from bilevel.core.optional import extra
from bilevel.errors import ShapeError
from bilevel.problem.criteria.base import AbstractCriterion, RowCurvature
from bilevel.problem.criteria.labels import check_labels, check_shapes, check_variety


@dataclasses.dataclass(frozen=True, eq=False)
class LogisticLoss(AbstractCriterion):
    """log(1 + e^u) - y u for a prediction u and a label y in {0, 1}: -log of the probability of y.

    Computed as log(1 + e^(-s u)) with s = 2 y - 1, in a form that never overflows and loses no
    digits. Targets are int64 (n,), `outputs` is None, the head (M,). The probability of class 1 is
    sigmoid(u).

    Metrics: `cross_entropy`, the mean over rows in nats; `accuracy`, the fraction of rows whose
    prediction has the sign of s (u = 0 counts as class 0).

    Source: arXiv 2605.15530, equation (11). Differs from the source in: None.

    Examples:
        >>> import torch
        >>> from bilevel import LogisticLoss
        >>> LogisticLoss().rows(torch.tensor([0.0, 10000.0]), torch.tensor([1, 0]))
        tensor([6.9315e-01, 1.0000e+04])
    """

    largest_curvature = 0.25
    curvature_change = 1 / (6 * math.sqrt(3))

    @override
    def rows(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return -torch.nn.functional.logsigmoid(_signs(predictions, targets) * predictions)

    def metrics(self, predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """`cross_entropy` and `accuracy`."""
        losses = self.rows(predictions, targets)
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
        return -sign * torch.sigmoid(-sign * predictions)

    @override
    def curvature(self, predictions: Tensor, targets: Tensor) -> RowCurvature:
        return RowCurvature(torch.sigmoid(predictions) * torch.sigmoid(-predictions))

    @override
    def rising(self, targets: Tensor, outputs: int | None) -> Tensor:
        return targets == 0

    @override
    def atom(self, predictions: Any, targets: Any) -> Any:
        cvxpy = extra("cvxpy", "cvxpy", "An atom of LogisticLoss")
        return cvxpy.logistic(cvxpy.multiply(1.0 - 2.0 * targets, predictions))


def _signs(predictions: Tensor, targets: Tensor) -> Tensor:
    """s: -1 and 1 for the labels 0 and 1."""
    check_shapes(predictions, targets, "None")
    if predictions.ndim != 1:
        raise ShapeError(
            f"LogisticLoss needs predictions (n,), got {tuple(predictions.shape)}: set "
            "`outputs = None`."
        )
    return (2 * targets - 1).to(predictions.dtype)
