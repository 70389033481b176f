"""Whether g is quadratic where heads are: gradients against those that a Hessian promises."""

from typing import NamedTuple

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.status import Status
from bilevel.data.rows import Rows
from bilevel.derivatives.oracles import Oracles
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


def landing(
    oracles: Oracles,
    body: Tree,
    head: Tree,
    rows: Rows,
    system: PrimalSystem,
    solution: tuple[Tensor, Tensor] | None = None,
) -> Landing:
    """The head that the Hessian at `head` leads to, and whether it is a stationary point.

    If it is one, it is theta* of any convex g, and d_theta g(theta) = H (theta - theta*) holds at
    `head`, whatever g is elsewhere. Nothing is asked of a singular Hessian, which leads nowhere:
    it is refused, or not certified, as such.

    Args:
        oracles: of the problem.
        body: leaves (R, ...).
        head: leaves (R, ...).
        rows: on which g is meant.
        system: of a general head, at these heads.
        solution: of the system and its status codes; None: it is solved here.
    """
    step, status = system.solve() if solution is None else solution
    moved = trees.unflatten(step.squeeze(2).to(trees.leaves(head)[0].dtype), head)
    landed = trees.tree_map(torch.add, head, moved)
    before, off = (trees.norm(oracles.head_gradient(body, at, rows)) for at in (head, landed))
    solved = status == int(Status.CONVERGED)
    floor = _rounding(oracles, body, landed, rows, system.hessian.squeeze(1), head)
    apart = off > VANISHED * before + floor  # numbers that overflow say nothing of g
    return Landing(landed, off, ~apart | ~solved | ~trees.finite(landed), solved)


def deviation(
    oracles: Oracles, body: Tree, head: Tree, at: Tree, rows: Rows, hessian: Tensor
) -> tuple[Tensor, Tensor]:
    """|d_theta g(at) - d_theta g(head) - H (at - head)|, and whether it may be rounding, (R,)."""
    start, end = (trees.flatten(oracles.head_gradient(body, x, rows)).double() for x in (head, at))
    apart = trees.flatten(at).double() - trees.flatten(head).double()
    off = (end - start - (hessian @ apart.unsqueeze(2)).squeeze(2)).norm(dim=1)
    floor = _rounding(oracles, body, at, rows, hessian, head)
    return off, off <= VANISHED * torch.maximum(start.norm(dim=1), end.norm(dim=1)) + floor


def _rounding(
    oracles: Oracles, body: Tree, at: Tree, rows: Rows, hessian: Tensor, head: Tree
) -> Tensor:
    """How much of d_theta g at `at` may be rounding, generously, (R,).

    Its terms are of the size |H| |theta|, or sqrt(|H| g) where large ones cancel.
    """
    largest = hessian.abs().sum(2).amax(1)
    length = trees.norm(at) + trees.norm(head) + 1
    value = oracles.head_value(body, at, rows).abs()
    eps = torch.finfo(trees.leaves(head)[0].dtype).eps
    found: Tensor = ROUNDINGS * eps * (largest * length + (largest * value).sqrt())
    return found
