"""theta*(w) of R runs, to rounding: what records measure heads against.

A quadratic head has a linear system. Any other is found from the recorded head, in float64: a head
that answers to its body already needs a step or none. So a record depends on the point alone, not
on the records before it.
"""

import dataclasses
import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from bilevel import trees
from bilevel.bounds.heads import Certifier
from bilevel.core.generators import generator
from bilevel.core.status import Status
from bilevel.data.rows import Rows
from bilevel.derivatives.head_point import HeadPoint
from bilevel.derivatives.oracles import Oracles
from bilevel.heads.convex.polish import polished
from bilevel.heads.newton.descent import Descent
from bilevel.heads.newton.runs import PRECISE
from bilevel.heads.objectives.base import AbstractObjective, Place
from bilevel.heads.objectives.hessian import newton_factor
from bilevel.heads.objectives.known import interacts, knows_curvature
from bilevel.heads.objectives.linear import LARGEST_BLOCK
from bilevel.heads.objectives.view import head_objective, head_view, targets_of
from bilevel.heads.projected.bounds import Bounds
from bilevel.heads.projected.descent import ProjectedDescent, positive_diagonal, restricted
from bilevel.heads.projected.solver import has_bounds
from bilevel.linear.factor import BlockFactor
from bilevel.linear.systems import AbstractSystem
from bilevel.problem.linear_head import LinearHeadProblem
from bilevel.problem.sets import ConvexSet, Everywhere
from bilevel.trees import Tree

Way = Literal["system", "newton", "bounds", "face"]
LARGEST_HEAD = {"newton": LARGEST_BLOCK, "bounds": 512, "face": 512}
"""Numbers of a head (of each of its blocks) that the ways other than a system are taken for."""
DEAR, TOO_DEAR = 2.0**20, 2.0**30
"""Multiplications that a Hessian takes per run: from the first on not every record can afford the
best response, from the second on none."""
ROUNDED = 10.0
"""The tolerance of Newton's method, in units of what rounding makes of a slope."""
STEPS = 100
ENOUGH, ACCURATE = 1e-15, 1e-12
"""Of the size of what cancels in a slope: residuals that end the steps on a face, and the largest
that a best response may have."""
COPIES = 6
"""Matrices of the size of a Hessian, and tables of the rows' derivatives, held at once."""
NEGATIVE = 1e-8
"""Of the largest entry of a Hessian: eigenvalues below minus this are no rounding."""


class Answered(NamedTuple):
    """The best responses of R runs.

    Attributes:
        head: theta*, leaves (R, ...), float64; NaN in runs where it was not reached.
        factor: of the Hessian there, for adjoint solves; None if there is none, or F is g.
    """

    head: Tree
    factor: Any = None


@dataclasses.dataclass(frozen=True, eq=False)
class BestResponses:
    """How the best responses of one problem are found.

    Args:
        certifier: of the problem.
        way: "system": in closed form; "newton": by Newton steps, without a set of heads; "bounds":
            by projected Newton steps; "face": by Newton steps on faces of any other set.
        dear: whether they cost so much that not every record should have them.
    """

    certifier: Certifier
    way: Way
    dear: bool = False

    @classmethod
    def for_problem(
        cls, certifier: Certifier, body: Tree, head: Tree, rows: Rows
    ) -> "BestResponses | None":
        """Find out once, at initial points in float64, how they are found; None: they are not.

        Newton steps need a head that is linear with a convex criterion, or small with a g that is
        convex in it, as far as three heads can tell; and all rows at once.
        """
        oracles = certifier.oracles
        if certifier.exact:
            return cls(certifier, "system")
        if rows.chunks is not None or certifier.large:
            return None
        convex = oracles.problem.head_set
        way: Way = "bounds" if has_bounds(convex) else "face"
        if isinstance(convex, Everywhere):
            way = "newton"
        elif way == "face" and type(convex).face is ConvexSet.face:
            return None
        size, _, work = _measures(oracles, head, rows)
        if size > LARGEST_HEAD[way] or work > TOO_DEAR:
            return None
        if not isinstance(oracles.problem, LinearHeadProblem):
            one = slice(0, 1)
            first = trees.part(body, one), trees.part(head, one), rows.take(one)
            if not _seems_convex(oracles, *first):
                return None
        return cls(certifier, way, work > DEAR)

    def solve(self, system: AbstractSystem | None, body: Tree, head: Tree, rows: Rows) -> Answered:
        """theta* of every run, from its head and the certifier's system there, in float64."""
        if self.way == "newton":
            return self._newton(body, head, rows)
        if self.way == "bounds":
            return self._between_bounds(body, head, rows)
        if self.way == "face":
            return self._in_set(body, head, rows)
        assert system is not None
        best = self.certifier.best_response(system, head)
        problem = self.certifier.oracles.problem
        lost = ~trees.finite(best) & trees.finite(head)
        looked = not isinstance(problem, LinearHeadProblem) and isinstance(
            problem.head_set, Everywhere
        )
        if not (looked and bool(lost.any())):
            implicit = not self.certifier.oracles.is_stackelberg
            return Answered(best, system.kept[2] if implicit else None)
        # what looked quadratic at some heads need not be so at the best response
        return Answered(trees.where(lost, self._newton(body, head, rows).head, best))

    def _newton(self, body: Tree, head: Tree, rows: Rows) -> Answered:
        """On to a tenth of what rounding makes of a slope, if that can be reached."""
        view = head_view(HeadPoint(self.certifier.oracles, body, head, rows))
        objective = view.objective
        start = objective.at(view.vector(head))
        tolerance = (ROUNDED * objective.rounding(start)).clamp(max=PRECISE)
        none = BlockFactor.none(start.point, objective.blocks)
        unknown = torch.zeros_like(start.predictions)
        found = Descent(objective, start, none, unknown, tolerance, STEPS).run()
        right, factor = found.status == int(Status.CONVERGED), found.factor
        idle = right & (found.factored == 0)
        if bool(idle.any()):  # nobody looked whether the minimiser is unique there
            made, singular = newton_factor(objective.take(idle), trees.take(found.place, idle))
            right = right.index_put((idle,), ~singular)
            factor = factor.replaced(idle, made.cholesky, made.mix)
        return Answered(trees.nan_where(~right, view.head(found.place.point)), factor)

    def _between_bounds(self, body: Tree, head: Tree, rows: Rows) -> Answered:
        """On to a slope that is rounding, wherever the bounds are met.

        The factor is that of other free numbers than a recorded head has: adjoints make their own.
        """
        oracles = self.certifier.oracles
        zero = trees.tree_map(torch.zeros_like, head)
        head = trees.where(trees.finite(head), head, zero)
        objective = head_objective(HeadPoint(oracles, body, head, rows))
        bounds = Bounds.of(oracles.problem.head_set, head, objective)
        start = objective.at(bounds.clip(objective.vector(head)))
        ended = ProjectedDescent(objective, bounds, start, PRECISE, STEPS).run()
        right = ended.status == int(Status.CONVERGED)
        idle = right & (ended.factored == 0)
        right = right & ~_undetermined(objective, bounds, ended.place, idle)
        return Answered(trees.nan_where(~right, objective.head(ended.place.point)))

    def _in_set(self, body: Tree, head: Tree, rows: Rows) -> Answered:
        """From the recorded head, or else from that of the whole space: it may lie in the set."""
        # Newton steps on a face find the right face only from near it
        best = self._face(body, head, rows)
        lost = ~trees.finite(best) & trees.finite(head)
        if not bool(lost.any()):
            return Answered(best)
        whole = self._newton(body, head, rows).head
        again = self._face(body, trees.where(trees.finite(whole), whole, head), rows)
        return Answered(trees.where(lost, again, best))

    def _face(self, body: Tree, head: Tree, rows: Rows) -> Tree:
        """The residual of the gradient mapping tells whether the right face was found."""
        oracles = self.certifier.oracles
        convex = oracles.problem.head_set

        def derivatives(at: Tree) -> tuple[Tree, Tensor]:
            hessian = oracles.head_hessian(body, at, rows)
            return oracles.head_gradient(body, at, rows), 0.5 * (hessian + hessian.mT)

        zero = trees.tree_map(torch.zeros_like, head)
        start = convex.project(trees.where(trees.finite(head), head, zero))
        # what the slope's terms are made of: residuals are judged by it, as they cancel at theta*
        hessian = derivatives(start)[1]
        largest = hessian.diagonal(dim1=1, dim2=2).amax(1)
        at_zero = trees.norm(oracles.head_gradient(body, zero, rows)).nan_to_num(0.0, 0.0)
        scale = at_zero + largest * trees.norm(start)
        best, residual = polished(convex, start, derivatives, 1 / largest, ENOUGH * scale)
        return trees.nan_where(~(residual <= ACCURATE * scale), best)


def _undetermined(
    objective: AbstractObjective, bounds: Bounds, place: Place, idle: Tensor
) -> Tensor:
    """Runs among `idle` ones, whose H nobody looked at, where H on the free numbers is singular."""
    found = torch.zeros_like(idle)
    if not bool(idle.any()):
        return found
    objective, place = objective.part(idle, place)
    hessian = objective.hessian(place, torch.float64)
    held = trees.part(bounds, idle).held(place.point, place.slope)
    return found.index_put((idle,), restricted(hessian, held, positive_diagonal(hessian))[1])


def response_bytes(oracles: Oracles, head: Tree, rows: Rows) -> int:
    """The memory that the way to one best response takes beside the features; 0: little or none."""
    everywhere = isinstance(oracles.problem.head_set, Everywhere)
    if rows.chunks is not None or (everywhere and oracles.quadratic_linear_head):
        return 0
    size, blocks, work = _measures(oracles, head, rows)
    if size > max(LARGEST_HEAD.values()) or work > TOO_DEAR:
        return 0
    return 8 * COPIES * size * (size * blocks + rows.count) * len(trees.leaves(head)[0])


def _measures(oracles: Oracles, head: Tree, rows: Rows) -> tuple[int, int, float]:
    """Numbers in a block of the Hessian, how many blocks, and the multiplications they take."""
    size, blocks = trees.flatten(head).shape[1], 1
    problem = oracles.problem
    if isinstance(problem, LinearHeadProblem) and isinstance(problem.head_set, Everywhere):
        targets = targets_of(rows)
        apart = not interacts(problem.criterion, problem.outputs, targets)
        if apart and knows_curvature(problem, targets):
            size, blocks = head.shape[1], problem.outputs or 1
    return size, blocks, float(rows.count) * size**2 * blocks


def _seems_convex(oracles: Oracles, body: Tree, head: Tree, rows: Rows) -> bool:
    """Whether g curves downwards at none of three heads: the one given and two random ones.

    Heads at which g is not twice differentiable, or not defined, say nothing.
    """
    like, at = trees.flatten(head), [head]
    for stream in range(2):
        source = generator(stream, "convexity")
        numbers = torch.randn(like.shape[1], generator=source, dtype=torch.float64)
        at.append(trees.unflatten(numbers.to(like.device).expand(like.shape), head))
    for one in at:
        hessian = oracles.head_hessian(body, one, rows)
        scale = float(hessian.abs().max())
        if not math.isfinite(scale):
            continue
        added = NEGATIVE * scale * torch.eye(like.shape[1], dtype=like.dtype, device=like.device)
        shifted = 0.5 * (hessian + hessian.mT) + added
        if scale > 0 and bool(torch.linalg.cholesky_ex(shifted)[1].any()):
            return False
    return True
