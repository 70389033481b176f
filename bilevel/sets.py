"""Convex sets and the Euclidean projection onto them."""

import abc
import dataclasses

import torch
from torch import Tensor

from bilevel import trees
from bilevel.errors import ArgumentError, IncompatibleError, ShapeError
from bilevel.trees import Tree


class ConvexSet(abc.ABC):
    """A closed convex set W or Theta that a level must stay in.

    A problem states its sets for one run; projections work on trees with a leading run axis.
    """

    @abc.abstractmethod
    def project(self, tree: Tree) -> Tree:
        """The nearest point of the set, per run.

        Args:
            tree: leaves of shape (R, ...).

        Returns:
            A tree of the same structure and shapes; points of the set come back unchanged.
        """

    def free(self, tree: Tree, direction: Tree) -> Tree | None:
        """Which coordinates stay off the boundary, for derivatives of a minimiser (a hook).

        Args:
            tree: points of the set, leaves (R, ...).
            direction: where they are pushed, such as the negative gradient there.

        Returns:
            A tree of booleans, False where a point is on the boundary and pushed outwards; None
            if every coordinate is free.

        Raises:
            IncompatibleError: the boundary is no coordinate plane.
        """
        raise IncompatibleError(
            f"Derivatives of a head on {type(self).__name__} are not available: its boundary is "
            "no coordinate plane. Use a Box, or the whole space with a penalty."
        )

    def check(self, tree: Tree) -> None:  # noqa: B027 - a hook: most sets fit any tree
        """Raise `ShapeError` if the set does not fit a tree of this shape (no run axis)."""


@dataclasses.dataclass(frozen=True, eq=False)
class Everywhere(ConvexSet):
    """The whole space: the projection is the identity."""

    def project(self, tree: Tree) -> Tree:
        """The tree itself."""
        return tree

    def free(self, tree: Tree, direction: Tree) -> None:
        """Every coordinate."""
        return None


@dataclasses.dataclass(frozen=True, eq=False)
class Box(ConvexSet):
    """low <= x <= high, entry by entry: the projection clips.

    Args:
        low: a float, or a tensor that broadcasts against every leaf of one run; may be -inf.
        high: the same; at least `low`; may be inf.

    Examples:
        >>> import torch
        >>> from bilevel import Box
        >>> Box(0.0, 1.0).project(torch.tensor([[-2.0, 0.5, 3.0]]))
        tensor([[0.0000, 0.5000, 1.0000]])
    """

    low: float | Tensor
    high: float | Tensor

    def __post_init__(self) -> None:
        low, high = torch.as_tensor(self.low), torch.as_tensor(self.high)
        if low.isnan().any() or high.isnan().any() or (low > high).any():
            raise ArgumentError(f"A box needs low <= high, got {self.low=} and {self.high=}.")

    def project(self, tree: Tree) -> Tree:
        """Clip every leaf."""

        def clip(leaf: Tensor) -> Tensor:
            low, high = self._bounds(leaf)
            return torch.minimum(torch.maximum(leaf, low), high)

        return trees.tree_map(clip, tree)

    def free(self, tree: Tree, direction: Tree) -> Tree:
        """All but those at a bound that are pushed beyond it."""

        def one(leaf: Tensor, push: Tensor) -> Tensor:
            low, high = self._bounds(leaf)
            return ~(((leaf <= low) & (push < 0)) | ((leaf >= high) & (push > 0)))

        return trees.tree_map(one, tree, direction)

    def _bounds(self, leaf: Tensor) -> tuple[Tensor, Tensor]:
        low = torch.as_tensor(self.low, dtype=leaf.dtype, device=leaf.device)
        high = torch.as_tensor(self.high, dtype=leaf.dtype, device=leaf.device)
        return low, high

    def check(self, tree: Tree) -> None:
        """Bounds that are tensors must broadcast against every leaf, without enlarging it."""
        for path, leaf in trees.named_leaves(tree):
            for name, bound in (("low", self.low), ("high", self.high)):
                shape = tuple(torch.as_tensor(bound).shape)
                try:
                    fits = torch.empty(shape).expand(leaf.shape).shape == leaf.shape
                except RuntimeError:
                    fits = False
                if not fits:
                    raise ShapeError(
                        f"Box.{name} has shape {shape}, which does not broadcast to the leaf "
                        f"{path or '(the tensor)'} of shape {tuple(leaf.shape)}. Give one number, "
                        "or bounds of that shape."
                    )


@dataclasses.dataclass(frozen=True, eq=False)
class Ball(ConvexSet):
    """|x| <= radius, the norm taken over all leaves together: x min(1, radius / |x|).

    Args:
        radius: positive.
    """

    radius: float

    def __post_init__(self) -> None:
        if not self.radius > 0:
            raise ArgumentError(f"A ball needs a positive radius, got {self.radius=}.")

    def project(self, tree: Tree) -> Tree:
        """Shrink the runs that lie outside."""
        norm = trees.norm(tree)
        # a run at the origin has norm 0: radius / 0 = inf, and the factor is 1
        factor = (self.radius / norm).clamp(max=1.0)
        return trees.tree_map(lambda leaf: leaf * trees.per_run(factor, leaf), tree)
