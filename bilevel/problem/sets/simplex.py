"""The set of weights."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.optional import extra
from bilevel.errors import ShapeError
from bilevel.problem.sets.base import ConvexSet, Derivative
from bilevel.problem.sets.face import Face, flat_pair
from bilevel.trees import Tree


@dataclasses.dataclass(frozen=True, eq=False)
class Simplex(ConvexSet):
    r"""$x \ge 0$ and $\sum_i x_i = 1$ over all numbers of all leaves together.

    The projection is $\max(x - t, 0)$ with the $t$ that makes the sum 1, found from the sorted
    numbers. A head of shape (M, K), or with a bias, is one vector of weights: its numbers sum to 1
    all together, not column by column.

    Source: Duchi, Shalev-Shwartz, Singer, Chandra, Efficient projections onto the l1-ball (2008),
    figure 1. Differs from the source in: 1. the largest number is subtracted first, so that no
    digits are lost far from the set.

    Examples:
        >>> import torch
        >>> from bilevel import Simplex
        >>> Simplex().project(torch.tensor([[0.5, 0.75, -1.0], [3.0, 3.0, 3.0]]))
        tensor([[0.3750, 0.6250, 0.0000],
                [0.3333, 0.3333, 0.3333]])
    """

    def project(self, tree: Tree) -> Tree:
        """Shift all numbers of a run by the same amount, and clip at zero."""
        flat = trees.flatten(tree)
        wide = flat.double()
        inside = (wide >= 0).all(1) & ((wide.sum(1) - 1).abs() <= rounding(flat))
        found = torch.where(inside.unsqueeze(1), flat, on_simplex(wide).to(flat.dtype))
        return trees.unflatten(found, tree)

    def linearised(self, tree: Tree) -> tuple[Tree, Derivative]:
        """On the k numbers that stay positive I - 1 1'/k, and 0 on the others."""
        projected = self.project(tree)

        def derivative(vector: Tree) -> Tree:
            kept = trees.flatten(projected).sign()
            return trees.unflatten(centred(trees.flatten(vector), kept), vector)

        return projected, derivative

    def check(self, tree: Tree) -> None:
        """There must be a number to be 1."""
        if sum(leaf.numel() for leaf in trees.leaves(tree)) == 0:
            raise ShapeError("Numbers of a Simplex sum to 1, but there are none.")

    def face(self, tree: Tree, slope: Tree, step: Tensor) -> Face:
        """The numbers that the projection sets to zero are held; the others sum to 1."""
        points, landed = flat_pair(tree, slope, step)
        free = self.project(landed) > 0
        gap = 1 - torch.where(free, points, 0.0).sum(1)
        return Face(free, torch.zeros_like(points), free.to(points.dtype), gap)

    def constraints(self, variable: Any) -> list[Any]:
        """variable >= 0, and the sum."""
        cvxpy = extra("cvxpy", "cvxpy", "The cvxpy form of Simplex")
        return [variable >= 0, cvxpy.sum(variable) == 1]


def on_simplex(points: Tensor) -> Tensor:
    """The nearest points with numbers >= 0 that sum to 1, row by row of (R, P), in float64."""
    # those that are smaller by 1 are zero however far they lie: nothing overflows
    shifted = (points - points.amax(1, keepdim=True)).clamp(min=-2)
    ordered = shifted.sort(dim=1, descending=True).values
    count = torch.arange(1, points.shape[1] + 1, dtype=points.dtype, device=points.device)
    excess = (ordered.cumsum(1) - 1) / count
    # the largest number always stays; those that do come first
    last = (ordered > excess).sum(1, keepdim=True).clamp(min=1) - 1
    return (shifted - excess.gather(1, last)).clamp(min=0)


def centred(vectors: Tensor, signs: Tensor) -> Tensor:
    """What is left of vectors (R, P) without zeros of `signs` and without their part along it."""
    count = signs.abs().sum(1, keepdim=True).clamp(min=1)
    return signs.abs() * vectors - signs * ((signs * vectors).sum(1, keepdim=True) / count)


def rounding(points: Tensor) -> float:
    """How far norms of rows (R, P), computed in float64, are off: relative to points projected.

    Entries are rounded once to their own type, which moves no norm by more than an entry.
    """
    return torch.finfo(points.dtype).eps + points.shape[1] * torch.finfo(torch.float64).eps
