"""What a head solver is."""

import abc
from typing import Any, NamedTuple

from torch import Tensor

from bilevel.core.cost import Cost
from bilevel.data.rows import Rows
from bilevel.derivatives.oracles import Oracles
from bilevel.problem.base import StackelbergProblem
from bilevel.trees import Tree


class HeadSolution(NamedTuple):
    r"""Heads of R runs, or of R T tasks.

    Attributes:
        head: $\theta$, leaves (R, ...), in the type of the head that came in.
        residual: $\lVert\partial_\theta g\rVert$ at the head, (R,); of a projected solver with a
            head set, the norm of the gradient mapping.
        status: a `Status` code per run, (R,).
        state: for the next call of the same solver.
        factor: of the Hessian, for adjoint solves: see `bilevel.linear.factor`; None if none.
        words: what another program that solved the heads said, one sentence per run; () if none.
    """

    head: Tree
    residual: Tensor
    status: Tensor
    state: Any
    factor: Any = None
    words: tuple[str, ...] = ()


class AbstractHeadSolver(abc.ABC):
    r"""Solves the head, $\theta \approx \arg\min_\theta g(w, \theta)$, for R runs at once.

    Implementations are frozen dataclasses of hyper-parameters; what evolves is in the state.

    Examples:
        >>> import bilevel
        >>> solver = bilevel.FastSGD(0.1, steps=5)    # what those around it ask of a solver
        >>> isinstance(solver, bilevel.AbstractHeadSolver), solver.exact, solver.cost.gradients
        (True, False, 0)
    """

    def check(self, problem: StackelbergProblem) -> None:  # noqa: B027 - a hook
        """Raise `IncompatibleError` if this solver cannot solve the heads of `problem` (a hook)."""

    @abc.abstractmethod
    def init(self, oracles: Oracles, body: Tree, head: Tree, rows: Rows) -> Any:
        """The state before the first call; checks what can be checked once, at the initial point.

        Raises:
            SingularHeadError: the head has no unique minimiser.
        """

    @abc.abstractmethod
    def solve(
        self, oracles: Oracles, body: Tree, head: Tree, rows: Rows, state: Any, k: int
    ) -> HeadSolution:
        """The heads that answer to the bodies.

        Args:
            oracles: of the problem.
            body: leaves (R, ...).
            head: where to start from, leaves (R, ...); of tasks (R T, ...).
            rows: the rows of the step; `rows.full` are all rows.
            state: of `init` or of the call before.
            k: the number of the body step, for solvers that draw rows.
        """

    def start(self, oracles: Oracles, body: Tree, head: Tree, state: Any) -> Tree:
        """Where a solve starts from that is told to start from the last heads (a hook): there."""
        return head

    @property
    def restarts(self) -> bool:
        """Whether `start` does not depend on the last heads (a hook)."""
        return False

    @property
    def knows_tasks(self) -> bool:
        """Whether it may get more heads than bodies, T for each one after the other (a hook)."""
        return False

    @property
    def compilable(self) -> bool:
        """Whether `solve` is tensor operations only, no decision on values (a hook)."""
        return False

    @property
    def exact(self) -> bool:
        r"""Whether $\partial_\theta g$ vanishes at its heads, but for rounding and their status."""
        return False

    @property
    def restricts(self) -> bool:
        """Whether heads stay in a smaller set than the problem's `head_set` (a hook)."""
        return False

    @property
    def uses_batch(self) -> bool:
        """Whether the heads depend on the rows of the step, not on `rows.full` alone (a hook).

        `BestResponse` then solves the head on the rows of a step before it moves the body on the
        same rows. The head in its state answers to the body before the last step.
        """
        return False

    @property
    def draws(self) -> bool:
        """Whether `solve` may draw something of its own for each seed (a hook).

        False promises that runs that start alike, on the same rows, stay one and the same.
        """
        return True

    @property
    @abc.abstractmethod
    def cost(self) -> Cost:
        """What one call of `solve` costs."""
