"""Strategies that are trained side by side: those of equal structure are one training."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bilevel.comparison.budget import Budget
from bilevel.comparison.checkpoint import Checkpoint
from bilevel.core import parts
from bilevel.core.status import Status
from bilevel.data.draws import Sampling
from bilevel.data.sampler import BatchSize
from bilevel.data.training_data import TrainingData
from bilevel.problem.base import StackelbergProblem
from bilevel.strategies import AbstractStrategy
from bilevel.training.repetition import turned_out_alike
from bilevel.training.solution import Solution
from bilevel.training.training import Training

Names = tuple[str, ...]


class Progress(NamedTuple):
    """Where a comparison stands.

    Attributes:
        strategies: what is trained now, together.
        step: of `steps`.
        steps: of each strategy; gradient evaluations if they are the budget.
        done: strategies that are finished.
        total: how many there are.
        stage: "training", or "tuning" before it.
        unit: what is counted: "steps" or "gradients".
    """

    strategies: Names
    step: int
    steps: int
    done: int
    total: int
    stage: str = "training"
    unit: str = "steps"


class Options(NamedTuple):
    """How all strategies are trained; see `compare`."""

    batch_size: BatchSize = 64
    sampling: Sampling = "iid"
    compile: bool = False
    max_runs_at_once: int | None = None


class Outcome(NamedTuple):
    """What became of the strategies that were trained.

    Attributes:
        history: name -> metric -> (T, R).
        status: name -> R names of `Status` members.
        solutions: of the groups.
        interrupted: whether Ctrl-C ended it.
        heads: name -> R names of `Status` members of the head solves of interrupted runs.
        same: names of strategies whose runs are one and the same for every seed.
    """

    history: dict[str, dict[str, NDArray[np.float64]]]
    status: dict[str, list[str]]
    solutions: dict[Names, Solution]
    interrupted: bool
    heads: dict[str, list[str]]
    same: list[str]

    def first_seed(self) -> "Outcome":
        """What became of the first seed alone."""
        history = {
            name: {metric: values[:, :1] for metric, values in table.items()}
            for name, table in self.history.items()
        }
        status = {name: codes[:1] for name, codes in self.status.items()}
        heads = {name: codes[:1] for name, codes in self.heads.items()}
        return self._replace(history=history, status=status, heads=heads)


class SideBySide:
    """Strategies on the same data, checked and initialised when it is made.

    Args:
        problem: what to solve.
        strategies: by name, each with plain numbers.
        data: for the seeds.
        options: how to train.
        stage: its name in progress and checkpoints.
    """

    def __init__(
        self,
        problem: StackelbergProblem,
        strategies: Mapping[str, AbstractStrategy],
        data: TrainingData,
        options: Options,
        stage: str = "training",
    ) -> None:
        self.problem, self.strategies = problem, strategies
        self.stage, self.seeds = stage, len(data.seeds)
        self.batches = batches(data, options.batch_size)
        self.trainings: dict[Names, Training] = {
            names: Training(
                parts.stack([strategies[n] for n in names], len(data.seeds)),
                data.repeated(len(names)),
                options.batch_size,
                options.sampling,
                compile=options.compile,
                max_runs_at_once=options.max_runs_at_once,
            )
            for names in _group(strategies)
        }

    def gradients_per_step(self) -> dict[str, float]:
        """Gradient evaluations of one step of every strategy."""
        return {
            name: strategy.fitted(self.problem).cost.evaluations(self.batches)
            for name, strategy in self.strategies.items()
        }

    def alike(self) -> list[str]:
        """Strategies whose runs start alike on the same data, whatever the seed."""
        return [name for name, training, runs in self._places() if training.alike(runs)]

    def one_run(self) -> list[str]:
        """Those of them whose runs are known to be one and the same: nothing else is drawn."""
        return [name for name, training, runs in self._places() if training.one_run(runs)]

    def _places(self) -> Iterator[tuple[str, Training, slice]]:
        """Every strategy with its training and its runs there."""
        for names, training in self.trainings.items():
            for i, name in enumerate(names):
                yield name, training, slice(i * self.seeds, (i + 1) * self.seeds)

    def recorded_names(self) -> list[str]:
        """What every record holds, of the first group."""
        return next(iter(self.trainings.values())).recorded_names()

    def train(
        self,
        budget: Budget,
        callback: Callable[[Progress], object] | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> Outcome:
        """Train the groups one after another; an interrupted one is the last.

        Args:
            budget: how far, and where to record.
            callback: called with a `Progress` at every record.
            checkpoint: where to keep what is trained, and to go on from.
        """
        # of the initial points; a single seed says nothing about others
        known, alike = (self.one_run(), self.alike()) if self.seeds > 1 else ([], [])
        if checkpoint is not None:  # damage is found before hours of training
            for number, training in enumerate(self.trainings.values()):
                checkpoint.restore(f"{self.stage}-{number}", training)
        solutions: dict[Names, Solution] = {}
        total, done = sum(map(len, self.trainings)), 0
        for number, (names, training) in enumerate(self.trainings.items()):
            before = (training.step, len(training.recorded))
            records = budget.steps(self.gradients_per_step()[names[0]])
            file = f"{self.stage}-{number}"

            def report(
                k: int,
                _: dict[str, Tensor],
                names: Names = names,
                training: Training = training,
                done: int = done,
                file: str = file,
            ) -> None:
                if checkpoint is not None:
                    checkpoint.keep(file, training)
                if callback is not None:
                    mark = budget.marks[len(training.recorded) - 1]
                    place = (mark, budget.total, done, total, self.stage, budget.kind)
                    callback(Progress(names, *place))

            try:
                solutions[names] = training.run(records, callback=report)
            except KeyboardInterrupt:
                if not solutions:
                    raise
                break
            interrupted = Status.INTERRUPTED in solutions[names].status
            if checkpoint is not None and (training.step, len(training.recorded)) != before:
                checkpoint.keep(file, training, now=True, finished=not interrupted)
            done += len(names)
            if interrupted:
                break
        interrupted = len(solutions) < len(self.trainings) or any(
            Status.INTERRUPTED in solution.status for solution in solutions.values()
        )
        heads = self._interrupted_heads(solutions)
        history, status = _split(solutions, self.seeds)
        same = [name for name, table in history.items()
                if name in known or (name in alike and turned_out_alike(table))]  # fmt: skip
        return Outcome(history, status, solutions, interrupted, heads, same)

    def _interrupted_heads(self, solutions: Mapping[Names, Solution]) -> dict[str, list[str]]:
        """What is known of heads whose runs say no more than that they were interrupted."""
        cut = {
            name
            for names, solution in solutions.items()
            if Status.INTERRUPTED in solution.status
            for name in names
        }
        return {
            name: training.head_status()[runs]
            for name, training, runs in self._places()
            if name in cut
        }


def batches(data: TrainingData, batch_size: BatchSize) -> float:
    """How many batches all training rows make, n / B."""
    size = batch_size.get("train") if isinstance(batch_size, Mapping) else batch_size
    rows = data.sizes.get("train", 1)
    return rows / size if size and "train" in data.sizes else 1.0


def _group(strategies: Mapping[str, AbstractStrategy]) -> list[Names]:
    """Names of strategies of equal structure, in the order given."""
    found: dict[object, list[str]] = {}
    for name, strategy in strategies.items():
        found.setdefault(parts.structure(strategy), []).append(name)
    return [tuple(names) for names in found.values()]


def _split(
    solutions: Mapping[Names, Solution], seeds: int
) -> tuple[dict[str, dict[str, NDArray[np.float64]]], dict[str, list[str]]]:
    """History and status of each strategy, from the runs of its group."""
    history, status = {}, {}
    for names, solution in solutions.items():
        for i, name in enumerate(names):
            runs = slice(i * seeds, (i + 1) * seeds)
            history[name] = {m: v[:, runs].numpy() for m, v in solution.history.items()}
            status[name] = [code.name for code in solution.status[runs]]
    return history, status
