"""The body descends Phi, the head answers exactly."""

import dataclasses
from typing import Any, NamedTuple

from torch import Tensor
from typing_extensions import override

from bilevel import trees
from bilevel.core.checks import check_instance
from bilevel.core.cost import Cost
from bilevel.core.schedules import Rate, set_schedules, step_size
from bilevel.data.rows import Rows
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import IncompatibleError
from bilevel.heads import AbstractHeadSolver
from bilevel.heads.default import default_solver
from bilevel.hypergradients import AbstractHypergradient, Answer
from bilevel.hypergradients.base import fine
from bilevel.hypergradients.default import default_gradient
from bilevel.optimizers import AbstractOptimizer, RMSProp
from bilevel.problem.base import StackelbergProblem
from bilevel.problem.linear_head import LinearHeadProblem
from bilevel.problem.sets import ConvexSet
from bilevel.strategies.base import AbstractStrategy, chosen
from bilevel.trees import Tree


class BestResponseState(NamedTuple):
    """The body, its best response, and what the parts remember.

    Attributes:
        body: leaves (R, ...).
        head: leaves (R, ...).
        moments: of the optimiser.
        solver: what the head solver remembers.
        codes: the worst `Status` code of each run so far, (R,).
        gradient: what the hypergradient remembers.
        start: where the head was solved from, and `factor` what it was solved with: kept only for
            hypergradients that want them, None for others.
        factor: see `start`.
    """

    body: Tree
    head: Tree
    moments: Tree
    solver: Any
    codes: Tensor
    gradient: Any = ()
    start: Tree = None
    factor: Any = None


@dataclasses.dataclass(frozen=True, eq=False)
class BestResponse(AbstractStrategy):
    r"""Gradient steps of the body, the head solved exactly at each of them.

    $$w \leftarrow \mathrm{Proj}_W[w - \alpha_k \nabla\Phi(w; \xi_k)], \qquad \theta = \theta^*(w)$$

    The head is solved on all rows, and the head of a state answers to the body of that state: a
    recorded head is exact too. With a solver that uses the rows of the step, such as
    `ClosedForm(BatchData())`, the head is solved on them at the current body, and then the body
    moves; the head of a state answers to the body before the last step.

    Args:
        body_lr: $\alpha$, a number or a schedule.
        solver: how the head is solved; None: by what is exact for the criterion and the set of
            heads. Everywhere that is `ClosedForm`, or `Newton` for linear heads whose criterion is
            not quadratic; in a `Box`, `Nonnegative` or another set with `bounds` it is
            `ProjectedNewton`; in any other set `Cvxpy`, for heads that are linear in features.
        gradient: how the body's gradient is obtained; None: `Envelope` where F is g, else
            `Implicit`.
        optimizer: turns the body's gradients into steps.

    Raises:
        ArgumentError: a rate is not positive.
        IncompatibleError: from a training: no solver is exact for the heads, or the gradient would
            be that of another function.

    Source: Danskin's theorem where F is g; elsewhere Pedregosa 2016 (arXiv 1602.02355). Differs
    from the source in: 1. an optimizer in the place of the plain step; 2. heads that are exact.

    Examples:
        >>> import bilevel
        >>> from problems.toy import ScalarProduct
        >>> strategy = bilevel.BestResponse(1.0, optimizer=bilevel.SGD())
        >>> solution = bilevel.solve(ScalarProduct(), strategy, steps=40, seeds=2)
        >>> solution.body    # the minimiser is 1.4705
        tensor([1.4705, 1.4705])
    """

    body_lr: Rate
    solver: AbstractHeadSolver | None = None
    gradient: AbstractHypergradient | None = None
    optimizer: AbstractOptimizer = dataclasses.field(default_factory=RMSProp)
    head_fields = ("head", "solver", "gradient", "start", "factor")
    passing_fields = ("start", "factor")

    def __post_init__(self) -> None:
        set_schedules(self, "body_lr")
        check_instance(self.optimizer, AbstractOptimizer, "optimizer", "RMSProp()")
        check_instance(self.solver, AbstractHeadSolver | None, "solver", "ClosedForm()")
        check_instance(self.gradient, AbstractHypergradient | None, "gradient", "Envelope()")

    def check(self, problem: StackelbergProblem) -> None:
        """Solver and gradient must fit the problem."""
        solver = chosen(self.solver)
        solver.check(problem)
        gradient = chosen(self.gradient)
        gradient.check(problem, solver)
        for part in (solver, gradient):
            if isinstance(problem, LinearHeadProblem) and problem.tasks and not part.knows_tasks:
                raise IncompatibleError(
                    f"{part} does not know heads of tasks, which {type(problem).__name__} has. Use "
                    "ClosedForm(), Newton() or FastSGD(lr, steps) as solver; Envelope(), "
                    "Implicit() or Unrolled(steps) as gradient."
                )

    def fitted(self, problem: StackelbergProblem) -> "BestResponse":
        """With the solver and the gradient that None stands for."""
        return dataclasses.replace(
            self,
            solver=self.solver or default_solver(problem),
            gradient=self.gradient or default_gradient(problem.is_stackelberg),
        )

    def init(self, oracles: Oracles, body: Tree, head: Tree, rows: Rows) -> BestResponseState:
        """Solve the heads of the initial bodies."""
        solver, gradient = chosen(self.solver), chosen(self.gradient)
        memory = solver.init(oracles, body, head, rows)
        made = BestResponseState(body, head, self.optimizer.init(body), memory, fine(body))
        made = self._solved(oracles, made, rows, 0)
        return made._replace(
            # step 0 solves on its rows itself, which must not be remembered twice
            solver=memory if solver.uses_batch else made.solver,
            gradient=gradient.init(oracles, body, made.head, rows),
        )

    def step(
        self, oracles: Oracles, state: BestResponseState, rows: Rows, k: int
    ) -> BestResponseState:
        """A body step at the exact head, then the head of the new body.

        With a solver that uses the rows of the step, and where these are of some tasks only: the
        head of the body, then the body step.
        """
        if chosen(self.solver).uses_batch or rows.tasks is not None:
            return self._moved(oracles, self._solved(oracles, state, rows, k), rows, k)
        return self._solved(oracles, self._moved(oracles, state, rows, k), rows, k + 1)

    def _solved(
        self, oracles: Oracles, state: BestResponseState, rows: Rows, k: int
    ) -> BestResponseState:
        """With the head of its body, and what the hypergradient wants to know about it."""
        solver, gradient = chosen(self.solver), chosen(self.gradient)
        start = solver.start(oracles, state.body, state.head, state.solver)
        solved = solver.solve(oracles, state.body, start, rows, state.solver, k)
        return state._replace(
            head=solved.head,
            solver=solved.state,
            # codes only grow in severity: a run that was jittered once says so at the end
            codes=state.codes.maximum(worst(solved.status, state.body)),
            start=start if gradient.wants_start else None,
            factor=solved.factor if gradient.wants_factor else None,
        )

    def _moved(
        self, oracles: Oracles, state: BestResponseState, rows: Rows, k: int
    ) -> BestResponseState:
        """The body after a step at the head of the state."""
        answer = Answer(state.head, chosen(self.solver), state.start, k, state.factor)
        slope = chosen(self.gradient).gradient(oracles, state.body, answer, rows, state.gradient)
        alpha = step_size(self.body_lr, k)
        body, moments = self.optimizer.update(slope.body, state.moments, state.body, alpha)
        return state._replace(
            body=oracles.problem.body_set.project(body),
            # where the gradient was taken: a head that was refined is the better start
            head=state.head if slope.head is None else slope.head,
            moments=moments,
            codes=state.codes.maximum(worst(slope.status, body)),
            gradient=slope.state,
        )

    def recorded(self, oracles: Oracles, state: BestResponseState, rows: Rows) -> Tree:
        """Those that answer to the bodies, where they do not depend on the last ones."""
        solver = chosen(self.solver)
        if not (solver.exact or solver.restarts):
            return state.head
        return self._solved(oracles, state, rows, 0).head

    def adapter(self, problem: StackelbergProblem) -> AbstractHeadSolver:
        """Its own solver, unless its heads depend on the last ones, which new tasks do not have."""
        solver = chosen(self.solver)
        return solver if solver.exact or solver.restarts else super().adapter(problem)

    @property
    def compilable(self) -> bool:
        """As far as solver and gradient are, and with a factor for gradients that want one."""
        solver, gradient = chosen(self.solver), chosen(self.gradient)
        given = solver.exact or not gradient.wants_factor
        return given and solver.compilable and gradient.compilable

    @override
    def compiles_on(self, head_set: ConvexSet) -> bool:
        return self.compilable and chosen(self.gradient).compiles_on(head_set)

    @property
    def draws(self) -> bool:
        """What solver and gradient draw."""
        return chosen(self.solver).draws or chosen(self.gradient).draws

    @property
    def cost(self) -> Cost:
        """What solver and gradient cost."""
        return chosen(self.gradient).cost.plus(chosen(self.solver).cost)

    def status(self, state: BestResponseState) -> Tensor:
        """The worst code of the head solves and the gradients so far."""
        return state.codes


def worst(codes: Tensor, body: Tree) -> Tensor:
    """The worst code of the heads of each run."""
    runs = len(trees.leaves(body)[0])
    return codes if len(codes) == runs else codes.reshape(runs, -1).amax(1)
