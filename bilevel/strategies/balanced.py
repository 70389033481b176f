"""Two rates from the norms of two layers."""

import dataclasses

import torch
from torch import Tensor
from typing_extensions import override

from bilevel import trees
from bilevel.core.checks import Number, check_instance, check_one_of
from bilevel.core.cost import Cost
from bilevel.core.generators import generator
from bilevel.core.schedules import Rate, set_schedules, step_size
from bilevel.data.rows import Rows
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import IncompatibleError
from bilevel.hypergradients import Envelope
from bilevel.optimizers import AbstractOptimizer, RMSProp
from bilevel.problem.base import StackelbergProblem
from bilevel.problem.linear_head import LinearHeadProblem
from bilevel.strategies.base import AbstractStrategy
from bilevel.strategies.two_timescale import Moves, Order, TwoTimescaleState
from bilevel.trees import Tree


@dataclasses.dataclass(frozen=True, eq=False)
class BalancedRates(AbstractStrategy):
    r"""Gradient steps at rates from the norms of the body's layer and the head, at every step.

    $$
    \alpha_k = \frac{2 \lVert\theta\rVert}{\lVert W\rVert + \lVert\theta\rVert}\,\text{lr},
    \qquad \beta_k = \frac{2 \lVert W\rVert}{\lVert W\rVert + \lVert\theta\rVert}\,\text{lr}
    $$

    Each layer moves the faster the smaller it is beside the other one; their rates are `lr` on
    average. For a body of one layer: one matrix (or kernel of a convolution) $W$, and vectors such
    as biases, which move at its rate and do not count in the norms; nor does the bias of the head.

    Args:
        lr: a number or a schedule.
        optimizer: turns gradients into steps, at both levels.
        order: as in `TwoTimescale`.

    Raises:
        IncompatibleError: from a training, if the body has another number of matrices, or the
            problem has tasks.

    Source: the scheduler of the authors' code of arXiv 2606.00340, for two layers. Differs from the
    source in: 1. an optimizer in the place of the plain step; 2. the head, which their code holds
    fixed in networks with one output, is the second layer. Their code for 4 and 8 layers has
    constant rates, and no such rule.

    Examples:
        >>> import bilevel
        >>> from problems.linear_networks import linear_network
        >>> strategies = {"uniform": bilevel.uniform(0.1, bilevel.SGD()),
        ...               "balanced": bilevel.BalancedRates(0.1, bilevel.SGD())}
        >>> comparison = bilevel.compare(linear_network(), strategies, steps=5, seeds=2)
    """

    lr: Rate
    optimizer: AbstractOptimizer = dataclasses.field(default_factory=RMSProp)
    order: Order = "alternating"
    compilable = True
    draws = False

    def __post_init__(self) -> None:
        set_schedules(self, "lr")
        check_instance(self.optimizer, AbstractOptimizer, "optimizer", "RMSProp()")
        check_one_of(self.order, Order, "order")

    def check(self, problem: StackelbergProblem) -> None:
        """Both levels follow g; two layers."""
        Envelope().check(problem)
        if getattr(problem, "tasks", False):
            raise IncompatibleError(
                "`BalancedRates` needs one head: with tasks there are many, of different norms. "
                "Use TwoTimescale(body_lr, head_lr)."
            )
        matrices = _matrices(problem.init_body(generator(0, "body")), axes=2)
        if len(matrices) != 1:
            raise IncompatibleError(
                f"`BalancedRates` is made for two layers, the body's and the head, but the body "
                f"has {len(matrices)} matrices. No rule for other depths is known: use "
                "TwoTimescale(body_lr, head_lr)."
            )

    @override
    def init(self, oracles: Oracles, body: Tree, head: Tree, rows: Rows) -> TwoTimescaleState:
        return TwoTimescaleState(body, head, self.optimizer.init(body), self.optimizer.init(head))

    def step(
        self, oracles: Oracles, state: TwoTimescaleState, rows: Rows, k: int
    ) -> TwoTimescaleState:
        """One step of each level."""
        alpha, beta = balanced(*norms(oracles.problem, state), step_size(self.lr, k))
        return Moves(self.optimizer, self.order).made(oracles, state, rows, alpha, beta)

    @property
    def rates(self) -> tuple[tuple[str, ...], ...]:
        """One."""
        return (("lr",),)

    @property
    def cost(self) -> Cost:
        """A joint gradient counts once."""
        return Cost(gradients=1 + (self.order == "alternating"))


def balanced(first: Tensor, second: Tensor, lr: Number) -> tuple[Tensor, Tensor]:
    """The rates of two layers from their norms; both `lr` where both are zero."""
    total = first + second
    none = total == 0
    share = torch.where(none, 0.5, second / torch.where(none, 1.0, total))
    return 2 * share * lr, 2 * (1 - share) * lr


def norms(problem: StackelbergProblem, state: TwoTimescaleState) -> tuple[Tensor, Tensor]:
    """|W| and |theta| of every run, (R,)."""
    head = state.head
    if isinstance(problem, LinearHeadProblem) and problem.fit_bias:
        head = head[:, :-1]
    return trees.norm(_matrices(state.body, axes=3)), trees.norm(head)


def _matrices(tree: Tree, *, axes: int) -> list[Tensor]:
    return [leaf for leaf in trees.leaves(tree) if leaf.ndim >= axes]
