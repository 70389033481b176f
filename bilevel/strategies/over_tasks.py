"""A strategy for heads of tasks: each step is one of the tasks that it sees."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from bilevel import trees
from bilevel.core.cost import Cost
from bilevel.data.rows import Rows
from bilevel.data.sampler import Sampler
from bilevel.derivatives.oracles import Oracles
from bilevel.derivatives.over_heads import runs_of
from bilevel.errors import IncompatibleError
from bilevel.heads import AbstractHeadSolver
from bilevel.problem.base import StackelbergProblem
from bilevel.problem.sets import ConvexSet
from bilevel.strategies.base import AbstractStrategy
from bilevel.trees import Tree


@dataclasses.dataclass(frozen=True, eq=False)
class OverTasks(AbstractStrategy):
    """A strategy whose state holds T heads for each body, leaves (R, T, ...).

    A step takes the heads of its tasks, and what belongs to them, out of the state, moves them as
    if they were those of runs of their own, and puts them back. The other heads stay.

    Args:
        inner: how the levels move; it sees heads (R B, ...) and bodies (R, ...).
        batched: whether steps see B of the T tasks, not all.
    """

    inner: AbstractStrategy
    batched: bool

    @override
    def check(self, problem: StackelbergProblem) -> None:
        if not self.inner.head_fields:
            raise IncompatibleError(
                f"{type(self.inner).__name__} trains no heads of tasks, which "
                f"{type(problem).__name__} has. Use BestResponse, or TwoTimescale where F is g."
            )
        self.inner.check(problem)

    @override
    def init(self, oracles: Oracles, body: Tree, head: Tree, rows: Rows) -> Any:
        everything = rows if rows.all_rows is None else rows.all_rows
        made = self.inner.init(oracles, body, trees.fold(head), everything)
        if self.batched:  # heads that no step has seen are the initial ones
            made = made._replace(head=trees.fold(head))
        return self._stored(self._heads(made, lambda tree: trees.unfold(tree, runs_of(body))))

    @override
    def step(self, oracles: Oracles, state: Any, rows: Rows, k: int) -> Any:
        which, runs = rows.tasks, runs_of(state.body)
        if which is None:
            made = self.inner.step(oracles, self._heads(state, trees.fold), rows, k)
            return self._heads(made, lambda tree: trees.unfold(tree, runs))
        run = torch.arange(runs, device=which.device).unsqueeze(1)

        def put(old: Any, new: Any) -> Any:
            if not isinstance(old, Tensor):
                return new
            return old.index_put((run, which), new.unflatten(0, tuple(which.shape)))

        taken = self._heads(state, lambda tree: trees.fold(trees.part(tree, (run, which))))
        made = self._stored(self.inner.step(oracles, taken, rows, k))
        names = (name for name in self.inner.head_fields if getattr(made, name) is not None)
        fields = {n: trees.tree_map(put, getattr(state, n), getattr(made, n)) for n in names}
        return made._replace(**fields)

    @override
    def recorded(self, oracles: Oracles, state: Any, rows: Rows) -> Tree:
        if not self.batched:
            return state.head
        found = self.inner.recorded(oracles, self._heads(state, trees.fold), rows)
        return trees.unfold(found, runs_of(state.body))

    @override
    def adapter(self, problem: StackelbergProblem) -> AbstractHeadSolver:
        return self.inner.adapter(problem)

    def _heads(self, state: Any, function: Callable[[Tree], Tree]) -> Any:
        """The state with `function` of what belongs to heads."""
        fields = {name: getattr(state, name) for name in self.inner.head_fields}
        return state._replace(**{n: function(x) for n, x in fields.items() if x is not None})

    def _stored(self, state: Any) -> Any:
        """What is kept: of some tasks at a time nothing that the next step does not ask for."""
        return state._replace(**dict.fromkeys(self.inner.passing_fields if self.batched else ()))

    @property
    @override
    def compilable(self) -> bool:
        return self.inner.compilable

    @override
    def compiles_on(self, head_set: ConvexSet) -> bool:
        return self.inner.compiles_on(head_set)

    @property
    @override
    def draws(self) -> bool:
        return self.inner.draws

    @property
    @override
    def cost(self) -> Cost:
        return self.inner.cost

    @property
    @override
    def rates(self) -> tuple[tuple[str, ...], ...]:
        return self.inner.rates

    @override
    def status(self, state: Any) -> Tensor | None:
        return self.inner.status(state)


def over_tasks(strategy: AbstractStrategy, sampler: Sampler) -> AbstractStrategy:
    """The strategy for the tasks that a sampler draws."""
    return OverTasks(strategy, batched=sampler.batch_sizes["train"] is not None)
