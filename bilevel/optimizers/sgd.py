"""Stochastic gradient descent."""

import dataclasses

from torch import Tensor
from typing_extensions import override

from bilevel import trees
from bilevel.core.checks import Number, positive
from bilevel.errors import ArgumentError
from bilevel.optimizers.base import AbstractOptimizer
from bilevel.trees import Tree, per_run


@dataclasses.dataclass(frozen=True, eq=False)
class SGD(AbstractOptimizer):
    r"""Gradient steps, with or without momentum.

    $$v \leftarrow \text{momentum} \cdot v + d, \qquad x \leftarrow x - \text{lr}\, v$$

    for a gradient $d$.

    Args:
        momentum: in [0, 1).

    Raises:
        ArgumentError: `momentum` is out of its range.

    Source: torch.optim.SGD. Differs from the source in: 1. no dampening, weight decay or Nesterov
    step.

    Examples:
        >>> import torch, bilevel
        >>> sgd, x = bilevel.SGD(momentum=0.9), torch.zeros(1, 2)
        >>> x, state = sgd.update(torch.ones(1, 2), sgd.init(x), x, lr=0.1)
        >>> sgd.update(torch.ones(1, 2), state, x, lr=0.1)[0]    # -0.1 - 0.1 * 1.9
        tensor([[-0.2900, -0.2900]])
    """

    momentum: Number = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "momentum", fraction(self.momentum, "`momentum`"))

    @property
    def plain(self) -> bool:
        """Whether there is no momentum at all."""
        return isinstance(self.momentum, float) and self.momentum == 0.0

    def init(self, parameters: Tree) -> Tree:
        """Zero velocities; nothing without momentum."""
        if self.plain:
            return ()
        return trees.tree_map(lambda leaf: leaf.new_zeros(leaf.shape), parameters)

    @override
    def update(
        self, gradient: Tree, state: Tree, parameters: Tree, lr: Number
    ) -> tuple[Tree, Tree]:
        if trees.leaves(state):

            def accelerate(velocity: Tensor, slope: Tensor) -> Tensor:
                return velocity * per_run(self.momentum, velocity) + slope

            gradient = state = trees.tree_map(accelerate, state, gradient)
        return descend(parameters, gradient, lr), state


def descend(parameters: Tree, direction: Tree, lr: Number) -> Tree:
    """x - lr d, per run."""
    return trees.tree_map(lambda x, d: x - per_run(lr, d) * d, parameters, direction)


def fraction(value: Number, name: str) -> Number:
    """A number in [0, 1), or a clear error."""
    checked = positive(value, name, zero_allowed=True)
    largest = float(checked.max()) if isinstance(checked, Tensor) else checked
    if largest >= 1:
        raise ArgumentError(f"{name} must be in [0, 1), got {value}.")
    return checked
