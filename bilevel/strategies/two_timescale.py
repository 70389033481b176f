"""Two step sizes, one for each level."""

import dataclasses
from typing import Literal, NamedTuple

import torch
from typing_extensions import override

from bilevel.core.checks import Number, check_instance, check_one_of, check_positive_integer
from bilevel.core.cost import Cost
from bilevel.core.schedules import AbstractSchedule, Constant, Rate, set_schedules, step_size
from bilevel.data.rows import Rows
from bilevel.derivatives.oracles import Oracles
from bilevel.hypergradients import Envelope
from bilevel.optimizers import AbstractOptimizer, RMSProp
from bilevel.problem.base import StackelbergProblem
from bilevel.strategies.base import AbstractStrategy
from bilevel.trees import Tree

Order = Literal["alternating", "simultaneous"]


class TwoTimescaleState(NamedTuple):
    """Both levels and the state of their optimisers."""

    body: Tree
    head: Tree
    body_moments: Tree
    head_moments: Tree


class Moves(NamedTuple):
    """How a step moves both levels, whatever the rates are; see `TwoTimescale`."""

    optimizer: AbstractOptimizer
    order: Order
    head_steps: int = 1

    def made(
        self, oracles: Oracles, state: TwoTimescaleState, rows: Rows, alpha: Number, beta: Number
    ) -> TwoTimescaleState:
        """The state after one body step of size `alpha` and the head steps of size `beta`."""
        body, head, body_moments, head_moments = state
        update, problem = self.optimizer.update, oracles.problem
        head_gradient: Tree | None = None
        if self.order == "simultaneous":
            body_gradient, head_gradient = oracles.joint_gradient(body, head, rows)
        else:
            body_gradient = oracles.direct_gradient(body, head, rows)
        moved, body_moments = update(body_gradient, body_moments, body, alpha)
        moved = problem.body_set.project(moved)
        seen = body if self.order == "simultaneous" else moved
        for _ in range(self.head_steps):
            if head_gradient is None:
                head_gradient = oracles.head_gradient(seen, head, rows)
            head, head_moments = update(head_gradient, head_moments, head, beta)
            head, head_gradient = problem.head_set.project(head), None
        return TwoTimescaleState(moved, head, body_moments, head_moments)


@dataclasses.dataclass(frozen=True, eq=False)
class TwoTimescale(AbstractStrategy):
    r"""Gradient steps on both levels, small ones for the body and large ones for the head.

    $$
    \begin{aligned}
    w &\leftarrow \mathrm{Proj}_W[w - \alpha_k\, \partial_w g(w, \theta; \xi_k)] \\
    \theta &\leftarrow \mathrm{Proj}_\Theta[\theta - \beta_k\, \partial_\theta g(w, \theta; \xi_k)]
    \end{aligned}
    $$

    Args:
        body_lr: $\alpha$, a number or a schedule.
        head_lr: $\beta$, a number or a schedule.
        optimizer: turns gradients into steps, at both levels.
        order: "alternating": the head's gradient is taken at the new body (Gauss-Seidel);
            "simultaneous": at the old one, both in one backward pass (Jacobi).
        head_steps: head steps per body step, all on the same rows.

    Raises:
        ArgumentError: a rate is not positive, `order` is none of both, or `head_steps` no positive
            integer.
        IncompatibleError: from a training where F is not g: the body needs `BestResponse` there.

    Source: arXiv 2605.15530, algorithm (2). Differs from the source in: 1. an optimizer in the
    place of the plain step (the paper's experiments use RMSProp); 2. both orders are offered, as
    the text and the proofs of the paper differ.

    Examples:
        >>> import bilevel
        >>> bilevel.TwoTimescale(5e-4, 5e-3).order
        'alternating'
    """

    body_lr: Rate
    head_lr: Rate
    optimizer: AbstractOptimizer = dataclasses.field(default_factory=RMSProp)
    order: Order = "alternating"
    head_steps: int = 1
    compilable = True
    draws = False
    head_fields = ("head", "head_moments")

    def __post_init__(self) -> None:
        set_schedules(self, "body_lr", "head_lr")
        check_instance(self.optimizer, AbstractOptimizer, "optimizer", "RMSProp()")
        check_one_of(self.order, Order, "order")
        check_positive_integer(self.head_steps, "`head_steps`")

    def check(self, problem: StackelbergProblem) -> None:
        """Both levels follow g, which is right only if F is g."""
        Envelope().check(problem)

    @override
    def init(self, oracles: Oracles, body: Tree, head: Tree, rows: Rows) -> TwoTimescaleState:
        return TwoTimescaleState(body, head, self.optimizer.init(body), self.optimizer.init(head))

    def step(
        self, oracles: Oracles, state: TwoTimescaleState, rows: Rows, k: int
    ) -> TwoTimescaleState:
        """One body step and `head_steps` head steps."""
        alpha, beta = step_size(self.body_lr, k), step_size(self.head_lr, k)
        moves = Moves(self.optimizer, self.order, self.head_steps)
        return moves.made(oracles, state, rows, alpha, beta)

    @property
    def is_uniform(self) -> bool:
        """Whether both levels have the same constant rate."""
        body, head = self.body_lr, self.head_lr
        if isinstance(body, Constant) and isinstance(head, Constant):
            return bool(torch.all(torch.as_tensor(body.value) == torch.as_tensor(head.value)))
        return body is head

    @property
    def rates(self) -> tuple[tuple[str, ...], ...]:
        """Two, or one if both levels share it."""
        return (("body_lr", "head_lr"),) if self.is_uniform else (("body_lr",), ("head_lr",))

    @property
    def cost(self) -> Cost:
        """A joint gradient counts once."""
        return Cost(gradients=self.head_steps + (self.order == "alternating"))


def uniform(
    lr: Number | AbstractSchedule,
    optimizer: AbstractOptimizer | None = None,
    *,
    order: Order = "alternating",
    head_steps: int = 1,
) -> TwoTimescale:
    r"""The same step size at both levels, $\alpha = \beta$: the usual baseline.

    It is `TwoTimescale(lr, lr, ...)`.

    Args:
        lr: $\alpha = \beta$, a number or a schedule.
        optimizer: turns gradients into steps, at both levels; None: `RMSProp()`.
        order: as in `TwoTimescale`.
        head_steps: likewise.

    Returns:
        The strategy, whose `is_uniform` is True.

    Raises:
        ArgumentError: see `TwoTimescale`.

    Source: arXiv 2605.15530, section 5: the baselines. Differs from the source in: None.

    Examples:
        >>> import bilevel
        >>> bilevel.uniform(1e-3).is_uniform, bilevel.TwoTimescale(1e-3, 1e-2).is_uniform
        (True, False)
    """
    return TwoTimescale(lr, lr, RMSProp() if optimizer is None else optimizer, order, head_steps)
