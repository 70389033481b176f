"""What a strategy is."""

import abc
import dataclasses
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from bilevel.core.cost import Cost
from bilevel.core.schedules import AbstractSchedule, Frozen
from bilevel.data.rows import Rows
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import ArgumentError
from bilevel.heads import AbstractHeadSolver
from bilevel.heads.default import default_solver
from bilevel.problem.base import StackelbergProblem
from bilevel.problem.sets import ConvexSet
from bilevel.trees import Tree

Part = TypeVar("Part")


class AbstractStrategy(abc.ABC):
    """How the two levels move, for R runs at once.

    Implementations are frozen dataclasses; the state is a NamedTuple with `body` and `head`. Its
    leaves have the run axis first. `fitted` is asked for first: what it returns is checked, makes
    the steps, and says what they cost.

    Examples:
        >>> import bilevel
        >>> strategy = bilevel.TwoTimescale(5e-4, 5e-3)    # what trainings ask of a strategy
        >>> isinstance(strategy, bilevel.AbstractStrategy), strategy.rates, strategy.draws
        (True, (('body_lr',), ('head_lr',)), False)
    """

    head_fields: ClassVar[tuple[str, ...]] = ()
    """Fields of its state that belong to heads, not to bodies; (): it trains no heads of tasks."""
    passing_fields: ClassVar[tuple[str, ...]] = ()
    """Those of them that only the step that made them asks for, where it sees some tasks."""
    resumable: ClassVar[bool] = True
    """Whether its state can be stored and gone on from."""

    def fitted(self, problem: StackelbergProblem) -> "AbstractStrategy":
        """The strategy with parts in the place of defaults that depend on the problem (a hook)."""
        return self

    @abc.abstractmethod
    def check(self, problem: StackelbergProblem) -> None:
        """Raise `IncompatibleError` if this strategy would follow a wrong gradient."""

    @abc.abstractmethod
    def init(self, oracles: Oracles, body: Tree, head: Tree, rows: Rows) -> Any:
        """The state before the first step.

        Args:
            oracles: of the problem.
            body: initial bodies, leaves (R, ...).
            head: initial heads.
            rows: the rows of step 0; `rows.full` are all rows.
        """

    @abc.abstractmethod
    def step(self, oracles: Oracles, state: Any, rows: Rows, k: int) -> Any:
        """The state after step `k`, made on `rows`."""

    @property
    def compilable(self) -> bool:
        """Whether `step` is made of tensor operations only, with no decision on values (a hook)."""
        return False

    def compiles_on(self, head_set: ConvexSet) -> bool:
        """Whether it is `compilable` with heads in `head_set` (a hook)."""
        return self.compilable

    @property
    def draws(self) -> bool:
        """Whether a step may draw something of its own for each seed (a hook).

        False promises that runs that start alike, on the same rows, stay one and the same.
        """
        return True

    @property
    @abc.abstractmethod
    def cost(self) -> Cost:
        """What one step costs."""

    @property
    def rates(self) -> tuple[tuple[str, ...], ...]:
        """The fields that hold rates, for `Tuning`; those of a group are one rate (a hook).

        By default every schedule in a field whose name ends in `_lr` is a rate of its own, but for
        those that are `Frozen`.
        """
        names = [field.name for field in dataclasses.fields(self)]  # type: ignore[arg-type]
        held = {name: getattr(self, name) for name in names if name.endswith("_lr")}
        moving = {k: rate for k, rate in held.items() if not isinstance(rate, Frozen)}
        return tuple((k,) for k, rate in moving.items() if isinstance(rate, AbstractSchedule))

    def recorded(self, oracles: Oracles, state: Any, rows: Rows) -> Tree:
        """The heads of tasks to show in records and solutions (a hook); `rows`: all of them."""
        return state.head

    def adapter(self, problem: StackelbergProblem) -> AbstractHeadSolver:
        """What finds the heads of new tasks (a hook): what is exact for them."""
        return default_solver(problem)

    def status(self, state: Any) -> Tensor | None:
        """The worst `Status` code of each run so far, (R,) (a hook); None if there is none."""
        return None


def chosen(part: Part | None) -> Part:
    """A part that `fitted` puts in the place of None."""
    if part is None:
        raise ArgumentError(
            "A part of this strategy is left to the problem, which it does not know yet. Ask "
            "`strategy.fitted(problem)`, which has that part."
        )
    return part
