"""Phi and its gradient at one body of a run after the other."""

import dataclasses
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch

from bilevel import trees
from bilevel.core.checks import check_instance
from bilevel.core.status import Status
from bilevel.data.known import Known
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.assembly import Assembly
from bilevel.derivatives.contract import check_hooks
from bilevel.errors import ProblemError, SingularHeadError
from bilevel.heads import AbstractHeadSolver, Newton, ProjectedNewton
from bilevel.heads.default import default_solver
from bilevel.hypergradients import AbstractHypergradient, Answer
from bilevel.hypergradients.default import default_gradient
from bilevel.point.examined import Examined
from bilevel.point.single import check_single
from bilevel.problem.base import StackelbergProblem
from bilevel.problem.linear_head import LinearHeadProblem
from bilevel.trees import Tree

FINEST = 1e-14
"""Of |d_theta g|, where there is a choice: an end by the rounding of heads comes before the end by
the rounding of F, and a warm solve that goes so far costs no more."""


class Step(NamedTuple):
    """What is found at a body; NaN where there is no head."""

    value: float
    slope: Tree  # like the body, without a run axis
    status: Status


class Kept(NamedTuple):
    """What the next solve may start from."""

    head: Tree
    memory: Any  # of the solver
    adjoint: Any = None  # what the method keeps; None: before its first gradient


class Walk:
    """Bodies of one run, each asked for Phi and its gradient on all rows, without noise.

    The heads of solvers that are exact start from the last ones, with what the solver keeps. Other
    heads would depend on the way then, and Phi would be no function: they start where the first
    one did, and draw the same rows.

    Args:
        data: of one seed.
        body: where to start, projected onto its set; None: where the problem says.
        solver: of the heads; None: one that is exact.
        method: of the gradient; None: the one that fits.

    Attributes:
        start: the first body.
        solves: how many heads were solved.
    """

    def __init__(
        self,
        data: TrainingData,
        body: Tree | None,
        solver: AbstractHeadSolver | None,
        method: AbstractHypergradient | None,
    ) -> None:
        self.problem = problem = data.problem
        if body is None:
            body = trees.take(Assembly.of(data).body, 0)
        body = trees.cast(trees.detach(body), data.dtype)
        self.examined = Examined(data, body, Known(), None, head_only=False)
        self.start = trees.take(problem.body_set.project(self.examined.made.body), 0)
        self._alone = self.examined.made.sampler.full.first(self.examined.made.body).alone
        made = self.examined.made.apart() if data.tasks else self.examined.made
        self.oracles, self.rows = made.oracles, made.sampler.full
        self.oracles.known = None  # what stays the same is kept by the solver
        self.solver = finest_solver(problem) if solver is None else solver
        check_instance(self.solver, AbstractHeadSolver, "solver", "ClosedForm()")
        self.solver.check(problem)
        stackelberg = self.oracles.is_stackelberg
        self.method = default_gradient(stackelberg) if method is None else method
        check_instance(self.method, AbstractHypergradient, "gradient", "Implicit()")
        self.method.check(problem, self.solver)
        for part in (self.solver, self.method):
            check_single(part)
        self.warm = self.solver.exact and not self.solver.uses_batch
        self._like, self._head = made.body, made.head
        self._first: Kept | None = None
        self._last: Kept
        self.solves = 0

    def __call__(self, body: Tree) -> Step:
        """Phi and its gradient at a body."""
        self._check(body)
        # with tasks, each is a run of its own with the same body
        body = trees.tree_map(lambda leaf, like: leaf.expand_as(like), body, self._like)
        try:
            # nothing is left of a chunk when it is asked for again
            shared = self.oracles.sharing() if self.rows.chunks is None else nullcontext()
            with self.examined.told(), shared:
                return self._step(body)
        except SingularHeadError:
            if self._first is None:  # at the first body
                raise
            nothing = trees.tree_map(lambda leaf: torch.full_like(leaf[0], torch.nan), body)
            return Step(float("nan"), nothing, Status.SINGULAR)

    def _check(self, body: Tree) -> None:
        """Raise if penalties or weights of rows are negative at a body on the way."""
        if not isinstance(self.problem, LinearHeadProblem):
            return
        try:
            check_hooks(self.oracles, body, self._alone, "a body on the way")
        except ProblemError as error:
            raise ProblemError(
                f"{error} State bounds of the body as `body_set`, such as Nonnegative(), or let an "
                "exponential keep it positive."
            ) from error

    def _step(self, body: Tree) -> Step:
        """From the last head; from the first one if that leads nowhere."""
        if self._first is None:
            memory = self.solver.init(self.oracles, body, self._head, self.rows)
            self._first = self._last = Kept(self._head, memory)
        found, kept = self._solved(body, self._last)
        if found.status.failed and self._last is not self._first:
            found, kept = self._solved(body, self._first)
        if found.status.failed:
            return found._replace(value=float("nan"))
        if self.warm:
            self._last = kept
        return found

    def _solved(self, body: Tree, kept: Kept) -> tuple[Step, Kept]:
        """What is found from a head, and what to start the next solve from."""
        oracles, rows, solver = self.oracles, self.rows, self.solver
        start = solver.start(oracles, body, kept.head, kept.memory)
        self.solves += 1
        solved = solver.solve(oracles, body, start, rows, kept.memory, 0)
        adjoint = kept.adjoint
        if adjoint is None:
            adjoint = self.method.init(oracles, body, solved.head, rows)
        jittered = bool((solved.status == int(Status.JITTERED)).any())
        answer = Answer(solved.head, solver, start, 0, None if jittered else solved.factor)
        found = self.method.gradient(oracles, body, answer, rows, adjoint)
        head = solved.head if found.head is None else found.head
        value = float(oracles.body_value(body, head, rows).mean())
        status = Status(int(torch.maximum(solved.status.max(), found.status.max())))
        slope = trees.tree_map(lambda leaf: leaf.mean(0), found.body)
        return Step(value, slope, status), Kept(head, solved.state, found.state)


def finest_solver(problem: StackelbergProblem) -> AbstractHeadSolver:
    """The solver that is exact, to rounding: line searches see what heads leave out."""
    solver = default_solver(problem)
    if isinstance(solver, Newton | ProjectedNewton):
        return dataclasses.replace(solver, tolerance=FINEST)
    return solver
