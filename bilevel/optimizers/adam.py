"""Adam, and Adam with a decay of its own."""

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from bilevel import trees
from bilevel.core.checks import Number, positive
from bilevel.optimizers.base import AbstractOptimizer
from bilevel.optimizers.sgd import fraction
from bilevel.trees import Tree, per_run


class AdamState(NamedTuple):
    """Running means of the gradient and of its square, and the number of steps, (R,)."""

    mean: Tree
    square: Tree
    steps: Tensor


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Adam(AbstractOptimizer):
    r"""Steps along running means of the gradient, of about the size of the rate.

    $$x \leftarrow x - \text{lr}\, \hat m / (\sqrt{\hat s} + \epsilon)$$

    with $m$ and $s$ the running means of the gradient and of its square;
    $\hat m = m / (1 - \beta_1^t)$ and $\hat s = s / (1 - \beta_2^t)$ remove the bias of the zero
    start.

    Args:
        beta1: in [0, 1).
        beta2: in [0, 1).
        eps: positive.

    Arguments are given by name; the step size belongs to the strategy.

    Raises:
        ArgumentError: a number is out of its range.

    Source: Kingma and Ba 2015, algorithm 1, and torch.optim.Adam. Differs from the source in: None.

    Examples:
        >>> import torch, bilevel
        >>> adam, x = bilevel.Adam(), torch.zeros(1, 2)
        >>> x, state = adam.update(torch.tensor([[3.0, -0.1]]), adam.init(x), x, lr=0.1)
        >>> x    # the first step has the size of the rate, whatever the gradient's
        tensor([[-0.1000,  0.1000]])
    """

    beta1: Number = 0.9
    beta2: Number = 0.999
    eps: Number = 1e-8

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta1", fraction(self.beta1, "`beta1`"))
        object.__setattr__(self, "beta2", fraction(self.beta2, "`beta2`"))
        object.__setattr__(self, "eps", positive(self.eps, "`eps`"))

    @override
    def init(self, parameters: Tree) -> AdamState:
        return adam_start(parameters)

    @override
    def update(
        self, gradient: Tree, state: AdamState, parameters: Tree, lr: Number
    ) -> tuple[Tree, AdamState]:
        return adam_step(self, gradient, state, parameters, lr)


def adam_start(parameters: Tree) -> AdamState:
    """Means of zero, and no steps."""
    first = trees.leaves(parameters)[0]
    mean, square = (
        trees.tree_map(lambda leaf: leaf.new_zeros(leaf.shape), parameters) for _ in range(2)
    )
    return AdamState(mean, square, first.new_zeros(first.shape[0]))


def adam_step(
    numbers: "Adam | AdamW", gradient: Tree, state: AdamState, parameters: Tree, lr: Number
) -> tuple[Tree, AdamState]:
    """The formula of `Adam`: the parameters one step further, and the new state."""
    beta1, beta2, count = numbers.beta1, numbers.beta2, state.steps + 1
    # in float64: 1 - 0.999^t cancels
    mean_scale, square_scale = (
        (1 - torch.as_tensor(per_run(beta, count), dtype=torch.float64) ** count.double()).to(
            count.dtype
        )
        for beta in (beta1, beta2)
    )

    def blend(old: Tensor, new: Tensor, beta: Number) -> Tensor:
        kept = per_run(beta, old)
        return old * kept + new * (1 - kept)

    def step(x: Tensor, m: Tensor, s: Tensor) -> Tensor:
        scale = (s / per_run(square_scale, s)).sqrt() + per_run(numbers.eps, s)
        return x - per_run(lr, x) * (m / per_run(mean_scale, m)) / scale

    mean = trees.tree_map(lambda m, g: blend(m, g, beta1), state.mean, gradient)
    square = trees.tree_map(lambda s, g: blend(s, g.square(), beta2), state.square, gradient)
    updated = trees.tree_map(step, parameters, mean, square)
    return updated, AdamState(mean, square, count)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class AdamW(AbstractOptimizer):
    r"""`Adam` with a decay that the gradient's size leaves alone.

    $$x \leftarrow (1 - \text{lr} \cdot \text{decay})\, x \quad \text{and then a step of Adam}$$

    The decay is no part of F: where the body comes to rest, the gradient of $\Phi$ is not zero but
    balances it. A term of the objective is `body_penalty`, or the ridge of a head. Strategies that
    step both levels by their optimiser decay both.

    Args:
        beta1: in [0, 1).
        beta2: in [0, 1).
        eps: positive.
        weight_decay: at least 0.

    Arguments are given by name; the step size belongs to the strategy.

    Raises:
        ArgumentError: a number is out of its range.

    Source: Loshchilov and Hutter 2019, algorithm 2, and torch.optim.AdamW, which multiplies the
    decay by the step size. Differs from torch in: None.

    Examples:
        >>> from bilevel import AdamW, TwoTimescale
        >>> strategy = TwoTimescale(1e-3, 1e-2, optimizer=AdamW(weight_decay=0.1))
    """

    beta1: Number = 0.9
    beta2: Number = 0.999
    eps: Number = 1e-8
    weight_decay: Number = 1e-2

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta1", fraction(self.beta1, "`beta1`"))
        object.__setattr__(self, "beta2", fraction(self.beta2, "`beta2`"))
        object.__setattr__(self, "eps", positive(self.eps, "`eps`"))
        decay = positive(self.weight_decay, "`weight_decay`", zero_allowed=True)
        object.__setattr__(self, "weight_decay", decay)

    @override
    def init(self, parameters: Tree) -> AdamState:
        return adam_start(parameters)

    @override
    def update(
        self, gradient: Tree, state: AdamState, parameters: Tree, lr: Number
    ) -> tuple[Tree, AdamState]:
        def decayed(x: Tensor) -> Tensor:
            return x * (1 - per_run(lr, x) * per_run(self.weight_decay, x))

        return adam_step(self, gradient, state, trees.tree_map(decayed, parameters), lr)
