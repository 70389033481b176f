"""The exact head between bounds."""

import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.checks import Number, check_positive_integer, positive
from bilevel.core.cost import Cost
from bilevel.core.status import Status
from bilevel.data.rows import Rows
from bilevel.derivatives.head_point import HeadPoint
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import BilevelError
from bilevel.heads.base import AbstractHeadSolver, HeadSolution
from bilevel.heads.convex.forms import GramHeads, convex_heads
from bilevel.heads.convex.polish import mapping
from bilevel.heads.convex.solver import Cvxpy
from bilevel.heads.objectives.base import AbstractObjective, Place
from bilevel.heads.objectives.quadratic import QuadraticObjective
from bilevel.heads.objectives.view import View, head_objective, head_view
from bilevel.heads.projected.active_sets import Settled, settled
from bilevel.heads.projected.bounds import Bounds, no_bounds
from bilevel.heads.projected.descent import ProjectedDescent
from bilevel.linear.factor import BlockFactor, merge_outputs
from bilevel.linear.systems import CentredSystem
from bilevel.problem.base import StackelbergProblem
from bilevel.problem.linear_head import LinearHeadProblem
from bilevel.problem.sets import ConvexSet, Everywhere
from bilevel.trees import Tree

CVXPY = Cvxpy()  # made once: the compiler does not make parts


@dataclasses.dataclass(frozen=True, eq=False)
class ProjectedNewton(AbstractHeadSolver):
    r"""The exact head between bounds, on all training rows.

    $$\theta^*(w) = \arg\min_{\text{low} \le \theta \le \text{high}} g(w, \theta)$$

    For a `head_set` that is a `Box`, `Nonnegative` or a set of your own with the hook `bounds`, and
    any strongly convex g. Each step guesses which numbers end at a bound, sends them there and
    makes a Newton step of the others; where that leaves too much of the slope, the path of the step
    is searched for the lowest g. All runs step together, in float64, each until its own slope on
    the free numbers vanishes. From one body to the next the last heads are the start: their numbers
    at a bound are the first guess.

    Linear heads with squared error are known by H and b, so that a step does not depend on the
    number of rows. There up to 20 guesses are followed wherever they lead, a factor each; a warm
    solve mostly takes one, and what goes in circles is left to the steps. Heads of a criterion of
    known curvature are known by their features; any other head takes `Oracles.head_hessian`. H is
    formed up to the sizes that `Newton` names; above them conjugate gradients use products with it.

    Features that lie far from zero beside a bias are counted from their means. Bounds of the bias
    are left out there, and those of biases whose sum `SoftmaxLoss` does not determine: a run that
    keeps them all the same has its minimiser, another is solved with them.

    A linear head that does not arrive in `max_steps` steps is handed to `Cvxpy`, if cvxpy is
    installed and the criterion and the set have a form there; `words` of the answer then say so.

    Args:
        tolerance: of the largest entry of $\partial_\theta g$ on what no bound holds; a number or
            (R,) numbers. With 1e-9 or less a run goes on to where the slope is rounding.
        max_steps: the most steps of one solve, and guesses before them.

    Raises:
        ArgumentError: `tolerance` or `max_steps` is not positive.
        IncompatibleError: the set of heads is no bounds.
        SingularHeadError: the features do not determine the head at an initial point.

    Source: Bertsekas, Projected Newton methods for optimization problems with simple constraints,
    SIAM J. Control Optim. 20 (1982); Hintermueller, Ito, Kunisch, The primal-dual active set
    strategy as a semismooth Newton method, SIAM J. Optim. 13 (2002). Differs from the first in: 1.
    the numbers that a step takes to a bound are guessed as in the second, each scaled by its own
    curvature; 2. the whole step is taken without looking at g where it leaves little of the slope;
    3. a run that is cut short often frees numbers as the classical active set method does; 4. where
    the path first meets a bound is searched too; 5. a step that leaves next to nothing of the slope
    keeps its factor. Linear heads with squared error are first tried by the second as it stands.

    Examples:
        >>> import bilevel, torch
        >>> from problems.regression import diabetes
        >>> problem = diabetes(width=4)
        >>> problem.head_set = bilevel.Nonnegative()
        >>> body = problem.init_body(torch.Generator().manual_seed(0))
        >>> found = bilevel.best_response(problem, body, bilevel.ProjectedNewton())
        >>> found.status.name, bool((found.head >= 0).all())
        ('CONVERGED', True)
    """

    tolerance: Number = 1e-10
    max_steps: int = 100
    exact, draws, cost = True, False, Cost(solves=1, passes=1)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tolerance", positive(self.tolerance, "`tolerance`"))
        check_positive_integer(self.max_steps, "`max_steps`")

    def check(self, problem: StackelbergProblem) -> None:
        """Refuse sets that are no bounds."""
        if not has_bounds(problem.head_set):
            raise no_bounds(problem.head_set)

    def init(self, oracles: Oracles, body: Tree, head: Tree, rows: Rows) -> Any:
        """Check that g determines the head; Gram matrices that never change."""
        problem, convex = oracles.problem, oracles.problem.head_set
        if not isinstance(convex, Everywhere) and convex.bounds(head) is None:
            raise no_bounds(convex)
        if not isinstance(problem, LinearHeadProblem):
            return ()
        return convex_heads(oracles, body, head, rows)[1]

    def solve(
        self, oracles: Oracles, body: Tree, head: Tree, rows: Rows, state: Any, k: int
    ) -> HeadSolution:
        """From the last heads; runs that do not arrive by cvxpy."""
        convex, dtype = oracles.problem.head_set, trees.leaves(head)[0].dtype
        views, state = _views(oracles, body, head, rows, state)
        view, bounds = views[0], Bounds.of(convex, head, views[-1].objective)
        if len(views) > 1:
            bounds = _opened(bounds, view, views[-1].objective)
        ended = self._ended(view.objective, bounds, view.vector(head))
        found, status = view.head(ended.place.point), ended.status
        if len(views) > 1:
            found = view.moved_inside(found, convex)
            found, status = self._held(views[-1], convex, found, status)
        known = ended.residual if len(views) == 1 and view.centre is None else None
        # from a centre it is that of another matrix than H; adjoints by it take all rows at once
        factor = ended.factor if view.centre is None and rows.full.chunks is None else None
        if known is not None and dtype == torch.float64:
            return HeadSolution(found, known, status, state, factor)
        answer = convex.project(trees.cast(found, dtype))  # bounds are rounded to the type, too
        words: tuple[str, ...] = ()
        failed: Tensor | None = None
        if known is None:
            if bool((status == int(Status.NOT_CONVERGED)).any()):
                answer, status, words = _by_cvxpy(oracles, body, answer, rows, state, status)
            failed = status >= int(Status.DIVERGED)
        residual = _residual(view, convex, answer, ended)
        if failed is not None:
            answer = trees.nan_where(failed, answer)
            residual = residual.masked_fill(failed, torch.nan)
        return HeadSolution(answer, residual, status, state, factor, words)

    def _ended(self, objective: AbstractObjective, bounds: Bounds, start: Tensor) -> "Ended":
        """From vectors that need not lie between the bounds; quadratic g by active sets first."""
        found: Settled | None = None
        if isinstance(objective, QuadraticObjective) and objective.whole:
            found = settled(objective, bounds, start, self.max_steps)
            if bool(found.done.all()):
                status = torch.full_like(found.done, int(Status.CONVERGED), dtype=torch.int64)
                factor = BlockFactor(found.cholesky, found.done)
                place = Place(found.point, found.slope, found.point[:, :0])
                return Ended(place, status, factor, found.scale, found.residual)
            start = torch.where(found.done.unsqueeze(1), found.point, start)
        descent = self._descent(objective, bounds, start)
        runs = descent.run()
        factor = runs.factor
        if found is not None:
            factor = factor.replaced(found.done, found.cholesky[found.done])
        return Ended(runs.place, runs.status, factor, descent.scale)

    def _descent(
        self, objective: AbstractObjective, bounds: Bounds, start: Tensor
    ) -> ProjectedDescent:
        """Steps from vectors that need not lie between the bounds."""
        place = objective.at(bounds.clip(start))
        return ProjectedDescent(objective, bounds, place, self.tolerance, self.max_steps)

    def _held(
        self, view: View, convex: ConvexSet, head: Tensor, status: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Heads and codes, once minimisers that left some bounds are solved with all of them."""
        bounds, point = Bounds.of(convex, head, view.objective), view.vector(head)
        outside = (bounds.clip(point) != point).any(1) | (status != int(Status.CONVERGED))
        if not bool(outside.any()):
            return head, status
        some = view.objective.take(outside), trees.part(bounds, outside)
        ended = self._ended(*some, point[outside].nan_to_num(0.0))
        found = point.index_put((outside,), ended.place.point)
        return view.head(found), status.index_put((outside,), ended.status)


class Ended(NamedTuple):
    """Where R runs ended.

    Attributes:
        place: heads, and g there.
        status: codes, (R,).
        factor: the last one of each run.
        scale: the diagonal of H, (R, P), as far as it is known.
        residual: of the heads, (R,), where all are minimisers.
    """

    place: Place
    status: Tensor
    factor: BlockFactor
    scale: Tensor
    residual: Tensor | None = None


def _residual(view: View, convex: ConvexSet, answer: Tree, ended: Ended) -> Tensor:
    """The norm of the gradient mapping at the answer, (R,)."""
    place, scale = ended.place, ended.scale.amax(1)
    if not torch.equal(view.vector(answer), place.point):  # rounded, or by cvxpy
        place = view.objective.at(view.vector(answer))
    if view.centre is not None:  # about that of H
        scale = scale * view.centre.stretch()
    double = trees.cast(answer, torch.float64)
    return mapping(convex, double, view.slope(place.slope), 1 / scale)


def has_bounds(convex: ConvexSet) -> bool:
    """Whether a set is low <= x <= high, as far as its class tells."""
    return isinstance(convex, Everywhere) or type(convex).bounds is not ConvexSet.bounds


def _views(
    oracles: Oracles, body: Tree, head: Tree, rows: Rows, state: Any
) -> tuple[list[View], Any]:
    """g on all rows: by H and b where it is known to be quadratic, else by its derivatives.

    Where some bounds stand in the way of a good view of g (see `View.open`), first without them:
    a minimiser that keeps them all the same is that between all of them.
    """
    if not oracles.quadratic_linear_head:
        point = HeadPoint(oracles, body, head, rows.full)
        view = head_view(point, settled=True)
        alone = view.open is None or isinstance(oracles.problem.head_set, Everywhere)
        return ([view] if alone else [view, View(head_objective(point))]), state
    heads, state = convex_heads(oracles, body, head, rows, state)
    assert isinstance(heads, GramHeads)
    primal = heads.system.primal()
    whole = View(QuadraticObjective(primal.hessian, merge_outputs(primal.moment), heads.outputs))
    if not (isinstance(heads.system, CentredSystem) and heads.system.far()):
        return [whole], state
    view = View.centred(heads.objective, heads.system.centre)
    if isinstance(oracles.problem.head_set, Everywhere):
        return [view], state
    if rows.full.chunks is None:  # the slope of the rows has the digits that H has not
        whole = View(head_objective(HeadPoint(oracles, body, head, rows.full)))
    return [view, whole], state


def _opened(bounds: Bounds, view: View, objective: AbstractObjective) -> Bounds:
    """Bounds without those of the rows that a view needs free; `objective` knows their order."""
    assert view.open is not None
    found = []
    for bound, nothing in zip(bounds, (-torch.inf, torch.inf), strict=True):
        rows = objective.head(bound)
        which = view.open if rows.ndim == 2 else view.open.unsqueeze(2)
        found.append(objective.vector(torch.where(which, nothing, rows)))
    return Bounds(*found)


def _by_cvxpy(
    oracles: Oracles, body: Tree, head: Tree, rows: Rows, state: Any, status: Tensor
) -> tuple[Tree, Tensor, tuple[str, ...]]:
    """Heads, codes and words once the runs that did not arrive were asked of cvxpy."""
    if not isinstance(oracles.problem, LinearHeadProblem):
        return head, status, ()
    late = status == int(Status.NOT_CONVERGED)
    w, theta = (trees.take(tree, late) for tree in (body, head))
    try:
        CVXPY.check(oracles.problem)
        some = rows.full.take(late), trees.part(state, late)
        found = CVXPY.solve(oracles, w, theta, *some, 0)
    except BilevelError:  # not installed, no form, too many rows: as far as the steps led
        return head, status, ()
    solved = found.status < int(Status.NOT_CONVERGED)
    solved = solved | (found.status == int(Status.JITTERED))
    taken = late.index_put((late,), solved)
    whole = head.index_put((late,), found.head)
    words = iter(found.words)
    said = tuple(f"handed to cvxpy: {next(words)}" if run else "" for run in late.tolist())
    status = torch.where(taken, status.index_put((late,), found.status), status)
    return trees.where(taken, whole, head), status, said
