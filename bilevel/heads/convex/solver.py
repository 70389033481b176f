"""Heads of any convex criterion under convex constraints, by cvxpy."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.cost import Cost
from bilevel.core.optional import extra
from bilevel.core.status import Status
from bilevel.data.rows import Rows
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import ArgumentError, IncompatibleError
from bilevel.heads.base import AbstractHeadSolver, HeadSolution
from bilevel.heads.convex.compiled import Constraints
from bilevel.heads.convex.forms import ConvexHeads, convex_heads
from bilevel.heads.convex.polish import mapping, newton, polished
from bilevel.heads.newton.runs import RUNAWAY
from bilevel.heads.objectives.view import by_columns
from bilevel.linear.centre import Centre
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
    """theta* = argmin of g(w, .) over `head_set` and `constraints`, by a solver of cvxpy.

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
    the distance to the head without them. `Envelope` is exact all the same for Phi over the heads
    they allow (Danskin); `Implicit` refuses them. To be certified, state them as `head_set`.

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

    def __post_init__(self) -> None:
        if self.constraints is not None and not callable(self.constraints):
            raise ArgumentError(
                "`constraints` must be a function of the head, such as lambda theta: "
                f"[cvxpy.norm1(theta) <= 1], got {self.constraints!r}."
            )
        if self.solver is not None and not isinstance(self.solver, str):
            raise ArgumentError(f'`solver` must be a name such as "OSQP", got {self.solver!r}.')
        if self.options is not None:
            # as a tuple, so that two solvers with the same options have the same structure
            object.__setattr__(self, "options", tuple(sorted(_checked(self.options).items())))

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
        heads.task(0, oracles.problem.head_set, self.constraints, self._name)
        return state

    def solve(
        self, oracles: Oracles, body: Tree, head: Tree, rows: Rows, state: Any, k: int
    ) -> HeadSolution:
        """Every run by itself, then the Newton steps of all runs together."""
        heads, state = convex_heads(oracles, body, head, rows, state)
        convex, last, centre = oracles.problem.head_set, head.double(), None
        free = isinstance(convex, Everywhere) and self.constraints is None
        factor: Any = None
        if free:
            heads, centre = heads.from_means()
            factor = heads.factor
        if centre is not None:
            last = by_columns(last, centre.inward)
            factor = None if factor is None else CentredFactor(factor, centre.origin)
        polish = self._polishes(convex, trees.flatten(head).shape[1])
        found = Answers.nothing(heads, head)
        for options in self._attempts(polish):
            self._ask(found, heads, convex, options)
            if polish:
                self._polish(found, heads, convex, last)
            if not bool(found.rough.any()):
                break
        answer, residual = self._answer(found, heads, convex, head.dtype, centre)
        return HeadSolution(answer, residual, found.status, state, factor, tuple(found.words))

    @staticmethod
    def _answer(
        found: "Answers",
        heads: ConvexHeads,
        convex: ConvexSet,
        dtype: torch.dtype,
        centre: Centre | None,
    ) -> tuple[Tensor, Tensor]:
        """The heads in their type and within their set, NaN where they failed; residuals.

        With a centre, what was found is theta_c.
        """
        failed = found.status >= int(Status.DIVERGED)
        nothing = torch.full_like(found.head, torch.nan)
        head = trees.where(failed, nothing, found.head)
        if centre is not None:
            answer = by_columns(head, centre.outward).to(dtype)
            slope = heads.slope(by_columns(answer, centre.inward))
            return answer, trees.norm(by_columns(slope, centre.slope))
        if dtype == torch.float64 and found.residual is not None:
            return head, found.residual.masked_fill(failed, torch.nan)
        answer = convex.project(head.to(dtype))
        at = answer.double()
        return answer, mapping(convex, at, heads.slope(at), 1 / heads.largest)

    def _ask(
        self, found: "Answers", heads: ConvexHeads, convex: ConvexSet, options: dict[str, Any]
    ) -> None:
        """Solve the runs that are rough, one by one; keep the better one of two answers."""
        for run in found.rough.nonzero().flatten().tolist():
            task = heads.task(run, convex, self.constraints, self._name)
            told = task.solve(heads.values(run), options)
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
            lost = usable & ~heads.penalised & self._runs_away(found.head, heads, convex)
            found.status = found.status.masked_fill(lost, int(Status.NO_MINIMISER))
            found.rough = found.rough & ~lost

    @staticmethod
    def _runs_away(head: Tensor, heads: ConvexHeads, convex: ConvexSet) -> Tensor:
        """Runs whose predictions would go on moving although g is flat: there is no minimum."""
        slope, hessian = heads.derivatives(head)
        face = convex.face(head, slope, 1 / heads.largest)
        assert face is not None
        step = trees.unflatten(newton(face, head, slope, hessian), head)
        # a bounded set stops it
        moved = heads.reach(head, convex.project(head + FAR * step) - head) / FAR
        return (moved > RUNAWAY) & moved.isfinite()

    def _polishes(self, convex: ConvexSet, size: int) -> bool:
        """Whether Newton steps follow."""
        known = type(convex).face is not ConvexSet.face
        return known and self.constraints is None and size <= LARGEST_POLISHED

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

    @property
    def draws(self) -> bool:
        """Nothing."""
        return False

    @property
    def cost(self) -> Cost:
        """One exact solve, and a pass through all rows."""
        return Cost(solves=1, passes=1)


def _checked(options: Any) -> dict[str, Any]:
    """The options, if a solver may get them."""
    try:
        found = dict(options)
    except (TypeError, ValueError):
        raise ArgumentError(
            f'`options` must be a dictionary, such as {{"max_iter": 100}}, got {options!r}.'
        ) from None
    for name in found:
        if name in RESERVED:
            raise ArgumentError(
                f"`options` must not hold {name!r}, which Cvxpy sets itself: they are for the "
                'solver only. Name another solver by Cvxpy(solver="...").'
            )
    return found


@dataclasses.dataclass(eq=False)
class Answers:
    """What is known of the heads of R runs so far.

    Args:
        head: float64; NaN where there is none.
        status: (R,).
        rough: runs to try again, (R,).
        told: what the solver made of each run.
        words: its own.
        residual: (R,), of heads that Newton steps ended at.
    """

    head: Tensor
    status: Tensor
    rough: Tensor
    told: list[int]
    words: list[str]
    residual: Tensor | None = None

    @classmethod
    def nothing(cls, heads: ConvexHeads, like: Tensor) -> "Answers":
        """Nothing solved."""
        status = heads.status
        head = torch.full_like(like, torch.nan, dtype=torch.float64)
        words = ["" if code < Status.DIVERGED else "not solved" for code in status.tolist()]
        worst = [int(max(Status))] * len(like)
        return cls(head, status.clone(), status < int(Status.DIVERGED), worst, words)
