"""low <= theta <= high for heads as vectors."""

from typing import NamedTuple

import torch
from torch import Tensor

from bilevel import trees
from bilevel.errors import IncompatibleError
from bilevel.heads.objectives.base import AbstractObjective
from bilevel.problem.sets import ConvexSet, Everywhere
from bilevel.trees import Tree

ROUNDING = 4 * torch.finfo(torch.float64).eps
"""A number that comes so near to its bound, relative to itself and its step, is at it."""


class Bounds(NamedTuple):
    """Bounds of vectors (R, P), float64; infinite where there is none."""

    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, convex: ConvexSet, head: Tree, objective: AbstractObjective) -> "Bounds":
        """Those of a set, in the order of the objective's vectors.

        Args:
            convex: a set with the hook `bounds`, or everywhere.
            head: any heads, for their shapes, leaves (R, ...).
            objective: which knows the order.

        Raises:
            IncompatibleError: the set has no bounds for such heads.
        """
        double = trees.cast(head, torch.float64)
        if isinstance(convex, Everywhere):
            nothing = torch.full_like(objective.vector(double), torch.inf)
            return cls(-nothing, nothing)
        found = convex.bounds(double)
        if found is None:
            raise no_bounds(convex)

        def whole(bound: Tree) -> Tree:
            return trees.tree_map(lambda leaf, x: x.to(leaf).expand_as(leaf), double, bound)

        return cls(*(objective.vector(whole(bound)) for bound in found))

    def clip(self, vectors: Tensor) -> Tensor:
        """The nearest vectors within the bounds."""
        return torch.minimum(torch.maximum(vectors, self.low), self.high)

    def moved(self, point: Tensor, step: Tensor) -> Tensor:
        """point + step, clipped; what is off its bound by rounding only is set to it."""
        landed, slack = point + step, ROUNDING * (point.abs() + step.abs())
        landed = torch.where(landed <= self.low + slack, self.low, landed)
        return torch.where(landed >= self.high - slack, self.high, landed)

    def projected(self, point: Tensor, slope: Tensor) -> Tensor:
        """The slope, but for what pushes a number at its bound outwards: zero at a minimiser."""
        slope = torch.where(point <= self.low, slope.clamp(max=0), slope)
        return torch.where(point >= self.high, slope.clamp(min=0), slope)

    def held(self, point: Tensor, slope: Tensor, curvature: Tensor | None = None) -> Tensor:
        """The numbers that are at a bound and pushed there, (R, P), or fixed by their bounds.

        With a curvature also those between bounds that a step slope / curvature takes to one.
        """
        held = ((point <= self.low) & (slope > 0)) | ((point >= self.high) & (slope < 0))
        if curvature is not None:
            landed = point - slope / curvature
            held = held | (~self.met(point) & ((landed <= self.low) | (landed >= self.high)))
        return held | (self.low == self.high)

    def met(self, point: Tensor) -> Tensor:
        """The numbers that are at a bound, (R, P)."""
        return (point <= self.low) | (point >= self.high)

    def first(self, point: Tensor, way: Tensor) -> Tensor:
        """The smallest t > 0 at which a number of point + t way comes to its bound, (R,)."""
        room = torch.where(way > 0, self.high, self.low) - point
        times = torch.where(room * way > 0, room / way, torch.inf)
        return times.amin(1)


def no_bounds(convex: ConvexSet) -> IncompatibleError:
    """The error for sets that are no bounds."""
    return IncompatibleError(
        "ProjectedNewton keeps each number of a head between bounds, and "
        f"{type(convex).__name__} is no such set: its `bounds` are None. Use Cvxpy() for heads "
        "that are linear in features, or FastSGD(lr, steps, tolerance=...), which projects."
    )
