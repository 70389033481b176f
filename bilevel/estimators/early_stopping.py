"""One run of a strategy, stopped where the validation rows say so."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bilevel import trees
from bilevel.core.graph import ordinary
from bilevel.core.progress import training_shown
from bilevel.core.status import Status
from bilevel.data.training_data import TrainingData
from bilevel.errors import AllRunsFailedError
from bilevel.problem.base import StackelbergProblem
from bilevel.strategies import AbstractStrategy
from bilevel.training.recorder import record_steps
from bilevel.training.training import Training


class Stopped(NamedTuple):
    """A run at its best record.

    Attributes:
        body: leaves without a run axis, float64.
        head: likewise.
        step: of that record.
        steps: of all records, (T,).
        history: name -> (T,), as `solve` records it.
    """

    body: dict[str, Tensor]
    head: Tensor
    step: int
    steps: NDArray[np.int64]
    history: dict[str, NDArray[np.float64]]


@ordinary()
def train(
    problem: StackelbergProblem,
    strategy: AbstractStrategy,
    *,
    steps: int,
    every: int,
    batch_size: int | None,
    seed: int,
    metric: str | None,
    patience: int,
    progress: bool,
) -> Stopped:
    """Train one run; keep the record with the lowest `metric`, or the last one without a metric.

    Args:
        problem: what to solve.
        strategy: how the two levels move.
        steps: at most so many.
        every: steps between records.
        batch_size: rows of a step; None: all.
        seed: of the start and of the rows.
        metric: the recorded name that is looked at.
        patience: so many records in a row without a lower metric end the training.
        progress: show a bar.

    Raises:
        AllRunsFailedError: the run diverged before any later record than the first was better.
    """
    data = TrainingData(problem, [seed], torch.float32, "cpu")
    training = Training(strategy.fitted(problem), data, batch_size)
    marks, best, found = record_steps(0, steps, every), np.inf, None
    with training_shown(progress) as show:
        for count, mark in enumerate(marks, 1):
            solution = training.run(marks[:count], respond=False)
            if solution.status[0].failed or solution.status[0] is Status.INTERRUPTED:
                break
            if show is not None:
                show(type(strategy).__name__, mark, steps)
            value = -float(count) if metric is None else float(solution.history[metric][-1, 0])
            # where the training starts is no result of it
            if mark > 0 and value < best:
                best, since = value, count
                body, head = (trees.cast(trees.take(x, 0), torch.float64)
                              for x in (solution.body, solution.head))  # fmt: skip
                found = (body, head, mark)
            if metric is not None and found is not None and count - since >= patience:
                break
    if solution.status[0] is Status.INTERRUPTED:
        raise KeyboardInterrupt
    if found is None:
        raise AllRunsFailedError(
            f"The training failed. {solution.status[0].message} Lower `body_lr` and `head_lr`, or "
            "leave them out.",
            solution,
        )
    history = {name: values[:, 0].numpy() for name, values in solution.history.items()}
    return Stopped(*found, solution.steps.numpy(), history)
