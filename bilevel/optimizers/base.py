"""What an optimiser is."""

import abc

from bilevel.core.checks import Number
from bilevel.trees import Tree


class AbstractOptimizer(abc.ABC):
    """Turns gradients into steps, for R runs at once and with a step size per run.

    Implementations are frozen dataclasses; what evolves is in the state. See "extend" in the docs.

    Examples:
        >>> import torch, bilevel
        >>> from bilevel import trees
        >>> class Signs(bilevel.AbstractOptimizer):
        ...     def init(self, parameters): return ()
        ...     def update(self, gradient, state, parameters, lr):
        ...         def moved(x, d): return x - trees.per_run(lr, x) * d.sign()
        ...         return trees.tree_map(moved, parameters, gradient), state
        >>> Signs().update(torch.tensor([[3.0, -1.0]]), (), torch.zeros(1, 2), lr=0.1)[0]
        tensor([[-0.1000,  0.1000]])
    """

    @abc.abstractmethod
    def init(self, parameters: Tree) -> Tree:
        """The state before the first step: a tree whose leaves have the run axis first."""

    @abc.abstractmethod
    def update(
        self, gradient: Tree, state: Tree, parameters: Tree, lr: Number
    ) -> tuple[Tree, Tree]:
        """One step.

        Args:
            gradient: like `parameters`.
            state: of `init` or of the step before.
            parameters: leaves (R, ...).
            lr: the step size, a number or (R,) numbers.

        Returns:
            The new parameters and the new state; the arguments are left unchanged.
        """
