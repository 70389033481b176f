"""The loss of K classes."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from bilevel.core.optional import extra
from bilevel.errors import ShapeError
from bilevel.problem.criteria.base import AbstractCriterion, RowCurvature
from bilevel.problem.criteria.class_weights import (
    ClassWeights,
    check_count,
    set_weights,
    weighted,
)
from bilevel.problem.criteria.labels import check_labels, check_shapes, check_variety


@dataclasses.dataclass(frozen=True, eq=False)
class SoftmaxLoss(AbstractCriterion):
    r"""Minus the log probability of a label of K classes.

    $$c(u, y) = \log \sum_k e^{u_k} - u_y$$

    Never overflows. Targets are int64 (n,) in 0 ... K - 1, `outputs` is K, the head (M, K). The
    probabilities are $\operatorname{softmax}(u)$. Adding one number to all $u$ of a row changes
    nothing, so without a penalty the head is not unique.

    Args:
        class_weights: what the losses of rows with the label 0, ..., K - 1 are multiplied with,
            positive; None: 1. As with scikit-learn's `class_weight`, and unlike torch's `weight`,
            g is divided by the number of rows all the same. `n / (K * torch.bincount(labels))`,
            of the n training labels, balances the classes.

    Metrics: `cross_entropy`, the mean over rows in nats, without class weights; `accuracy`, the
    fraction of rows whose largest prediction is that of the label (the first one, where several
    are equal).

    Raises:
        ArgumentError: a weight is not positive and finite.
        ShapeError: where a problem uses it: there are not K of them.

    Source: arXiv 2605.15530, equation (11), for K classes. Differs from the source in: class
    weights.

    Examples:
        >>> import torch
        >>> from bilevel import SoftmaxLoss
        >>> SoftmaxLoss().rows(torch.tensor([[0.0, 0.0], [10000.0, 0.0]]), torch.tensor([0, 1]))
        tensor([6.9315e-01, 1.0000e+04])
    """

    class_weights: ClassWeights = None

    largest_curvature = 0.5
    # the third cumulant of a variable that ranges over at most sqrt(2), as |v| = 1 allows
    curvature_change = math.sqrt(8) / (6 * math.sqrt(3))
    shift_invariant = True

    def __post_init__(self) -> None:
        set_weights(self)

    @override
    def rows(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return weighted(self.class_weights, _losses(predictions, targets), targets)

    def metrics(self, predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """`cross_entropy` and `accuracy`."""
        losses = _losses(predictions, targets)
        right = predictions.argmax(1) == targets
        return {"cross_entropy": losses.mean(), "accuracy": right.to(losses.dtype).mean()}

    def check_targets(self, targets: Tensor, outputs: int | None) -> None:
        """int64 labels 0 ... K - 1, for a head with K >= 2 outputs."""
        if outputs is None or outputs < 2:
            raise ShapeError(
                f"SoftmaxLoss has a prediction for each class: set `outputs` to the number of "
                f"classes, not {outputs}, or use LogisticLoss() for two classes and one prediction."
            )
        remedy = "Count them from 0, or set `outputs` to the number of classes."
        check_labels(targets, outputs, remedy)
        check_count(self, outputs)

    def check_training(self, targets: Tensor, outputs: int | None) -> None:
        """At least two classes must be there."""
        check_variety(targets)

    @override
    def slope(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return self._slope(predictions, targets)[0]

    @override
    def slope_and_rows(
        self, predictions: Tensor, targets: Tensor
    ) -> tuple[Tensor | None, Callable[[], Tensor] | None]:
        kind = type(self)
        if kind.slope is not SoftmaxLoss.slope or kind.rows is not SoftmaxLoss.rows:
            return super().slope_and_rows(predictions, targets)  # another loss, made of this one
        return self._slope(predictions, targets)

    def curvature(self, predictions: Tensor, targets: Tensor) -> RowCurvature:
        """s (diag(p) - p p') with p = softmax(u), s the weight of the class."""
        powers = _powers(predictions)
        shares = powers.div_(powers.sum(1, keepdim=True))  # quicker than `torch.softmax`
        return RowCurvature(
            weighted(self.class_weights, shares, targets),
            weighted(self.class_weights, shares, targets, 0.5),
        )

    @override
    def curvature_of_slope(self, slopes: Tensor, targets: Tensor) -> RowCurvature | None:
        kind = type(self)
        own = kind.slope is SoftmaxLoss.slope and kind.curvature is SoftmaxLoss.curvature
        if self.class_weights is not None or not own:
            return None
        column = targets.unsqueeze(1)  # slopes are p, less one of the row's class
        shares = slopes.scatter_add_(1, column, torch.ones_like(column, dtype=slopes.dtype))
        return RowCurvature(shares, shares)

    def _slope(self, predictions: Tensor, targets: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
        """The slope, and what makes the losses."""
        _check(predictions, targets)
        column, largest = targets.unsqueeze(1), predictions.amax(1, keepdim=True)
        powers = (predictions - largest).exp_()
        own = powers.gather(1, column)
        powers.scatter_(1, column, 0.0)
        others = powers.sum(1, keepdim=True)
        total = own.add_(others)

        def losses() -> Tensor:
            against = others.log() + (largest - predictions.gather(1, column))
            made = -torch.nn.functional.logsigmoid(-against).squeeze(1)
            return weighted(self.class_weights, made, targets)

        # 1 - p_y as the sum of the others loses no digits where p_y is close to 1
        slope = powers.scatter_(1, column, -others).div_(total)
        return weighted(self.class_weights, slope, targets), losses

    @override
    def rising(self, targets: Tensor, outputs: int | None) -> Tensor:
        return targets.unsqueeze(1) != torch.arange(outputs or 1, device=targets.device)

    @override
    def atom(self, predictions: Any, targets: Any) -> Any:
        cvxpy = extra("cvxpy", "cvxpy", "An atom of SoftmaxLoss")
        classes = torch.eye(predictions.shape[1], dtype=torch.float64).numpy()
        own = cvxpy.sum(cvxpy.multiply(classes[targets], predictions), axis=1)
        losses = cvxpy.log_sum_exp(predictions, axis=1) - own
        if self.class_weights is None:
            return losses
        return cvxpy.multiply(np.array(self.class_weights)[targets], losses)


def _losses(predictions: Tensor, targets: Tensor) -> Tensor:
    """log(1 + e^v), v = log sum_{k not y} e^(u_k - u_y)."""
    _check(predictions, targets)
    column = targets.unsqueeze(1)
    others = predictions - predictions.gather(1, column)
    others = others.scatter(1, column, -torch.inf)
    return -torch.nn.functional.logsigmoid(-torch.logsumexp(others, 1))


def _powers(predictions: Tensor) -> Tensor:
    """e^u, the largest of each row made 1."""
    return (predictions - predictions.amax(1, keepdim=True)).exp_()


def _check(predictions: Tensor, targets: Tensor) -> None:
    if predictions.ndim != 2:
        raise ShapeError(
            f"SoftmaxLoss needs predictions (n, K), got {tuple(predictions.shape)}: set `outputs` "
            "to the number of classes."
        )
    check_shapes(predictions, targets, "K")
