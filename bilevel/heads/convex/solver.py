"""Heads of any convex criterion under convex constraints, by cvxpy."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.checks import check_function
from bilevel.core.cost import Cost
from bilevel.core.optional import extra
from bilevel.core.status import Status
from bilevel.data.rows import Rows
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import ArgumentError, IncompatibleError
from bilevel.heads.base import AbstractHeadSolver, HeadSolution
from bilevel.heads.convex.compiled import Compiled, Constraints, Kept
from bilevel.heads.convex.forms import ConvexHeads, convex_heads
from bilevel.heads.convex.polish import mapping, newton, polished
from bilevel.heads.newton.runs import RUNAWAY
from bilevel.heads.objectives.view import by_columns
from bilevel.linear.factor import CentredFactor
from bilevel.problem.base import StackelbergProblem
from bilevel.problem.criteria import AbstractCriterion
from bilevel.problem.linear_head import LinearHeadProblem
from bilevel.problem.sets import ConvexSet, Everywhere
from bilevel.trees import Tree

LARGEST_POLISHED = 512
ACCURACY, ROUNDING = 1e-10, 1e-15
"""Relative residuals: what is called solved, and what no Newton step can improve."""
FAR = 1e6
RESERVED = (
    *("solver", "warm_start", "method", "gp", "qcp"),
    *("nlp", "requires_grad", "enforce_dpp", "ignore_dpp"),
)
"""Arguments of `cvxpy.Problem.solve` that are no options of a solver."""
DEFAULT = "CLARABEL"
TIGHT: dict[str, dict[str, Any]] = {
    "CLARABEL": {
        **dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-12),
        **dict.fromkeys(("reduced_tol_gap_abs", "reduced_tol_gap_rel"), 1e-8),
        "reduced_tol_feas": 1e-8,
    }
}
"""Options where no Newton step follows: a further digit costs an iteration or less."""


@dataclasses.dataclass(frozen=True, eq=False)
class Cvxpy(AbstractHeadSolver):
    r"""The head over `head_set` and `constraints`, by a solver of cvxpy.

    $$\theta^*(w) = \arg\min_{\theta \in \Theta} g(w, \theta)$$

    For linear heads with a criterion that has a cvxpy `atom`, on all rows. The problem is compiled
    once, with parameters, and solved again for every run and step. With squared error the data
    enter through the M x M factor of the Hessian, so that a solve does not depend on the number of
    rows. With other criteria all rows, at most 5,000 predictions, are in the problem: compiling
    takes a time that grows with their square (12 s for 2,000 logistic rows), and a solve is as slow
    as one of a problem built anew. `Newton` is much faster where there are no constraints, and
    `ProjectedNewton` where these are bounds.

    What the solver returns is improved by a few Newton steps on the face of `head_set` that it lies
    on, so that heads of up to 512 numbers are exact to rounding, those at a bound too. With
    `constraints` of your own, or a set that does not know its faces, the accuracy is the solver's.

    `constraints` are the solver's, not the problem's: bounds, and the gaps in a history, still tell
    the distance to the head without them. `Envelope` is exact all the same for $\Phi$ over the
    heads they allow (Danskin); `Implicit` refuses them. To be certified, state them as `head_set`.

    Args:
        constraints: a function of the head, a `cvxpy.Variable` of shape (M,) or (M, K), that
            returns a list of convex cvxpy constraints; called once, when the problem is compiled.
        solver: its name in cvxpy; None: "CLARABEL".
        options: passed to that solver, such as {"tol_gap_abs": 1e-9}; None: its own defaults, and
            tolerances of 1e-12 where these are not accurate enough.

    Raises:
        MissingPackageError: cvxpy is not installed.
        IncompatibleError: the head is not linear in features; the criterion or the set has no cvxpy
            form; the solver cannot solve such a problem; there are too many rows.
        ArgumentError: `constraints` are not convex, or allow no head; `options` name what `Cvxpy`
            sets itself.
        SingularHeadError: the head has no unique minimiser.

    Source: Agrawal, Verschueren, Diamond, Boyd, A rewriting system for convex optimization problems
    (2018); Goulart, Chen, Clarabel (2024). Differs from the source in: 1. the Newton steps.

    Examples:
        >>> import bilevel, cvxpy, torch
        >>> from problems.regression import diabetes
        >>> problem = diabetes(width=4)
        >>> problem.head_set = bilevel.Nonnegative()
        >>> body = problem.init_body(torch.Generator().manual_seed(0))
        >>> bilevel.best_response(problem, body, bilevel.Cvxpy()).status.name
        'CONVERGED'
        >>> sparse = bilevel.Cvxpy(lambda theta: [cvxpy.norm1(theta) <= 0.5])
        >>> found = bilevel.best_response(problem, body, sparse)
        >>> round(float(found.head.sum()), 6), found.words
        (0.5, 'CLARABEL: optimal')
    """

    constraints: Constraints | None = None
    solver: str | None = None
    options: Mapping[str, Any] | tuple[tuple[str, Any], ...] | None = None
    draws, cost = False, Cost(solves=1, passes=1)

    def __post_init__(self) -> None:
        if self.constraints is not None:
            example = "such as lambda theta: [cvxpy.norm1(theta) <= 1]"
            check_function(self.constraints, "constraints", example, 1)
        if self.solver is not None and not isinstance(self.solver, str):
            raise ArgumentError(f'`solver` must be a name such as "OSQP", got {self.solver!r}.')
        if self.options is None:
            return
        try:
            options = dict(self.options)
        except (TypeError, ValueError):
            raise ArgumentError(
                '`options` must be a dictionary, such as {"max_iter": 100}, got '
                f"{self.options!r}."
            ) from None
        for name in options:
            if name in RESERVED:
                raise ArgumentError(
                    f"`options` must not hold {name!r}, which Cvxpy sets itself: they are for the "
                    'solver only. Name another solver by Cvxpy(solver="...").'
                )
        # as a tuple, so that two solvers with the same options have the same structure
        object.__setattr__(self, "options", tuple(sorted(options.items())))

    def check(self, problem: StackelbergProblem) -> None:
        """cvxpy must be there, and know such a solver, criterion and set."""
        cvxpy = extra("cvxpy", "cvxpy", "Cvxpy()")
        if not isinstance(problem, LinearHeadProblem):
            raise IncompatibleError(
                f"Cvxpy solves heads that are linear in features, which {type(problem).__name__} "
                "does not have. Use LinearHeadProblem, or an iterative solver such as FastSGD."
            )
        if self._name not in cvxpy.installed_solvers():
            known = ", ".join(sorted(cvxpy.installed_solvers()))
            raise ArgumentError(f"cvxpy has no solver {self._name!r} here. Installed: {known}.")
        criterion, convex = problem.criterion, problem.head_set
        if not criterion.quadratic and type(criterion).atom is AbstractCriterion.atom:
            criterion.atom(None, None)
        if type(convex).constraints is ConvexSet.constraints:
            convex.constraints(None)

    def init(self, oracles: Oracles, body: Tree, head: Tree, rows: Rows) -> Any:
        """Compile the problem; refuse heads without a unique minimiser."""
        self.check(oracles.problem)
        heads, state = convex_heads(oracles, body, head, rows)
        self._task(heads, 0, oracles.problem)
        return state

    def solve(
        self, oracles: Oracles, body: Tree, head: Tree, rows: Rows, state: Any, k: int
    ) -> HeadSolution:
        """Every run by itself, then the Newton steps of all runs together."""
        heads, state = convex_heads(oracles, body, head, rows, state)
        convex, last, centre = oracles.problem.head_set, head.double(), None
        factor: Any = None
        if isinstance(convex, Everywhere) and self.constraints is None:
            heads, centre = heads.from_means()
            factor = heads.factor
        if centre is not None:  # what is found is theta_c
            last = by_columns(last, centre.inward)
            factor = factor and CentredFactor(factor, centre.origin)
        polish = self.constraints is None and type(convex).face is not ConvexSet.face
        polish = polish and trees.flatten(head).shape[1] <= LARGEST_POLISHED
        usable = heads.status < int(Status.DIVERGED)
        nothing = torch.full_like(head, torch.nan, dtype=torch.float64)
        words = ["" if one else "not solved" for one in usable.tolist()]
        worst = [int(max(Status))] * len(head)
        found = Answers(nothing.clone(), heads.status.clone(), usable, worst, words)
        for options in self._attempts(polish):
            self._ask(found, heads, oracles.problem, options)
            if polish:
                self._polish(found, heads, convex, last)
            if not bool(found.rough.any()):
                break
        if isinstance(convex, Everywhere) and self.constraints is None:
            endless = (heads.objective.falling != 0).any(1) & (heads.status < int(Status.DIVERGED))
            found.status = found.status.masked_fill(endless, int(Status.NO_MINIMISER))
        failed, residual = found.status >= int(Status.DIVERGED), found.residual
        answer = trees.where(failed, nothing, found.head)
        if centre is not None:
            answer = by_columns(answer, centre.outward).to(head.dtype)
            slope = heads.slope(by_columns(answer, centre.inward))
            residual = trees.norm(by_columns(slope, centre.slope))
        elif head.dtype == torch.float64 and residual is not None:
            residual = residual.masked_fill(failed, torch.nan)
        else:
            answer = convex.project(answer.to(head.dtype))
            at = answer.double()
            residual = mapping(convex, at, heads.slope(at), 1 / heads.largest)
        return HeadSolution(answer, residual, found.status, state, factor, tuple(found.words))

    def _ask(
        self,
        found: "Answers",
        heads: ConvexHeads,
        problem: StackelbergProblem,
        options: dict[str, Any],
    ) -> None:
        """Solve the runs that are rough, one by one; keep the better one of two answers."""
        for run in found.rough.nonzero().flatten().tolist():
            told = self._task(heads, run, problem).solve(heads.values(run), options)
            status = told.status
            if status is Status.INFEASIBLE and self.constraints is None:
                status = Status.SOLVER_FAILED  # no set is empty
            if status > found.told[run]:
                continue
            found.told[run], found.words[run] = status, told.words
            found.status[run] = max(int(status), int(heads.status[run]))
            found.rough[run] = status is not Status.CONVERGED
            if told.head is not None:
                found.head[run] = torch.from_numpy(told.head)

    def _task(self, heads: ConvexHeads, run: int, problem: StackelbergProblem) -> Compiled:
        shared = (problem.head_set, self.constraints, self._name)
        return heads.task(run, Kept.of(problem), *shared)

    def _polish(
        self, found: "Answers", heads: ConvexHeads, convex: ConvexSet, last: Tensor
    ) -> None:
        """Newton steps; runs that are exact then are so whatever their solver said.

        Runs that have no answer start a gradient step from the last heads.
        """
        answered, start = trees.finite(found.head), found.head
        if not bool(answered.all()):
            slope = heads.slope(last)
            moved = last - slope / trees.per_run(heads.largest, slope)
            start = trees.where(answered, found.head, moved)
        start = convex.project(start)
        scale = heads.scale(start)
        enough = ROUNDING * scale
        head, residual = polished(convex, start, heads.derivatives, 1 / heads.largest, enough)
        usable = heads.status < int(Status.DIVERGED)
        exact = usable & (residual <= ACCURACY * scale)
        found.head, found.residual = heads.settled(head), residual
        found.rough = usable & ~exact
        found.status = torch.where(exact, heads.status, found.status)
        if not bool(heads.penalised.all()):
            # without a minimum predictions would go on moving although g is flat
            point, (slope, hessian) = found.head, heads.derivatives(found.head)
            face = convex.face(point, slope, 1 / heads.largest)
            assert face is not None
            step = trees.unflatten(newton(face, point, slope, hessian), point)
            # a bounded set stops it
            moved = heads.reach(point, convex.project(point + FAR * step) - point) / FAR
            lost = usable & ~heads.penalised & (moved > RUNAWAY) & moved.isfinite()
            found.status = found.status.masked_fill(lost, int(Status.NO_MINIMISER))
            found.rough = found.rough & ~lost

    def _attempts(self, polish: bool) -> list[dict[str, Any]]:
        """The options to try in turn: what suffices first."""
        if self.options is not None:
            return [dict(self.options)]
        tight = TIGHT.get(self._name)
        if tight is None:
            return [{}]
        return [{}, tight] if polish else [tight, {}]

    @property
    def restricts(self) -> bool:
        """With constraints of its own."""
        return self.constraints is not None

    @property
    def _name(self) -> str:
        return self.solver or DEFAULT


@dataclasses.dataclass(eq=False)
class Answers:
    """What is known of the heads of R runs so far."""

    head: Tensor  # float64; NaN where there is none
    status: Tensor
    rough: Tensor  # runs to try again, (R,)
    told: list[int]  # what the solver made of each run
    words: list[str]  # its own
    residual: Tensor | None = None  # (R,), of heads that Newton steps ended at
