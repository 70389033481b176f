"""One step of body, head and an auxiliary variable at a time, each with its own step size."""

import abc
import dataclasses
from typing import NamedTuple

import torch
from typing_extensions import override

from bilevel import trees
from bilevel.core.checks import check_instance, check_one_of
from bilevel.core.cost import Cost
from bilevel.core.schedules import Frozen, Rate, set_schedules, step_size
from bilevel.data.rows import Rows
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import IncompatibleError
from bilevel.optimizers import SGD, AbstractOptimizer
from bilevel.problem.auxiliary import AuxiliaryProblem
from bilevel.problem.base import StackelbergProblem
from bilevel.problem.sets import ConvexSet, Everywhere
from bilevel.strategies.base import AbstractStrategy, chosen
from bilevel.strategies.two_timescale import Order
from bilevel.trees import Tree


class Levels(NamedTuple):
    """A tree for each of the three: points, directions, moments or rates."""

    body: Tree
    head: Tree
    auxiliary: Tree


class SingleLoopState(NamedTuple):
    """Body, head and auxiliary variable, and the state of their optimisers."""

    body: Tree
    head: Tree
    auxiliary: Tree
    moments: Levels


class AbstractDirections(abc.ABC):
    """Where the three variables of a `SingleLoop` go; frozen dataclasses without numbers."""

    @abc.abstractmethod
    def check(self, problem: StackelbergProblem) -> None:
        """Raise `IncompatibleError` if they would be wrong for `problem`."""

    @abc.abstractmethod
    def init(self, oracles: Oracles, head: Tree, rows: Rows) -> Tree:
        """The initial auxiliary variables, leaves (R, ...)."""

    @abc.abstractmethod
    def all(self, oracles: Oracles, at: Levels, rows: Rows) -> Levels:
        """The directions of all three at one point."""

    def auxiliary_set(self, problem: StackelbergProblem) -> ConvexSet:
        """What the auxiliary variable is projected onto (a hook)."""
        return Everywhere()

    @property
    @abc.abstractmethod
    def cost(self) -> Cost:
        """What one call of `all` costs."""


@dataclasses.dataclass(frozen=True, eq=False)
class OwnDirections(AbstractDirections):
    """`AuxiliaryProblem.directions`; a call of them counts as one gradient."""

    cost = Cost(gradients=1)

    def check(self, problem: StackelbergProblem) -> None:
        """The problem must have directions."""
        if not isinstance(problem, AuxiliaryProblem):
            raise IncompatibleError(
                f"{type(problem).__name__} is no AuxiliaryProblem and has no directions of its "
                "own. Leave `directions` out: SOBA's are used then."
            )

    def init(self, oracles: Oracles, head: Tree, rows: Rows) -> Tree:
        """What the problem draws for each seed."""
        problem = oracles.problem
        assert isinstance(problem, AuxiliaryProblem)
        assert rows.source is not None
        auxiliary = rows.source.initial(problem.init_auxiliary, "auxiliary")
        problem.auxiliary_set.check(trees.take(auxiliary, 0))
        return problem.auxiliary_set.project(auxiliary)

    @override
    def all(self, oracles: Oracles, at: Levels, rows: Rows) -> Levels:
        return Levels(*oracles.directions(*at, rows))

    @override
    def auxiliary_set(self, problem: StackelbergProblem) -> ConvexSet:
        assert isinstance(problem, AuxiliaryProblem)
        return problem.auxiliary_set


@dataclasses.dataclass(frozen=True, eq=False)
class SOBA(AbstractDirections):
    r"""The implicit gradient with an adjoint $v$ that is tracked, not solved for.

    $$
    \text{head}: \partial_\theta g,
    \qquad \text{auxiliary}: g_{\theta\theta}\, v - \partial_\theta F,
    \qquad \text{body}: \partial_w F - g_{w\theta}\, v
    $$

    $v$ starts at zero. At $\theta^*(w)$ and $v = H^{-1} \partial_\theta F$ the expected direction
    of the body is $\nabla\Phi$. All are linear in the derivatives on the batch, so none is biased.

    Source: Dagreou, Ablin, Vaiter and Moreau 2022 (arXiv 2201.13409), algorithm 1 with SGD
    directions. Differs from the source in: 1. the rows of the step serve all derivatives; 2. step
    sizes of head and auxiliary may differ.

    Examples:
        >>> import bilevel
        >>> from bilevel.strategies.single_loop import SOBA
        >>> from problems.analytic import analytic
        >>> strategy = bilevel.SingleLoop(0.2, 0.5, 0.5, directions=SOBA())
        >>> solution = bilevel.solve(analytic("A5"), strategy, steps=100, seeds=1)
        >>> solution.body
        tensor([1.])
    """

    cost = Cost(gradients=2, products=2)

    def check(self, problem: StackelbergProblem) -> None:
        """v has no equation of this form where the head is held at a boundary."""
        if not isinstance(problem.head_set, Everywhere):
            raise IncompatibleError(
                f"SOBA's directions need a head without a set, and the heads of "
                f"{type(problem).__name__} lie in a {type(problem.head_set).__name__}. Use "
                "BestResponse(body_lr, solver, Implicit()), or a penalty in the set's place."
            )

    @override
    def init(self, oracles: Oracles, head: Tree, rows: Rows) -> Tree:
        return trees.tree_map(torch.zeros_like, head)

    def all(self, oracles: Oracles, at: Levels, rows: Rows) -> Levels:
        """Two gradients and two products."""
        slope, product, cross = oracles.head_products(*at, rows)
        direct, right = oracles.body_gradients(at.body, at.head, rows)
        return Levels(
            trees.tree_map(torch.sub, direct, cross),
            slope,
            trees.tree_map(torch.sub, product, right),
        )


OWN, ADJOINT = OwnDirections(), SOBA()  # made once: the compiler does not make parts


@dataclasses.dataclass(frozen=True, eq=False)
class SingleLoop(AbstractStrategy):
    r"""Body, head and auxiliary variable move together, each with its own step size.

    $$
    x \leftarrow \mathrm{Proj}[x - \eta_k\, d_x(w, \theta, h; \xi_k)]
    \quad \text{for each of the three, } x = w, \theta, h
    $$

    Args:
        body_lr: $\alpha$, a number or a schedule; 0.0 freezes the body.
        head_lr: $\beta$, a number or a schedule.
        auxiliary_lr: $\zeta$, a number or a schedule; `Polynomial(b, 0.4).scaled(c)` is
            $c \beta_k$.
        optimizer: turns directions into steps, for all three.
        order: "simultaneous": all directions at the old point (Jacobi). "alternating": first the
            auxiliary variable moves, then the head at the new auxiliary variable, then the body at
            both (Gauss-Seidel); all directions are computed three times.
        directions: where they go. None: the problem's if it is an `AuxiliaryProblem`, else `SOBA()`
            (of `bilevel.strategies`), for which the auxiliary variable is the adjoint.

    The auxiliary variable is in `solution.state.strategy.auxiliary`.

    Raises:
        ArgumentError: a rate is negative, or `order` is none of both.
        IncompatibleError: from a training: the problem states no directions, or `SOBA` meets heads
            in a set.

    Source: arXiv 2605.15530, Algorithm 1 (TDC with neural features); Dagreou et al. 2022 (SOBA).
    Differs from the source in: 1. an optimizer in the place of the plain step; 2. both orders.

    Examples:
        >>> import bilevel
        >>> head_lr = bilevel.Polynomial(0.1, 0.4)    # theorem 3.6
        >>> strategy = bilevel.SingleLoop(bilevel.Polynomial(0.01, 0.6), head_lr, head_lr.scaled(2))
        >>> strategy.order
        'simultaneous'
    """

    body_lr: Rate
    head_lr: Rate
    auxiliary_lr: Rate
    optimizer: AbstractOptimizer = dataclasses.field(default_factory=SGD)
    order: Order = "simultaneous"
    directions: AbstractDirections | None = None
    compilable = True
    draws = False

    def __post_init__(self) -> None:
        if isinstance(self.body_lr, int | float) and self.body_lr == 0:
            object.__setattr__(self, "body_lr", Frozen())
        set_schedules(self, "body_lr", "head_lr", "auxiliary_lr")
        check_instance(self.optimizer, AbstractOptimizer, "optimizer", "SGD()")
        check_one_of(self.order, Order, "order")
        check_instance(self.directions, AbstractDirections | None, "directions", "SOBA()")

    def check(self, problem: StackelbergProblem) -> None:
        """The directions must fit the problem."""
        chosen(self.directions).check(problem)

    def fitted(self, problem: StackelbergProblem) -> "SingleLoop":
        """With the directions that None stands for."""
        own = OWN if isinstance(problem, AuxiliaryProblem) else ADJOINT
        return dataclasses.replace(self, directions=self.directions or own)

    def init(self, oracles: Oracles, body: Tree, head: Tree, rows: Rows) -> SingleLoopState:
        """The initial auxiliary variables; optimiser states at zero."""
        auxiliary = chosen(self.directions).init(oracles, head, rows)
        moments = Levels(*map(self.optimizer.init, (body, head, auxiliary)))
        return SingleLoopState(body, head, auxiliary, moments)

    @override
    def step(self, oracles: Oracles, state: SingleLoopState, rows: Rows, k: int) -> SingleLoopState:
        problem, directions = oracles.problem, chosen(self.directions)
        sets = (problem.body_set, problem.head_set, directions.auxiliary_set(problem))
        rates = (self.body_lr, self.head_lr, self.auxiliary_lr)
        points, moments = list(state[:3]), list(state.moments)
        found: Levels | None = None
        for level in (2, 1, 0):
            if found is None or self.order == "alternating":
                found = directions.all(oracles, Levels(*points), rows)
            moved, moments[level] = self.optimizer.update(
                found[level], moments[level], points[level], step_size(rates[level], k)
            )
            points[level] = sets[level].project(moved)
        body, head, auxiliary = points
        return SingleLoopState(body, head, auxiliary, Levels(*moments))

    @property
    def cost(self) -> Cost:
        """What the directions cost, three times where they alternate."""
        one = chosen(self.directions).cost
        return one.plus(one).plus(one) if self.order == "alternating" else one
