"""The targets of what a head was given, row by row."""

import torch
from torch import Tensor

from bilevel.errors import DataError, ShapeError


def flat(targets: Tensor, lead: torch.Size, outputs: int, *, labels: bool) -> Tensor:
    """Targets (n, K), or labels (n,), of a head that was given (*lead, M).

    Args:
        targets: (*lead), (*lead, K), or the same with one axis of rows.
        lead: all axes of the features but the last one; n of them together.
        outputs: K.
        labels: whether they are those of classes.

    Raises:
        ShapeError: they have another shape.
        DataError: labels with fractions.
    """
    n = lead.numel()
    alone, columns = [tuple(lead), (n,)], [(*lead, outputs), (n, outputs)]
    shapes = alone if labels else columns
    if outputs == 1:
        shapes = [*alone, *columns]
    if tuple(targets.shape) not in shapes:
        raise ShapeError(
            f"`targets` must have the shape {' or '.join(map(str, dict.fromkeys(shapes)))}, as the "
            f"head was given {n} rows in the shape {tuple(lead)}; got {tuple(targets.shape)}."
        )
    targets = targets.detach()
    if not labels:
        targets = targets if targets.is_floating_point() else targets.double()
        return targets.reshape(n, outputs)
    if targets.is_floating_point() and bool((targets != targets.round()).any()):
        raise DataError(f"`targets` must be labels of classes, got fractions of {targets.dtype}.")
    return targets.reshape(n).long()
