"""Whether g is quadratic where heads are: gradients against those that a Hessian promises."""

from typing import NamedTuple

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.status import Status
from bilevel.derivatives.head_point import HeadPoint
from bilevel.linear.systems import PrimalSystem
from bilevel.trees import Tree

VANISHED = 1e-6
"""What is left of a gradient that vanishes, relative to what it was."""
ROUNDINGS = 1e3


class Landing(NamedTuple):
    """Where a quadratic head's system leads to.

    Attributes:
        head: leaves (R, ...).
        off: |d_theta g| there, (R,).
        agrees: whether that is zero as far as rounding can tell, (R,).
        solved: whether the Hessian could be factored as it is, (R,).
    """

    head: Tree
    off: Tensor
    agrees: Tensor
    solved: Tensor


def landing(point: HeadPoint, system: PrimalSystem, solution: tuple[Tensor, Tensor]) -> Landing:
    """The head that the Hessian at the point leads to, and whether it is a stationary point.

    If it is one, it is theta* of any convex g, and d_theta g(theta) = H (theta - theta*) holds at
    the point, whatever g is elsewhere. Nothing is asked of a singular Hessian, which leads nowhere:
    it is refused, or not certified, as such.

    Args:
        point: general heads, on the rows that g is meant on.
        system: at these heads.
        solution: of the system, and its status codes.
    """
    step, status = solution
    moved = trees.unflatten(step.squeeze(2).to(trees.leaves(point.head)[0].dtype), point.head)
    landed = point.at(trees.tree_map(torch.add, point.head, moved))
    before, off = (trees.norm(at.gradient()) for at in (point, landed))
    solved = status == int(Status.CONVERGED)
    floor = _rounding(point, landed, system.hessian.squeeze(1))
    apart = off > VANISHED * before + floor  # numbers that overflow say nothing of g
    return Landing(landed.head, off, ~apart | ~solved | ~trees.finite(landed.head), solved)


def deviation(point: HeadPoint, end: HeadPoint, hessian: Tensor) -> tuple[Tensor, Tensor]:
    """|d_theta g(end) - d_theta g - H (end - theta)|, and whether it may be rounding, (R,)."""
    before, after = (trees.flatten(at.gradient()).double() for at in (point, end))
    apart = trees.flatten(end.head).double() - trees.flatten(point.head).double()
    off = (after - before - (hessian @ apart.unsqueeze(2)).squeeze(2)).norm(dim=1)
    floor = _rounding(point, end, hessian)
    return off, off <= VANISHED * torch.maximum(before.norm(dim=1), after.norm(dim=1)) + floor


def _rounding(point: HeadPoint, end: HeadPoint, hessian: Tensor) -> Tensor:
    """How much of d_theta g at the end may be rounding, generously, (R,).

    Its terms are of the size |H| |theta|, or sqrt(|H| g) where large ones cancel.
    """
    largest = hessian.abs().sum(2).amax(1)
    length = trees.norm(end.head) + trees.norm(point.head) + 1
    eps = torch.finfo(trees.leaves(point.head)[0].dtype).eps
    found: Tensor = ROUNDINGS * eps * (largest * length + (largest * end.value().abs()).sqrt())
    return found
