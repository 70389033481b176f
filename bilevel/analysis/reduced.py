"""Phi and its gradient at R bodies at once, each with its head solved."""

from typing import Any

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.checks import check_instance
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.assembly import Assembly
from bilevel.derivatives.contract import check_contract
from bilevel.heads import AbstractHeadSolver
from bilevel.heads.default import default_solver
from bilevel.hypergradients import Answer
from bilevel.hypergradients.default import default_gradient
from bilevel.trees import Tree


class Reduced:
    """Phi(w) = F(w, theta*(w)) of R bodies as vectors (R, n), in float64 on all rows.

    Where a head is solved from is remembered from call to call, and nothing else.

    Args:
        data: for R runs, in float64; with the problem.
        solver: of the heads; None: what is exact for them.

    Raises:
        BilevelError: what a training would refuse.
    """

    def __init__(self, data: TrainingData, solver: AbstractHeadSolver | None = None) -> None:
        made = Assembly.of(data)
        check_contract(made)
        self.problem, self.oracles, self.rows = data.problem, made.oracles, made.sampler.full
        self.like, self.head = made.body, made.heads
        self.solver = default_solver(data.problem) if solver is None else solver
        check_instance(self.solver, AbstractHeadSolver, "solver", "ClosedForm()")
        self.solver.check(data.problem)
        self.method = default_gradient(self.oracles.is_stackelberg)
        self.method.check(data.problem, self.solver)
        self._memory = self.solver.init(self.oracles, made.body, self.head, self.rows)
        self._state: Any = None

    @property
    def runs(self) -> int:
        """R."""
        return len(trees.leaves(self.like)[0])

    def vector(self, body: Tree) -> Tensor:
        """Bodies, leaves (R, ...), as vectors in float64."""
        return trees.flatten(trees.cast(body, torch.float64))

    def body(self, vector: Tensor) -> Tree:
        """The reverse."""
        return trees.unflatten(vector, self.like)

    def solved(self, body: Tree) -> Answer:
        """The heads of bodies."""
        at = (self.oracles, body)
        start = self.solver.start(*at, self.head, self._memory)
        found = self.solver.solve(*at, start, self.rows, self._memory, 0)
        lost = ~trees.finite(found.head)
        # a body whose head was lost must not be where the next one starts
        self.head = trees.where(lost, self.head, found.head) if bool(lost.any()) else found.head
        self._memory = found.state
        return Answer(found.head, self.solver, start, 0, found.factor)

    def value(self, vector: Tensor) -> Tensor:
        """Phi, (R,)."""
        body = self.body(vector)
        return self._mean(self.oracles.body_value(body, self.solved(body).head, self.rows))

    def both(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Phi (R,) and grad Phi (R, n): Danskin's gradient where F is g, else the implicit one."""
        body = self.body(vector)
        with self.oracles.sharing():
            answer = self.solved(body)
            if self._state is None:
                self._state = self.method.init(self.oracles, body, answer.head, self.rows)
            found = self.method.gradient(self.oracles, body, answer, self.rows, self._state)
            value = self._mean(self.oracles.body_value(body, answer.head, self.rows))
        return value, trees.flatten(found.body)

    def gradient(self, vector: Tensor) -> Tensor:
        """grad Phi, (R, n)."""
        return self.both(vector)[1]

    def _mean(self, values: Tensor) -> Tensor:
        """Of a run's tasks."""
        return values if len(values) == self.runs else values.reshape(self.runs, -1).mean(1)
