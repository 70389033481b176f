"""Gradient clipping around another optimiser."""

import dataclasses

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.checks import Number, check_instance, positive
from bilevel.optimizers.base import AbstractOptimizer
from bilevel.optimizers.rmsprop import RMSProp
from bilevel.trees import Tree, per_run


@dataclasses.dataclass(frozen=True, eq=False)
class Clipped(AbstractOptimizer):
    r"""Another optimiser, fed with gradients that are cut to a length.

    $$d \leftarrow d\, \min(1, \text{max\_norm} / \lVert d\rVert)$$

    $\lVert d\rVert$ is the Euclidean norm over all leaves of one level of one run: body and head
    are clipped separately, and so is every run. Shorter gradients are passed on bit for bit. A
    gradient that is not finite, or too large for its norm to be, becomes NaN, so that the status of
    its run says DIVERGED.

    Args:
        max_norm: the longest gradient let through, positive; a number or (R,) numbers.
        optimizer: turns clipped gradients into steps.

    Raises:
        ArgumentError: `max_norm` is not positive and finite, or `optimizer` is no optimiser.

    Source: Pascanu, Mikolov and Bengio 2013, algorithm 1; torch.nn.utils.clip_grad_norm_ and
    optax.clip_by_global_norm. Differs from the source in: 1. torch divides by
    $\lVert d\rVert + 10^{-6}$, which makes its gradients shorter by $10^{-6} / \lVert d\rVert$,
    relatively.

    Examples:
        >>> import torch, bilevel
        >>> optimizer = bilevel.Clipped(1.0, bilevel.SGD())
        >>> x, gradient = torch.zeros(2, 2), torch.tensor([[3.0, 4.0], [0.3, 0.4]])
        >>> optimizer.update(gradient, optimizer.init(x), x, lr=1.0)[0]    # run by run
        tensor([[-0.6000, -0.8000],
                [-0.3000, -0.4000]])
    """

    max_norm: Number
    optimizer: AbstractOptimizer = dataclasses.field(default_factory=RMSProp)

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_norm", positive(self.max_norm, "`max_norm`"))
        check_instance(self.optimizer, AbstractOptimizer, "optimizer", "RMSProp()")

    def init(self, parameters: Tree) -> Tree:
        """The state of the other optimiser."""
        return self.optimizer.init(parameters)

    def update(
        self, gradient: Tree, state: Tree, parameters: Tree, lr: Number
    ) -> tuple[Tree, Tree]:
        """One step of the other optimiser along the clipped gradient."""
        norm = trees.norm(gradient)
        factor = (self.max_norm / norm).clamp(max=1.0).masked_fill(~norm.isfinite(), torch.nan)

        def clip(slope: Tensor) -> Tensor:
            return slope * per_run(factor, slope)

        return self.optimizer.update(trees.tree_map(clip, gradient), state, parameters, lr)
