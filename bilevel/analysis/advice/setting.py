"""How everything that an advice rests on is trained."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch

from bilevel.core.schedules import Rate
from bilevel.data.draws import Sampling
from bilevel.data.sampler import BatchSize
from bilevel.data.training_data import TrainingData
from bilevel.optimizers import AbstractOptimizer
from bilevel.problem.base import StackelbergProblem
from bilevel.strategies import TwoTimescale

Pair = tuple[float, float]
"""The rates of body and head."""


class Setting(NamedTuple):
    """What all trainings of an advice share; see `advise`."""

    problem: StackelbergProblem
    optimizer: AbstractOptimizer
    order: Literal["alternating", "simultaneous"]
    batch_size: BatchSize
    sampling: Sampling
    dtype: torch.dtype
    device: torch.device | str

    def strategy(self, body: Rate, head: Rate) -> TwoTimescale:
        """The two-timescale strategy with these rates."""
        return TwoTimescale(body, head, self.optimizer, self.order)

    def data(self, seeds: Sequence[int]) -> TrainingData:
        """The data of the seeds."""
        return TrainingData(self.problem, seeds, self.dtype, self.device)
