"""Where on the boundary of a set a minimiser lies."""

from typing import NamedTuple

from torch import Tensor

from bilevel import trees
from bilevel.trees import Tree


class Face(NamedTuple):
    """The part of a set that a point is pushed to, R runs, all numbers of a run as a vector.

    A Newton step d from x stays on it to first order: d = value - x where a number is held, and
    normal'd = gap on the others. Its Hessian has `shift` added for the curvature of the boundary.

    Attributes:
        free: which numbers are not held, (R, P).
        value: what those that are held are equal to, (R, P).
        normal: of a further boundary, zero on what is held; zero in runs inside of it, (R, P).
            None: there is no such boundary.
        gap: how far along the normal that boundary is, (R,).
        shift: the multiplier of a boundary |x|^2 / 2 = constant, (R,); None for flat boundaries.
    """

    free: Tensor
    value: Tensor
    normal: Tensor | None = None
    gap: Tensor | None = None
    shift: Tensor | None = None


def flat_pair(tree: Tree, slope: Tree, step: Tensor) -> tuple[Tensor, Tensor]:
    """Points and where a step of length `step` (R,) against the slope leads to, (R, P)."""
    points = trees.flatten(tree)
    return points, points - step.unsqueeze(1) * trees.flatten(slope)
