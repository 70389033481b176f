"""What rounding explains, and what it does not."""

from collections.abc import Sequence

import torch
from torch import Tensor


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal, NaN for NaN."""
    return bool(((one == other) | ((one != one) & (other != other))).all())


def apart(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference of some columns; 0 where rounding explains all of them.

    Half of the digits count, of a column's own size, and three quarters of the size of the largest:
    a column that is nearly zero beside others is rounding. What is finite on neither side is equal.
    """
    pairs = [
        (one.detach(), other.detach().to(one)) for one, other in zip(found, expected, strict=True)
    ]
    sizes = [float(other.nan_to_num(0, 0, 0).abs().amax()) for _, other in pairs]
    worst = 0.0
    for (one, other), size in zip(pairs, sizes, strict=True):
        unit = torch.finfo(one.dtype).eps
        gaps = (one - other).abs().nan_to_num(torch.inf)
        gap = float(gaps.where(one.isfinite() | other.isfinite(), 0).amax())
        if gap > unit**0.5 * size + unit**0.75 * max(sizes):
            worst = max(worst, gap)
    return worst
