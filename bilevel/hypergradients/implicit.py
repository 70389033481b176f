"""The implicit gradient."""

import dataclasses
from typing import Literal

import torch
from torch import Tensor
from typing_extensions import override

from bilevel import trees
from bilevel.core.checks import Number, check_instance, check_one_of, positive
from bilevel.core.cost import Cost
from bilevel.core.status import Status
from bilevel.data.rows import Rows
from bilevel.derivatives.head_point import HeadPoint
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import IncompatibleError, InexactHeadError
from bilevel.heads import AbstractHeadSolver, Newton, ProjectedNewton
from bilevel.hypergradients.base import AbstractHypergradient, Answer, BodyGradient, fine
from bilevel.hypergradients.condition import RTOL, Condition
from bilevel.hypergradients.dependence import check_dependence
from bilevel.linear import AbstractLinearSolver
from bilevel.problem.base import StackelbergProblem
from bilevel.problem.sets import ConvexSet, Everywhere
from bilevel.trees import Tree

OnInexact = Literal["warn", "raise", "refine"]
REFINEMENTS = 20
BEYOND, LEAST = 0.01, 1e-6
"""An adjoint is solved for to this part of the tolerance of its head, and at least to that."""


@dataclasses.dataclass(frozen=True, eq=False)
class Implicit(AbstractHypergradient):
    r"""The gradient by the implicit function theorem: one linear system for the adjoint.

    $$
    \nabla\Phi = \partial_w F - g_{w\theta}\, v, \qquad H v = \partial_\theta F,
    \qquad H = g_{\theta\theta}
    $$

    It differentiates the optimality condition $\partial_\theta g = 0$ of the head and asks nothing
    of how the head was solved. On a `Box` of heads the condition holds on the free coordinates, and
    v is zero on those at a bound; where a coordinate touches its bound without being pushed against
    it $\Phi$ has a kink, and this is one of its one-sided derivatives: `hypergradient` says so by a
    bound of the kind "unknown" and a note that names the coordinate. H is taken on the rows that
    the head answers to, the other derivatives on the rows of the step.

    Args:
        linear_solver: of $Hv = \partial_\theta F$. None: the factor that the head was solved with,
            or else one that is made of the features of a linear head; that of H at a head nearby
            leads conjugate gradients. Where there is neither, as on a box or for other heads,
            `Dense()` for heads of up to 512 numbers and `CG()` for larger ones. CG and the like
            start from the adjoint of the step before.
        tolerance: of the head, which must satisfy the condition: $\lVert\partial_\theta g\rVert$ at
            the head relative to $\lVert\partial_\theta g\rVert$ at the zero head; with a box, of
            the free coordinates. (Where the zero head is nearly stationary itself, to 1e-8 of
            $\lVert\partial_\theta g\rVert$ at the head of ones.) Heads of solvers that are `exact`
            are not looked at: their status tells.
        on_inexact: what to do with heads beyond the tolerance. "warn": the run's status becomes
            `INEXACT_HEAD`; "raise": `InexactHeadError`; "refine": Newton steps
            $\theta - H^{-1} \partial_\theta g$ with the same linear solver, up to 20 of them.
            `hypergradient` then returns the refined head and the value there, and `BestResponse`
            goes on from it.

    Raises:
        ArgumentError: `tolerance` is not positive, or `on_inexact` is none of the three.
        IncompatibleError: from a training: the set of heads is neither everywhere nor a box.

    Source: Bengio 2000, Pedregosa 2016 (arXiv 1602.02355). Differs from the source in: 1. the
    active bounds of a box are held.

    Examples:
        >>> import bilevel, torch
        >>> from problems.analytic import analytic
        >>> float(bilevel.hypergradient(analytic("A5"), torch.tensor(2.0), bilevel.Implicit()).body)
        2.0
    """

    linear_solver: AbstractLinearSolver | None = None
    tolerance: Number = 1e-4
    on_inexact: OnInexact = "warn"
    draws = False
    knows_tasks = True

    def __post_init__(self) -> None:
        check_instance(self.linear_solver, AbstractLinearSolver | None, "linear_solver", "CG()")
        object.__setattr__(self, "tolerance", positive(self.tolerance, "`tolerance`"))
        check_one_of(self.on_inexact, OnInexact, "on_inexact")

    def check(self, problem: StackelbergProblem, solver: AbstractHeadSolver) -> None:
        """Refuse constraints that only the solver knows; sets are looked at in `init`."""
        if solver.restricts:
            raise IncompatibleError(
                f"{type(solver).__name__} has constraints of its own, which the optimality "
                "condition d_theta g = 0 does not know. Use Envelope() where F is g; else state "
                "bounds as `head_set`, a Box or Nonnegative()."
            )

    def init(self, oracles: Oracles, body: Tree, head: Tree, rows: Rows) -> Tree:
        """Adjoints of zero; check the set of heads, and that g depends on the body."""
        oracles.problem.head_set.free(head, head)
        check_dependence(HeadPoint(oracles, body, head, rows))
        return trees.tree_map(torch.zeros_like, head)

    def gradient(
        self, oracles: Oracles, body: Tree, answer: Answer, rows: Rows, state: Tree
    ) -> BodyGradient:
        """The adjoint, then its pull-back to the body."""
        on = rows if answer.solver.uses_batch else rows.full
        at, status = Condition(HeadPoint(oracles, body, answer.head, on)), fine(answer.head)
        if not answer.solver.exact:
            at, status = self._examined(at)
        point = at.point.on(rows)
        factor = answer.factor if point.head is answer.head else None
        direct, right = point.body_gradients()
        enough = _enough(answer.solver)
        solved = at.solve(right, self.linear_solver, state, factor, enough)
        pulled = point.cross_vjp(solved.value)
        if oracles.known is not None and not any(bool(x.any()) for x in trees.leaves(pulled)):
            check_dependence(point, again=True)  # zero, or cut off since an earlier call?
        slope = trees.tree_map(torch.sub, direct, pulled)
        # an adjoint that is not finite is no place to start the next one from
        usable = trees.finite(solved.value)
        kept = trees.where(usable, solved.value, trees.tree_map(torch.zeros_like, solved.value))
        worst = torch.maximum(status, solved.status)
        return BodyGradient(slope, worst, solved.value, solved.residual, kept, point.head)

    def _examined(self, at: Condition) -> tuple[Condition, Tensor]:
        """Heads that satisfy the condition, and their status."""
        residual = at.relative_residual()
        tolerance = trees.per_run(self.tolerance, residual)
        inexact = residual > tolerance
        for _ in range(REFINEMENTS if self.on_inexact == "refine" else 0):
            if not bool(inexact.any()):
                break
            at = at.refined(self.linear_solver, inexact)
            inexact = at.relative_residual() > tolerance
        if self.on_inexact == "raise" and bool(inexact.any()):
            run = int(inexact.nonzero()[0])
            raise InexactHeadError(
                f"The head of run {run} has |d_theta g| = "
                f"{float(at.relative_residual()[run]):.2g} of that at the zero head, above "
                f"`tolerance` = {self.tolerance}. {Status.INEXACT_HEAD.message}"
            )
        return at, fine(at.point.head).masked_fill(inexact, int(Status.INEXACT_HEAD))

    @property
    def compilable(self) -> bool:
        """By a factor, if heads that are inexact only warn; others decide on values."""
        return self.linear_solver is None and self.on_inexact == "warn"

    @override
    def compiles_on(self, head_set: ConvexSet) -> bool:
        # the adjoint of free coordinates is solved by what fits their factor
        return self.compilable and isinstance(head_set, Everywhere)

    @property
    def wants_factor(self) -> bool:
        """Unless another solver was asked for."""
        return self.linear_solver is None

    @property
    def cost(self) -> Cost:
        """A gradient, a cross product, and the adjoint."""
        adjoint = Cost() if self.linear_solver is None else self.linear_solver.cost
        return Cost(gradients=1, products=1).plus(adjoint)


def _enough(solver: AbstractHeadSolver) -> Number:
    """What may be left of the adjoint's system: one that is more exact than its head is no gain."""
    if not isinstance(solver, Newton | ProjectedNewton):
        return RTOL
    if isinstance(solver.tolerance, Tensor):
        return (BEYOND * solver.tolerance).clamp(RTOL, LEAST)
    return min(max(BEYOND * solver.tolerance, RTOL), LEAST)
