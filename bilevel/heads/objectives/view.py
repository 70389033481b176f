"""g of a linear head as seen from near the means of its features.

Predictions of features that lie far from zero, and the Hessian even more, lose digits to their
means. A free bias takes the means up: see `bilevel.linear.centre`.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor

from bilevel.data.rows import Rows
from bilevel.derivatives.head_point import HeadPoint
from bilevel.derivatives.linear_parts import LinearParts
from bilevel.heads.objectives.base import AbstractObjective, GeneralObjective
from bilevel.heads.objectives.known import knows_curvature
from bilevel.heads.objectives.linear import LinearObjective
from bilevel.linear.centre import FAR, Centre, centre_of, pulled, shifted
from bilevel.problem.base import StackelbergProblem
from bilevel.problem.linear_head import LinearHeadProblem
from bilevel.problem.sets import ConvexSet, Everywhere
from bilevel.trees import Tree

FEW = 64
"""Rows that tell whether features lie far from zero: a pass through all would take longer."""


class View(NamedTuple):
    """g of R heads, on vectors.

    Attributes:
        objective: g, on the vectors of theta_c.
        centre: which leads from theta to theta_c; None: they are the same.
        open: rows of a linear head whose bounds are none in theta_c, (R, M): that of the bias, with
            a centre; and those whose sums over outputs g does not determine. None: there are none.
        undetermined: the latter, (R, M).
    """

    objective: AbstractObjective
    centre: Centre | None = None
    open: Tensor | None = None
    undetermined: Tensor | None = None

    @classmethod
    def centred(
        cls, objective: AbstractObjective, centre: Centre | None, gauge: Tensor | None = None
    ) -> "View":
        """The view of a linear head, whose undetermined sums (R, M) are settled."""
        if centre is None:
            return cls(objective, None, gauge, gauge)
        bias = torch.zeros_like(centre.origin, dtype=torch.bool)
        bias[:, -1] = True
        return cls(objective, centre, bias if gauge is None else bias | gauge, gauge)

    def vector(self, head: Tree) -> Tensor:
        """The vectors of heads theta."""
        return self.objective.vector(self._seen(head, Centre.inward))

    def head(self, vectors: Tensor) -> Tree:
        """Its inverse, float64."""
        return self._seen(self.objective.head(vectors), Centre.outward)

    def slope(self, vectors: Tensor) -> Tree:
        """d_theta g from the slope in theta_c."""
        return self._seen(self.objective.head(vectors), Centre.slope)

    def right(self, slope: Tree) -> Tensor:
        """The inverse of `slope`."""
        return self.objective.vector(self._seen(slope, lambda c, x: pulled(-c.origin, x)))

    def step(self, vectors: Tensor) -> Tree:
        """A step of theta from one of theta_c."""
        found = self.objective.head(vectors)
        return self._seen(found, lambda c, x: shifted(-c.origin, x))

    def _seen(self, head: Tree, way: Callable[[Centre, Tensor], Tensor]) -> Tree:
        """Heads, slopes or steps on the other side of the centre, if there is one."""
        centre = self.centre
        return head if centre is None else by_columns(head, lambda x: way(centre, x))

    def moved_inside(self, head: Tensor, convex: ConvexSet) -> Tensor:
        """Heads with undetermined sums as near to zero as the bounds of a set let them be."""
        limits = convex.bounds(head) if self.undetermined is not None else None
        if limits is None or self.undetermined is None:
            return head
        low, high = ((limit - head) for limit in limits)
        shift = torch.minimum(low.amax(2, keepdim=True).clamp(min=0), high.amin(2, keepdim=True))
        return torch.where(self.undetermined.unsqueeze(2), head + shift, head)


def head_objective(point: HeadPoint) -> AbstractObjective:
    """g of the heads at their bodies, by the features where that is possible."""
    problem = point.problem
    if told_by_features(problem, point.rows):
        return linear_objective(problem, point.oracles.linear_parts(point.body, point.rows))
    return GeneralObjective(point.oracles, point.body, point.head, point.rows)


def head_view(point: HeadPoint, *, settled: bool | None = None) -> View:
    """g of the heads, seen from the means of features that lie far from zero.

    Args:
        point: the heads, on the rows that they answer to.
        settled: whether undetermined sums are made zero; None: without a set of heads.
    """
    problem = point.problem
    if not told_by_features(problem, point.rows):
        return View(head_objective(point))
    parts = point.oracles.linear_parts(point.body, point.rows)
    parts, centre = seen_from_means(problem, parts)
    made = linear_objective(problem, parts, settled)
    gauge = None if made.gauge is None else made.gauge[:, 0] > 0
    return View.centred(made, centre, gauge)


def told_by_features(problem: StackelbergProblem, rows: Rows) -> TypeGuard[LinearHeadProblem]:
    """Whether the features tell g: of a linear head whose criterion tells its curvature."""
    return isinstance(problem, LinearHeadProblem) and knows_curvature(problem, targets_of(rows))


def linear_objective(
    problem: LinearHeadProblem, parts: LinearParts, settled: bool | None = None
) -> LinearObjective:
    """g by the features, see `head_view`."""
    if settled is None:
        settled = isinstance(problem.head_set, Everywhere)
    return LinearObjective(parts, problem.criterion, problem.outputs, settled=settled)


def seen_from_means(
    problem: LinearHeadProblem, parts: LinearParts
) -> tuple[LinearParts, Centre | None]:
    """Features less their means where these dwarf their spread and a free bias takes them up."""
    if problem.penalises_all or not _far(parts):
        return parts, None
    origin, level = centre_of(parts._replace(targets=parts.design[..., :1]), "free")
    outputs = problem.outputs or 1
    centre = Centre(origin, torch.zeros_like(level).expand(-1, outputs))
    return parts._replace(design=parts.design.double() - origin.unsqueeze(1)), centre


def targets_of(rows: Rows) -> Tensor:
    """Those of the first run, and of its first task."""
    found: Tensor = rows.groups["train"].targets
    for _ in range((rows.axes["train"] is not None) + rows.of_tasks):
        found = found[0]
    return found


def _far(parts: LinearParts) -> bool:
    """Whether the mean of a feature is much larger than its spread and penalty, in a few rows."""
    some, penalty = parts.design[:, :FEW, :-1].double(), parts.penalty[:, :-1]
    mean = some.mean(1, keepdim=True)
    penalty = penalty if penalty.ndim == 2 else penalty.amin(2)
    left = (some - mean).square().mean(1) + penalty
    return bool((mean.squeeze(1).square() > FAR**2 * left).any())


def by_columns(head: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """A function of columns (R, m, K), at heads (R, m) or (R, m, K)."""
    head = head.double()
    return function(head) if head.ndim == 3 else function(head.unsqueeze(2)).squeeze(2)
