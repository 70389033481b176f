"""What a hypergradient is."""

import abc
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.cost import Cost
from bilevel.core.status import Status
from bilevel.data.rows import Rows
from bilevel.derivatives.oracles import Oracles
from bilevel.heads import AbstractHeadSolver
from bilevel.problem.base import StackelbergProblem
from bilevel.problem.sets import ConvexSet
from bilevel.trees import Tree


class Answer(NamedTuple):
    r"""A head, and how it came about.

    Attributes:
        head: near $\theta^*(w)$, leaves (R, ...).
        solver: what solved it.
        start: where the solver started from.
        k: the number it was called with.
        factor: what the solver factored, for adjoint solves; None if nothing.

    Examples:
        >>> import torch, bilevel
        >>> head = torch.zeros(3, 2)    # of three runs
        >>> answer = bilevel.Answer(head, solver=bilevel.ClosedForm(), start=head, k=0)
        >>> answer.solver.exact, answer.factor is None
        (True, True)
    """

    head: Tree
    solver: AbstractHeadSolver
    start: Tree
    k: int
    factor: Any = None


class BodyGradient(NamedTuple):
    r"""Gradients of R bodies.

    Attributes:
        body: $\nabla\Phi$, a tree like the body.
        status: a `Status` code per run, (R,).
        adjoint: v, near $H^{-1}\partial_\theta F$, like the head; None where none is computed.
        residual: $\lVert Hv - \partial_\theta F\rVert$, (R,); None without an adjoint.
        state: for the next call of the same method.
        head: where it was taken, for methods that move the head; None: at the answer's.

    Examples:
        >>> import torch, bilevel
        >>> codes = torch.zeros(3, dtype=torch.int64)
        >>> found = bilevel.BodyGradient(body=torch.ones(3, 2), status=codes)    # of three runs
        >>> [bilevel.Status(code).name for code in found.status.tolist()]
        ['COMPLETED', 'COMPLETED', 'COMPLETED']
    """

    body: Tree
    status: Tensor
    adjoint: Tree | None = None
    residual: Tensor | None = None
    state: Any = ()
    head: Tree | None = None


class AbstractHypergradient(abc.ABC):
    r"""The gradient of $\Phi(w) = F(w, \theta^*(w))$, from a head close to $\theta^*(w)$.

    Implementations are frozen dataclasses; what evolves is in the state.

    Examples:
        >>> import bilevel
        >>> method = bilevel.Implicit(bilevel.CG())    # what those around it ask of a method
        >>> isinstance(method, bilevel.AbstractHypergradient), method.cost, method.wants_factor
        (True, Cost(gradients=1, products=3, solves=0, passes=0), False)
    """

    @abc.abstractmethod
    def check(self, problem: StackelbergProblem, solver: AbstractHeadSolver) -> None:
        """Raise `IncompatibleError` if this gradient would be wrong for `problem` and `solver`."""

    def init(self, oracles: Oracles, body: Tree, head: Tree, rows: Rows) -> Any:
        """The state before the first call (a hook); nothing by default."""
        return ()

    @abc.abstractmethod
    def gradient(
        self, oracles: Oracles, body: Tree, answer: Answer, rows: Rows, state: Any
    ) -> BodyGradient:
        r"""$\nabla\Phi$ at the bodies.

        Args:
            oracles: of the problem.
            body: leaves (R, ...).
            answer: the heads, near $\theta^*(w)$.
            rows: the rows of the step; `rows.full` are all rows.
            state: of `init` or of the call before.
        """

    @property
    def compilable(self) -> bool:
        """Whether `gradient` is tensor operations only, no decision on values (a hook)."""
        return False

    def compiles_on(self, head_set: ConvexSet) -> bool:
        """Whether it is `compilable` with heads in `head_set` (a hook)."""
        return self.compilable

    @property
    def knows_tasks(self) -> bool:
        """Whether it may get more heads than bodies, T for each one after the other (a hook)."""
        return False

    @property
    def wants_start(self) -> bool:
        """Whether it uses `answer.start`, which strategies otherwise do not keep (a hook)."""
        return False

    @property
    def wants_factor(self) -> bool:
        """Whether it uses `answer.factor`, which strategies otherwise do not keep (a hook)."""
        return False

    @property
    def draws(self) -> bool:
        """Whether `gradient` may draw something of its own for each seed (a hook).

        False promises that runs that start alike, on the same rows, stay one and the same.
        """
        return True

    @property
    @abc.abstractmethod
    def cost(self) -> Cost:
        """What one call costs."""


def fine(levels: Tree) -> Tensor:
    """The status of gradients that cannot fail, for each run or each head of a task."""
    leaf = trees.leaves(levels)[0]
    return torch.full((len(leaf),), int(Status.COMPLETED), device=leaf.device)
