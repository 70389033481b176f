"""RMSProp."""

import dataclasses

from torch import Tensor
from typing_extensions import override

from bilevel import trees
from bilevel.core.checks import Number, positive
from bilevel.optimizers.base import AbstractOptimizer
from bilevel.optimizers.sgd import fraction
from bilevel.trees import Tree, per_run


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class RMSProp(AbstractOptimizer):
    r"""Gradient steps, each number over the running root mean square of its gradients.

    $$
    s \leftarrow \rho s + (1 - \rho)\, d^2,
    \qquad x \leftarrow x - \text{lr}\, d / (\sqrt s + \epsilon)
    $$

    entry by entry, for a gradient $d$ and the smoothing $\rho$.

    Args:
        smoothing: $\rho$ in [0, 1); called `alpha` in torch.
        eps: positive, outside of the root.

    Arguments are given by name; the step size belongs to the strategy.

    Raises:
        ArgumentError: a number is out of its range.

    Source: torch.optim.RMSprop, whose defaults these are. Differs from the source in: 1. not
    centred, no momentum, no weight decay.

    Examples:
        >>> import torch, bilevel
        >>> rmsprop, x = bilevel.RMSProp(smoothing=0.75), torch.zeros(1, 2)
        >>> rmsprop.update(torch.tensor([[3.0, -0.1]]), rmsprop.init(x), x, lr=0.1)[0]
        tensor([[-0.2000,  0.2000]])
    """

    smoothing: Number = 0.99
    eps: Number = 1e-8

    def __post_init__(self) -> None:
        object.__setattr__(self, "smoothing", fraction(self.smoothing, "`smoothing`"))
        object.__setattr__(self, "eps", positive(self.eps, "`eps`"))

    @override
    def init(self, parameters: Tree) -> Tree:
        return trees.tree_map(lambda leaf: leaf.new_zeros(leaf.shape), parameters)

    @override
    def update(
        self, gradient: Tree, state: Tree, parameters: Tree, lr: Number
    ) -> tuple[Tree, Tree]:
        def average(square: Tensor, slope: Tensor) -> Tensor:
            kept = per_run(self.smoothing, slope)
            if isinstance(kept, Tensor):
                return square * kept + slope.square() * (1 - kept)
            return (square * kept).addcmul_(slope, slope, value=1 - kept)

        def step(x: Tensor, slope: Tensor, square: Tensor) -> Tensor:
            scale = square.sqrt().add_(per_run(self.eps, square))
            return x - (slope / scale).mul_(per_run(lr, x))

        state = trees.tree_map(average, state, gradient)
        return trees.tree_map(step, parameters, gradient, state), state
