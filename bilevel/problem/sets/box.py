"""Sets whose bounds are coordinate planes."""

import contextlib
import dataclasses
import math
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from bilevel import trees
from bilevel.core.arrays import tensor_of
from bilevel.core.checks import is_ordered, is_real
from bilevel.errors import ArgumentError, DataError, ShapeError, spell
from bilevel.problem.sets.base import ConvexSet
from bilevel.problem.sets.face import Face, flat_pair
from bilevel.trees import Tree


@dataclasses.dataclass(frozen=True, eq=False)
class Box(ConvexSet):
    r"""$\text{low} \le x \le \text{high}$, entry by entry: the projection clips.

    Args:
        low: a float, or a tensor that broadcasts against every leaf of one run; may be -inf.
        high: the same; at least `low`; may be inf.

    Raises:
        ArgumentError: a bound is NaN, or a low one is above its high one.

    Examples:
        >>> import torch
        >>> from bilevel import Box
        >>> Box(0.0, 1.0).project(torch.tensor([[-2.0, 0.5, 3.0]]))
        tensor([[0.0000, 0.5000, 1.0000]])
    """

    low: float | Tensor
    high: float | Tensor

    def __post_init__(self) -> None:
        low, high = (_limit(bound) for bound in (self.low, self.high))
        if low.isnan().any() or high.isnan().any() or (low > high).any():
            raise ArgumentError(f"A box needs low <= high, got {self.low=} and {self.high=}.")
        for name, limit in (("low", low), ("high", high)):
            if not isinstance(getattr(self, name), float | int | Tensor):
                object.__setattr__(self, name, limit)

    @override
    def project(self, tree: Tree) -> Tree:
        def clip(leaf: Tensor) -> Tensor:
            if _fits(self.low, leaf) and _fits(self.high, leaf):
                return leaf.clamp(self.low, self.high)  # the same in one operation
            low, high = _like(self.low, leaf), _like(self.high, leaf)
            return torch.minimum(torch.maximum(leaf, low), high)

        return trees.tree_map(clip, tree)

    @override
    def bounds(self, tree: Tree) -> tuple[Tree, Tree]:
        low = trees.tree_map(lambda leaf: _like(self.low, leaf), tree)
        return low, trees.tree_map(lambda leaf: _like(self.high, leaf), tree)

    def face(self, tree: Tree, slope: Tree, step: Tensor) -> Face:
        """Numbers that would leave the box are held at their bounds."""
        _, landed = flat_pair(tree, slope, step)
        projected = trees.flatten(self.project(trees.unflatten(landed, tree)))
        return Face(projected == landed, projected)

    def constraints(self, variable: Any) -> list[Any]:
        """Those of its bounds that are finite."""
        low, high = (
            np.broadcast_to(torch.as_tensor(bound, dtype=torch.float64).numpy(), variable.shape)
            for bound in (self.low, self.high)
        )
        return _above(variable, low) + _above(-variable, -high)

    def check(self, tree: Tree) -> None:
        """Bounds that are tensors must broadcast against every leaf, without enlarging it."""
        for path, leaf in trees.named_leaves(tree):
            for name, bound in (("low", self.low), ("high", self.high)):
                shape = tuple(torch.as_tensor(bound).shape)
                ends = zip(reversed(shape), reversed(leaf.shape), strict=False)
                if len(shape) > leaf.ndim or any(own not in (1, axis) for own, axis in ends):
                    raise ShapeError(
                        f"Box.{name} has shape {shape}, which does not broadcast to the leaf "
                        f"{path or '(the tensor)'} of shape {tuple(leaf.shape)}. Give one number, "
                        "or bounds of that shape."
                    )


@dataclasses.dataclass(frozen=True, eq=False)
class Nonnegative(Box):
    r"""$x \ge 0$, entry by entry: the projection is the positive part.

    Examples:
        >>> import torch
        >>> from bilevel import Nonnegative
        >>> Nonnegative().project(torch.tensor([[-2.0, 0.5, 3.0]]))
        tensor([[0.0000, 0.5000, 3.0000]])
    """

    low: float = dataclasses.field(default=0.0, init=False, repr=False)
    high: float = dataclasses.field(default=math.inf, init=False, repr=False)


def _like(bound: float | Tensor, leaf: Tensor) -> Tensor:
    """In the type of a leaf, without a graph; infinite where that holds no such number."""
    if _fits(bound, leaf):  # not `new_full`, which has the batch of a mapped leaf
        return torch.full((), bound, dtype=leaf.dtype, device=leaf.device)
    return torch.as_tensor(bound, dtype=torch.float64).detach().to(leaf)


def _fits(bound: float | Tensor, leaf: Tensor) -> TypeGuard[float]:
    """Whether it is a number, and one that the type of a leaf has."""
    if not isinstance(bound, float | int):
        return False
    return math.isinf(bound) or abs(bound) <= torch.finfo(leaf.dtype).max


def _limit(bound: Any) -> Tensor:
    """As a tensor, or an error."""
    if is_real(bound) or isinstance(bound, Tensor | np.ndarray | list | tuple):
        with contextlib.suppress(DataError, ShapeError):
            found = tensor_of(bound, "bound")
            if is_ordered(found) and found.numel():
                return found
    raise ArgumentError(f"The bounds of a box are numbers or tensors, got {spell(bound)}.")


def _above(variable: Any, low: np.ndarray) -> list[Any]:
    """variable >= low where low is finite; infinity is no number for a solver."""
    finite = np.isfinite(low)
    if finite.all():
        return [variable >= low]
    return [variable[finite] >= low[finite]] if finite.any() else []
