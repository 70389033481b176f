"""What an optimiser is."""

import abc

from bilevel.core.checks import Number
from bilevel.trees import Tree


class AbstractOptimizer(abc.ABC):
    """Turns gradients into steps, for R runs at once and with a step size per run.

    Implementations are frozen dataclasses; what evolves is in the state. See "extend" in the docs.
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
