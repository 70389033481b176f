"""What rounding explains, and what it does not."""

from collections.abc import Sequence

import torch
from torch import Tensor


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal, NaN for NaN."""
    return bool(((one == other) | ((one != one) & (other != other))).all())


def apart(
    found: Sequence[Tensor], expected: Sequence[Tensor], like: Sequence[Tensor] | None = None
) -> float:
    """The largest difference of some tensors; 0 where rounding explains all of it.

    Half of the digits count, of a column's own size, and three quarters of the size of the largest:
    a column that is nearly zero beside others is rounding. What is finite on neither side is equal.

    Args:
        found: the tensors, each of some columns, (..., columns).
        expected: the same, from elsewhere.
        like: tensors whose columns have their sizes; None: `expected`.
    """
    sizes = [
        other.detach().nan_to_num(0, 0, 0).abs().flatten(0, -2).amax(0)
        for other in like or expected
    ]
    largest = max(float(size.max()) for size in sizes)
    worst = 0.0
    for one, other, size in zip(found, expected, sizes, strict=True):
        unit = torch.finfo(one.dtype).eps
        gaps = (one.detach() - other.detach().to(one)).abs().nan_to_num(torch.inf)
        gaps = gaps.where(one.isfinite() | other.isfinite(), 0)
        # another order of sums moves the last digits; layers blow that up, but not to half of them
        allowed = unit**0.5 * size.to(one) + unit**0.75 * largest
        worst = max(worst, float(gaps.where(gaps > allowed, 0).max()))
    return worst


def copies_apart(copies: Tensor, z: Tensor, row: int, count: int) -> float:
    """How far z of a row in a batch of copies is from its z among `count` rows, as `apart`.

    A row may have several vectors (one for each of its tokens), in a place of its own or among the
    first, second ... vectors of all rows.
    """
    each, width = len(z) // count, z.shape[1]
    if len(z) != each * count or len(copies) != each * (count + 1):
        return torch.inf
    blocks = copies.reshape(-1, each, width), z.reshape(-1, each, width)
    strides = copies.reshape(each, -1, width), z.reshape(each, -1, width)
    orders = ((blocks[0], blocks[1][[row]]), (strides[0], strides[1][:, [row]]))
    return min(apart([found], [expected.expand_as(found)], [z]) for found, expected in orders)


def nudged(value: Tensor) -> Tensor:
    """The numbers moved by their last digits, up and down, as rounding does; not integers."""
    if not value.is_floating_point():
        return value
    ways = torch.arange(value.numel()).cos().to(value).reshape(value.shape)
    return value * (1 + 2 * torch.finfo(value.dtype).eps * ways)


def doubled(value: Tensor) -> Tensor:
    """The same numbers in float64; integers as they are."""
    return value.double() if value.is_floating_point() else value
