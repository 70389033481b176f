"""Heads as cvxpy problems that are compiled once and solved for many parameters.

cvxpy turns a problem into the matrices of a solver. Where its data are parameters (and it keeps to
the rules of DPP), this is done once; a further solve multiplies the parameters into the matrices.
"""

import abc
import math
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bilevel.core.optional import extra
from bilevel.core.status import Status
from bilevel.errors import ArgumentError, IncompatibleError
from bilevel.problem.base import StackelbergProblem
from bilevel.problem.criteria import AbstractCriterion
from bilevel.problem.sets import ConvexSet

Constraints = Callable[[Any], Sequence[Any]]
UNABLE = ("cannot solve this problem", "do not support", "is not installed")
"""How cvxpy says that a solver is not made for a problem."""
LARGEST_PREDICTIONS = 5000
"""Rows times outputs in one problem: compiling takes time that grows with their square."""
KEPT = 16
"""How many compiled problems are remembered for one problem at least."""


class Reply(NamedTuple):
    """What a solver answers for one run, in its own words."""

    head: np.ndarray | None
    status: Status
    words: str


class Compiled(abc.ABC):
    """One cvxpy problem; `self.parameters` by name.

    Args:
        shape: of one run's head.
        convex: the set of heads.
        constraints: the user's, of the head.
        solver: a name that cvxpy knows.
        *parts: of the objective.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        convex: ConvexSet,
        constraints: Constraints | None,
        solver: str,
        *parts: Any,
    ) -> None:
        self.cvxpy = cvxpy = extra("cvxpy", "cvxpy", "Cvxpy()")
        self.solver, self.lock = solver, threading.Lock()
        self.head = cvxpy.Variable(shape, name="head")
        allowed = convex.constraints(self.head)
        if constraints is not None:
            allowed = [*allowed, *self._checked(constraints(self.head))]
            told = self._solved(cvxpy.Problem(cvxpy.Minimize(0), allowed), {})
            if told.status is Status.INFEASIBLE:
                raise ArgumentError(
                    f"No head satisfies `constraints` within head_set = {convex}: {told.words}. "
                    "Look for constraints that contradict each other, or the set."
                )
        self.parameters: dict[str, Any] = {}
        objective, linking = self.objective(*parts)
        self.problem = cvxpy.Problem(cvxpy.Minimize(objective), [*allowed, *linking])
        if not self.problem.is_dcp(dpp=True):
            rule = "is not convex" if not self.problem.is_dcp() else "breaks the rules of DPP"
            raise IncompatibleError(
                f"The head's problem {rule} as cvxpy sees it, so that it cannot be compiled once. "
                "Look at `constraints`, at the `constraints` of the set, and at the criterion's "
                "`atom`: https://www.cvxpy.org/tutorial/dpp/index.html."
            )

    @abc.abstractmethod
    def objective(self, *parts: Any, **_: Any) -> tuple[Any, list[Any]]:
        """g as an expression of `self.head` and parameters, and constraints that it needs."""

    def solve(self, values: Mapping[str, Any], options: Mapping[str, Any]) -> Reply:
        """The head for the values of the parameters."""
        with self.lock:
            for name, value in values.items():
                self.parameters[name].value = value
            return self._solved(self.problem, options)

    def _solved(self, problem: Any, options: Mapping[str, Any]) -> Reply:
        """The answer of the solver, whatever it is."""
        error = self.cvxpy.error
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they say is in the status
            try:
                # from a warm start, results would depend on what was solved before
                problem.solve(**{"solver": self.solver, "warm_start": False, **options})
            except error.SolverError as failure:
                if any(text in str(failure) for text in UNABLE):
                    raise IncompatibleError(
                        f'`solver` = "{self.solver}" is not made for this head: {failure} '
                        "Leave `solver` out for CLARABEL, which solves all heads of this library."
                    ) from failure
                return Reply(None, Status.SOLVER_FAILED, f"{self.solver}: {failure}")
            except (TypeError, ValueError) as failure:
                if not options:
                    raise
                raise ArgumentError(
                    f"{self.solver} does not take `options` = {dict(options)}: {failure}"
                ) from failure
        words, found = f"{self.solver}: {problem.status}", self.head.value
        status = {
            "optimal": Status.CONVERGED,
            "optimal_inaccurate": Status.NOT_CONVERGED,
            "user_limit": Status.NOT_CONVERGED,
            "infeasible": Status.INFEASIBLE,
            "infeasible_inaccurate": Status.INFEASIBLE,
            "infeasible_or_unbounded": Status.INFEASIBLE,
            "unbounded": Status.UNBOUNDED,
            "unbounded_inaccurate": Status.UNBOUNDED,
        }.get(problem.status, Status.SOLVER_FAILED)
        if not status.failed and (found is None or not np.isfinite(found).all()):
            status = Status.SOLVER_FAILED
        return Reply(None if status.failed else np.array(found), status, words)

    def _checked(self, constraints: Any) -> list[Any]:
        """The user's constraints, if they are some."""
        kind = self.cvxpy.constraints.constraint.Constraint
        if not isinstance(constraints, list | tuple):
            constraints = [constraints]
        for constraint in constraints:
            if not isinstance(constraint, kind):
                raise ArgumentError(
                    "`constraints` must return a list of cvxpy constraints, such as "
                    f"[cvxpy.norm1(theta) <= 1], got {constraint!r}."
                )
            if not constraint.is_dcp():
                raise ArgumentError(
                    f"The constraint {constraint} is not convex as cvxpy sees it. Write it by the "
                    "rules of https://www.cvxpy.org/tutorial/dcp/index.html."
                )
        return list(constraints)


class GramForm(Compiled):
    """A quadratic head: 1/2 |R theta - c|^2 with R'R = H and R'c = b, K outputs side by side.

    The rows are summed up in H; the size of the problem does not depend on their number.
    """

    def objective(self, matrices: int) -> tuple[Any, list[Any]]:
        """A sum of squares, from one H or one for each output."""
        cvxpy, shape, parts = self.cvxpy, self.head.shape, []
        for j in range(matrices):
            one = (self.head, shape) if matrices == 1 else (self.head[:, j], shape[:1])
            factor = self.parameters[f"factor{j}"] = cvxpy.Parameter((shape[0], shape[0]))
            target = self.parameters[f"target{j}"] = cvxpy.Parameter(one[1])
            parts.append(cvxpy.sum_squares(factor @ one[0] - target))
        return 0.5 * cvxpy.sum(parts), []


class RowsForm(Compiled):
    """Any criterion: 1/n sum_i s_i c(u_i, t_i) + 1/2 (theta - q)' diag(p) (theta - q), u = Z theta.

    All rows are in the problem. Labels are constants, regression targets a parameter.
    """

    def objective(
        self,
        criterion: AbstractCriterion,
        n: int,
        labels: np.ndarray | None,
        weighted: tuple[int, ...] | None,
        drawn: bool,
    ) -> tuple[Any, list[Any]]:
        """The losses of a variable tied to the predictions: no parameter multiplies another.

        Without `labels`, targets are a parameter. `weighted`: the shape of the weights, (n,) or
        (n, K), if there are; `drawn`: whether there is a prior.
        """
        cvxpy, shape = self.cvxpy, self.head.shape
        if (count := n * math.prod(shape[1:])) > LARGEST_PREDICTIONS:
            raise IncompatibleError(
                f"With {type(criterion).__name__} all rows are in the problem that Cvxpy "
                f"compiles, at most {LARGEST_PREDICTIONS} predictions; here are {count}. Use fewer "
                "rows, Newton() if the head has no constraints, or FastSGD(lr, steps), which "
                "projects."
            )
        predictions = cvxpy.Variable((n, *shape[1:]))
        design = self.parameters["design"] = cvxpy.Parameter((n, shape[0]))
        penalty = self.parameters["penalty"] = cvxpy.Parameter(shape, nonneg=True)
        targets: Any = labels
        if targets is None:
            targets = self.parameters["targets"] = cvxpy.Parameter(predictions.shape)
        linking = [predictions == design @ self.head]
        fit: Any = 0
        if weighted is None:
            fit = cvxpy.sum(self._losses(criterion, predictions, targets)) / n
        else:
            weights = self.parameters["weights"] = cvxpy.Parameter(weighted, nonneg=True)
            columns = [(weights, predictions, targets)]
            if len(weighted) == 2:  # outputs one by one
                each = range(weighted[1])
                columns = [(weights[:, k], predictions[:, k], targets[:, k]) for k in each]
            for s, *one in columns:
                losses = self._losses(criterion, *one)
                if labels is None:  # weights must not multiply targets
                    bounds = cvxpy.Variable(n)
                    linking, losses = [*linking, losses <= bounds], bounds
                fit = fit + s @ losses / n
        away = cvxpy.multiply(penalty, self.head)
        if drawn:
            self.parameters["drawn"] = cvxpy.Parameter(shape)
            away = away - self.parameters["drawn"]
        return fit + 0.5 * cvxpy.sum_squares(away), linking

    @staticmethod
    def _losses(criterion: AbstractCriterion, predictions: Any, targets: Any) -> Any:
        """The losses of all rows, (n,)."""
        n = predictions.shape[0]
        losses = criterion.atom(predictions, targets)
        if losses.shape != (n,):
            raise ArgumentError(
                f"`atom` of {type(criterion).__name__} must return the losses of {n} rows, "
                f"shape ({n},), got {losses.shape}."
            )
        return losses


class Kept(dict[Any, tuple[Any, Compiled]]):
    """What was compiled for the heads of one problem, the one used last at the end.

    Each change is one operation of a dictionary, so that no lock is needed, which a forked process
    might inherit closed: at worst two threads compile the same.
    """

    @classmethod
    def of(cls, problem: StackelbergProblem) -> "Kept":
        """Of this very object, for as long as it lives."""
        found: Kept = vars(problem).setdefault("_compiled_heads", cls())
        return found

    def __reduce__(self) -> tuple[type["Kept"], tuple[()]]:
        return Kept, ()  # copies of the problem, and other processes, compile their own

    def compiled(self, form: type[Compiled], *arguments: Any, together: int = 1) -> Compiled:
        """The cvxpy problem for these arguments, compiled before or now.

        Sets, criteria and functions are told apart by their identity, arrays by their content. A
        step needs so many `together`, in turn: twice as many are kept.
        """
        key = (form, *map(_identity, arguments))
        # identities hold as long as the objects live: so these are kept, too
        found = self.get(key) or (arguments, form(*arguments))
        self.pop(key, None)
        self[key] = found
        for old in list(self)[: -max(KEPT, 2 * together)]:
            self.pop(old, None)
        return found[1]


def _identity(argument: Any) -> Any:
    if isinstance(argument, np.ndarray):
        return argument.shape, argument.tobytes()
    if argument is None or isinstance(argument, int | str | tuple):
        return argument
    return id(argument)
