"""A strategy that puts the exact head in the place of the trained one, now and then."""

import dataclasses
from typing import Any, NamedTuple

from torch import Tensor
from typing_extensions import override

from bilevel import AbstractStrategy, ClosedForm, Cost
from bilevel.core.checks import check_instance, check_positive_integer
from bilevel.data.rows import Rows
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import IncompatibleError
from bilevel.hypergradients.base import fine
from bilevel.problem.base import StackelbergProblem
from bilevel.trees import Tree


class RefitState(NamedTuple):
    """Both levels, the state of the inner strategy, and what the solver remembers.

    Attributes:
        body: leaves (R, ...).
        head: leaves (R, ...).
        inner: of the strategy that makes the steps.
        solver: of the solver.
        codes: the worst `Status` code of each run so far, (R,).
    """

    body: Tree
    head: Tree
    inner: Any
    solver: Any
    codes: Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Refit(AbstractStrategy):
    """Steps of another strategy; every so often the head is solved before them, on more rows.

    Args:
        inner: makes the steps. Its moments are kept when the head is replaced.
        every: a refit comes before the steps 0, every, 2 every, ...
        rows: of an experience, drawn for each refit.

    Raises:
        ArgumentError: an argument is none of these.

    Source: Levine et al., Shallow updates for deep reinforcement learning (LS-DQN), 2017. Differs
    from the source in: 1. the penalty of the problem, in the scale of 1/n; 2. refits are as far
    apart as copies of the target network, not 50 of them.

    Examples:
        >>> import bilevel
        >>> from problems.deep_q.refit import Refit
        >>> Refit(bilevel.TwoTimescale(2.5e-4, 1.25e-3), every=125).rows
        4096
    """

    inner: AbstractStrategy
    every: int
    rows: int = 4096
    head_fields = ()

    def __post_init__(self) -> None:
        check_instance(self.inner, AbstractStrategy, "inner", "TwoTimescale(1e-3, 1e-2)")
        for name in ("every", "rows"):
            check_positive_integer(getattr(self, name), f"`{name}`")

    def check(self, problem: StackelbergProblem) -> None:
        """The inner strategy and an exact head must fit the problem."""
        self.inner.check(problem)
        SOLVER.check(problem)

    @override
    def init(self, oracles: Oracles, body: Tree, head: Tree, rows: Rows) -> RefitState:
        inner = self.inner.init(oracles, body, head, rows)
        memory = SOLVER.init(oracles, body, head, rows)
        return RefitState(body, head, inner, memory, fine(body))

    @override
    def step(self, oracles: Oracles, state: RefitState, rows: Rows, k: int) -> RefitState:
        inner, codes, memory = state.inner, state.codes, state.solver
        if k % self.every == 0:
            if rows.source is None:
                raise IncompatibleError("Refit draws further rows, and these have no source.")
            more = rows.source.more("train", self.rows, k)
            solved = SOLVER.solve(oracles, inner.body, inner.head, more, memory, k)
            inner, memory = inner._replace(head=solved.head), solved.state
            codes = codes.maximum(solved.status)
        inner = self.inner.step(oracles, inner, rows, k)
        return RefitState(inner.body, inner.head, inner, memory, codes)

    @property
    @override
    def cost(self) -> Cost:
        solved = SOLVER.cost
        share = Cost(solves=solved.solves / self.every)
        return self.inner.cost.plus(share)

    @override
    def status(self, state: RefitState) -> Tensor:
        return state.codes


SOLVER = ClosedForm()
