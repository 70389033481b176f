"""Strategies that are trained side by side: those of equal structure are one training."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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
from bilevel.training.training import Callback, Training

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
        """What became of the first seed alone, where all seeds make the same run."""
        history = {
            name: {metric: values[:, :1] for metric, values in table.items()}
            for name, table in self.history.items()
        }
        status = {name: codes[:1] for name, codes in self.status.items()}
        heads = {name: codes[:1] for name, codes in self.heads.items()}
        return self._replace(history=history, status=status, heads=heads, same=list(history))


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
        self.problem, self.strategies, self.data = problem, strategies, data
        self.options, self.stage, self.seeds = options, stage, len(data.seeds)
        self.trainings: dict[Names, Training] = {
            names: Training(
                parts.stack([strategies[name] for name in names], self.seeds),
                data.repeated(len(names)),
                options.batch_size,
                options.sampling,
                compile=options.compile,
                max_runs_at_once=options.max_runs_at_once,
            )
            for names in _group(strategies)
        }
        self.fitted = {name: strategy.fitted(problem) for name, strategy in strategies.items()}
        # the group of every strategy, and its runs there
        self.places: dict[str, tuple[Names, slice]] = {
            name: (names, slice(i * self.seeds, (i + 1) * self.seeds))
            for names in self.trainings
            for i, name in enumerate(names)
        }

    def of_distinct_runs(self) -> "SideBySide":
        """The same, on the first seed alone where all runs are known to be one of each strategy."""
        if self.seeds == 1 or len(self.one_run()) < len(self.strategies):
            return self
        first = self.data.part(slice(0, 1))
        return SideBySide(self.problem, self.strategies, first, self.options, self.stage)

    def gradients_per_step(self) -> dict[str, float]:
        """Gradient evaluations of one step of every strategy."""
        count = batches(self.data, self.options.batch_size)
        return {name: fitted.cost.evaluations(count) for name, fitted in self.fitted.items()}

    def recorded_names(self) -> list[str]:
        """What every record holds."""
        return next(iter(self.trainings.values())).recorded_names()

    def alike(self) -> list[str]:
        """Strategies whose runs start alike on the same data, whatever the seed."""
        places = self.places.items()
        return [name for name, (names, runs) in places if self.trainings[names].alike(runs)]

    def one_run(self) -> list[str]:
        """Those of them whose runs are known to be one and the same: nothing else is drawn."""
        places = self.places.items()
        return [name for name, (names, runs) in places if self.trainings[names].one_run(runs)]

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
        files = {names: f"{self.stage}-{number}" for number, names in enumerate(self.trainings)}
        if checkpoint is not None:  # damage is found before hours of training
            for names, training in self.trainings.items():
                checkpoint.restore(files[names], training)
        solutions: dict[Names, Solution] = {}
        for names, training in self.trainings.items():
            before = len(training.recorded), training.step
            records = budget.steps(self.gradients_per_step()[names[0]])
            done = sum(map(len, solutions))
            report = self._report(names, files[names], done, budget, callback, checkpoint)
            try:
                solutions[names] = training.run(records, callback=report)
            except KeyboardInterrupt:
                if not solutions:
                    raise
                break
            interrupted = Status.INTERRUPTED in solutions[names].status
            if checkpoint is not None and (len(training.recorded), training.step) != before:
                checkpoint.keep(files[names], training, now=True, finished=not interrupted)
            if interrupted:
                break
        return self._outcome(solutions, known, alike)

    def _report(
        self,
        names: Names,
        file: str,
        done: int,
        budget: Budget,
        callback: Callable[[Progress], object] | None,
        checkpoint: Checkpoint | None,
    ) -> Callback:
        """What happens at every record of a group: it is kept, and whoever asked is told."""
        training, total = self.trainings[names], len(self.strategies)

        def report(*_: object) -> None:
            if checkpoint is not None:
                checkpoint.keep(file, training)
            if callback is not None:
                mark = budget.marks[len(training.recorded) - 1]
                place = (mark, budget.total, done, total, self.stage, budget.kind)
                callback(Progress(names, *place))

        return report

    def _outcome(
        self, solutions: Mapping[Names, Solution], known: list[str], alike: list[str]
    ) -> Outcome:
        """What became of each strategy, from the runs of its group."""
        history, status, heads = {}, {}, {}
        for name, (names, runs) in self.places.items():
            if (solution := solutions.get(names)) is None:  # after Ctrl-C
                continue
            history[name] = {m: values[:, runs].numpy() for m, values in solution.history.items()}
            status[name] = [code.name for code in solution.status[runs]]
            if Status.INTERRUPTED in solution.status:
                heads[name] = self.trainings[names].head_status()[runs]
        same = [name for name, table in history.items()
                if name in known or (name in alike and turned_out_alike(table))]  # fmt: skip
        interrupted = bool(heads) or len(solutions) < len(self.trainings)
        return Outcome(history, status, dict(solutions), interrupted, heads, same)


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
