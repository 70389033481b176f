"""What class labels must look like."""

import torch
from torch import Tensor

from bilevel.errors import DataError, ShapeError


def check_labels(targets: Tensor, classes: int, remedy: str) -> None:
    """Raise unless they are int64 labels (n,) from 0 to `classes` - 1.

    `remedy` is what the message says about labels outside.
    """
    if targets.dtype != torch.int64:
        fractions = targets.is_floating_point() and bool((targets != targets.round()).any())
        conversion = (
            "They hold fractions, so they are no labels: use SquaredError() for regression."
            if fractions
            else "Convert them with `.long()`, NumPy arrays with `.astype('int64')`."
        )
        raise DataError(f"Class labels must be int64, got {targets.dtype}. {conversion}")
    if targets.ndim != 1:
        raise ShapeError(
            f"Class labels must have shape (n,), got {tuple(targets.shape)}. One-hot targets "
            "become labels with `.argmax(1)`."
        )
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= classes:
        raise DataError(
            f"Class labels must lie between 0 and {classes - 1}, but they go from {low} to {high}. "
            f"{remedy}"
        )


def check_variety(targets: Tensor) -> None:
    """Raise if all training labels are the same."""
    if bool((targets == targets[0]).all()):
        raise DataError(
            f"All {len(targets)} training labels are {int(targets[0])}: with one class only there "
            "is nothing to learn. Check the split; shuffle rows that are sorted by class."
        )


def check_shapes(predictions: Tensor, targets: Tensor, outputs: str) -> None:
    """Raise unless there is one label for each row of predictions, as `outputs` promises."""
    if targets.shape != predictions.shape[:1]:
        raise ShapeError(
            f"Predictions {tuple(predictions.shape)} do not fit labels {tuple(targets.shape)}: "
            f"labels are (n,), and the problem needs `outputs = {outputs}`."
        )
