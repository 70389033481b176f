"""Policy evaluation with fixed features: the values are linear in the head."""

import torch
from torch import Tensor

from bilevel.core.checks import check_instance
from bilevel.strategies import AbstractStrategy
from problems.mspbe import exact, methods
from problems.mspbe.exact import Moments
from problems.mspbe.fixed import Fixed
from problems.mspbe.neural import NeuralMSPBE
from problems.mspbe.process import MarkovRewardProcess, Model
from problems.mspbe.sources import AbstractSource, Known
from problems.mspbe.transitions import Transitions


class LinearEvaluation(NeuralMSPBE):
    r"""The values of a process whose inputs are the features, $V = x^\top \theta$.

    $$g(\theta) = \text{MSPBE} = (b - A \theta)^\top C^{-1} (b - A \theta)$$

    There is nothing for a body to learn. `problems.mspbe.methods` holds the linear methods;
    `SingleLoop` on its own follows TDC. The head starts at the process's `initial_head`, else at 0.

    Args:
        source: of the rows: a `Known` process, or `Logged` transitions. A process stands for
            `Known(process)`: expected updates, for which `batch_size=None` is passed.
        shift: added to the diagonal of C.

    Examples:
        >>> import bilevel
        >>> from problems.mspbe import LinearEvaluation, boyan, methods
        >>> problem = LinearEvaluation(boyan())
        >>> tdc = methods.tdc(0.5)
        >>> solution = bilevel.solve(problem, tdc, steps=2000, batch_size=None, seeds=1)
        >>> [round(value, 1) for value in solution.head[0].tolist()[:3]]
        [-24.0, -16.0, -8.0]
    """

    def __init__(self, source: AbstractSource | MarkovRewardProcess, shift: float = 0.0) -> None:
        if isinstance(source, MarkovRewardProcess):
            source = Known(source)
        check_instance(source, AbstractSource, "source", "random_walk()")
        super().__init__(source, Fixed(source.columns), shift)
        self.note = f"{source.description}; gamma = {self.discount:g}."

    def init_head(self, generator: torch.Generator) -> Tensor:
        """Where the process says, else 0."""
        if isinstance(self.source, Known) and self.source.process.initial_head is not None:
            return self.source.process.initial_head
        return super().init_head(generator)

    def moments(self, body: Tensor, rows: Transitions | Model) -> Moments:
        """Those of the rows: there is no network to pass them through."""
        if isinstance(rows, Model):
            return super().moments(body, rows)
        return exact.sampled_moments(rows.inputs, rows.next_inputs, rows, self.discount)

    def strategies(self, body_lr: float, head_lr: float) -> dict[str, AbstractStrategy]:
        """TD, GTD2, TDC and TDRC with the head's rate, LSTD and ridge LSTD."""
        return methods.default_methods(head_lr)
