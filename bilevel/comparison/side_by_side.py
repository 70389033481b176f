"""Strategies that are trained side by side: those of equal structure are one training."""

import functools
import types
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bilevel.bounds.heads import BoundKind
from bilevel.comparison.budget import Budget
from bilevel.comparison.checkpoint import KeptTrainings
from bilevel.core import parts
from bilevel.core.status import Status
from bilevel.data.draws import Sampling
from bilevel.data.sampler import BatchSize
from bilevel.data.training_data import TrainingData
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
        shards: with an engine, how many shards of the stage are finished, and how many there are;
            `strategies` are all of the stage then, and `step` is the mean over their runs.

    Examples:
        >>> from bilevel import Progress
        >>> at = Progress(("slow", "fast"), step=50, steps=200, done=0, total=2)
        >>> at.step / at.steps, at.stage
        (0.25, 'training')
    """

    strategies: Names
    step: int
    steps: int
    done: int
    total: int
    stage: str = "training"
    unit: str = "steps"
    shards: tuple[int, int] | None = None

    @property
    def what(self) -> str:
        """What is trained, in a few words."""
        several = "trials" if self.stage == "tuning" else "strategies"
        count = len(self.strategies)
        named = f"{count} {several}" if count > 1 else self.strategies[0]
        if self.shards is not None:
            return f"{named}, {self.shards[0]:,} of {self.shards[1]:,} shards"
        return f"{named} together" if count > 1 else named

    @property
    def place(self) -> tuple[int, int]:
        """How many steps of all strategies are made, and how many there are."""
        made = self.done * self.steps + self.step * len(self.strategies)
        return made, self.total * self.steps


class Options(NamedTuple):
    """How all strategies are trained, and who is told of it; see `compare`.

    `here` says whether on this machine, whose memory is then to have room for all that is held.
    """

    batch_size: BatchSize
    sampling: Sampling
    compile: bool
    max_runs_at_once: int | None
    callback: Callable[[Progress], object] | None
    here: bool = True


class Outcome(NamedTuple):
    """What became of the strategies that were trained.

    Attributes:
        history: name -> metric -> (T, R).
        status: name -> R names of `Status` members.
        heads: the same of the head solves of groups that were interrupted.
        same: names of strategies whose runs are one and the same for every seed.
        bound: what kind `head_bound` is of, and where it comes from.
        interrupted: whether Ctrl-C ended it.
        solutions: of the groups; none of what was trained elsewhere.
    """

    history: dict[str, dict[str, NDArray[np.float64]]]
    status: dict[str, list[str]]
    heads: dict[str, list[str]]
    same: list[str]
    bound: tuple[BoundKind, str]
    interrupted: bool
    solutions: Mapping[Names, Solution] = types.MappingProxyType({})


class Alike(NamedTuple):
    """Names of strategies whose runs, of different seeds, start alike.

    Attributes:
        known: they stay together, whatever comes.
        perhaps: they may.
    """

    known: list[str]
    perhaps: list[str]

    def turned_out(self, history: Mapping[str, Mapping[str, NDArray[np.float64]]]) -> list[str]:
        """Those whose runs are one, by all their records."""
        return [
            name
            for name, table in history.items()
            if name in self.known or (name in self.perhaps and turned_out_alike(table))
        ]


class SideBySide:
    """Strategies on the same data, checked and initialised when it is made.

    Args:
        strategies: by name, each with plain numbers.
        data: for the seeds.
        options: how to train.
        stage: its name in progress and checkpoints.
    """

    def __init__(
        self,
        strategies: Mapping[str, AbstractStrategy],
        data: TrainingData,
        options: Options,
        stage: str = "training",
    ) -> None:
        self.problem, self.strategies, self.data = data.problem, strategies, data
        self.options, self.stage, self.seeds = options, stage, len(data.seeds)
        if data.online and options.here:
            data.problem.room(self.seeds * len(strategies))  # refuses more than there is
        self.fitted = {name: strategy.fitted(data.problem) for name, strategy in strategies.items()}
        groups: dict[object, list[str]] = {}
        for name, strategy in strategies.items():
            groups.setdefault(parts.structure(strategy), []).append(name)
        self.trainings: dict[Names, Training] = {
            tuple(names): Training(
                parts.stack([self.fitted[name] for name in names], self.seeds),
                data.repeated(len(names)),
                options.batch_size,
                options.sampling,
                compile=options.compile,
                max_runs_at_once=options.max_runs_at_once,
            )
            for names in groups.values()
        }
        self.files = {names: f"{stage}-{number}" for number, names in enumerate(self.trainings)}
        first = next(iter(self.trainings.values())).cohorts[0].recorder.certifier
        self.bound = first.kind, first.note
        # the group of every strategy, and its runs there
        self.places: dict[str, tuple[Names, slice]] = {
            name: (names, slice(i * self.seeds, (i + 1) * self.seeds))
            for names in self.trainings
            for i, name in enumerate(names)
        }

    def of_distinct_runs(self) -> "SideBySide":
        """The same, on the first seed alone where every strategy is known to make one run."""
        if self.seeds == 1 or len(self._those(Training.one_run)) < len(self.strategies):
            return self
        first = self.data.part(slice(0, 1))
        return SideBySide(self.strategies, first, self.options, self.stage)

    @functools.cached_property
    def costs(self) -> dict[str, float]:
        """Gradient evaluations of one step of every strategy."""
        sizes, size = self.data.sizes, self.options.batch_size
        size = size.get("train") if isinstance(size, Mapping) else size
        if self.data.tasks:  # their heads answer to the rows of a step
            size = None
        batches = sizes["train"] / size if size and "train" in sizes else 1.0  # n / B
        trained = {name: self.trainings[self.places[name][0]] for name in self.strategies}
        return {name: one.cost.evaluations(batches) for name, one in trained.items()}

    @property
    def experience(self) -> str:
        """What the rows of the steps are experienced by; "" where they are drawn."""
        first = next(iter(self.trainings.values()))
        return first.cohorts[0].sampler.description

    def recorded_names(self) -> list[str]:
        """What every record holds."""
        return next(iter(self.trainings.values())).recorded_names()

    def _those(self, test: Callable[[Training, slice], bool]) -> list[str]:
        """Names of the strategies whose runs pass a test."""
        places = self.places.items()
        return [name for name, (names, runs) in places if test(self.trainings[names], runs)]

    def release(self) -> None:
        """Let go of the trainings, which hold the starts of all runs, where others train them."""
        assert self.costs
        self.trainings = {}

    def alike(self) -> Alike:
        """Whose runs may be one and the same for every seed, by their initial points."""
        if self.seeds == 1:  # a single seed says nothing about others
            return Alike([], [])
        return Alike(self._those(Training.one_run), self._those(Training.alike))

    def train(self, budget: Budget, checkpoint: KeptTrainings | None = None) -> Outcome:
        """Train the groups in turn, kept in `checkpoint`; an interrupted one is the last."""
        same = self.alike()
        if checkpoint is not None:  # damage is found before hours of training
            for names, training in self.trainings.items():
                checkpoint.restore(self.files[names], training)
        solutions: dict[Names, Solution] = {}
        for names, training in self.trainings.items():
            before = len(training.recorded), training.step
            records = budget.steps(self.costs[names[0]])
            report = functools.partial(
                self._recorded, names, sum(map(len, solutions)), budget, checkpoint
            )
            try:
                solutions[names] = training.run(records, callback=report)
            except KeyboardInterrupt:
                if not solutions:
                    raise
                break
            interrupted = Status.INTERRUPTED in solutions[names].status
            if checkpoint is not None and (len(training.recorded), training.step) != before:
                checkpoint.keep(self.files[names], training, now=True, finished=not interrupted)
            if interrupted:
                break
        return self._outcome(solutions, same)

    def _recorded(
        self, names: Names, done: int, budget: Budget, checkpoint: KeptTrainings | None, *_: object
    ) -> None:
        """At every record of a group: it is kept, and who asked for it is told."""
        training = self.trainings[names]
        if checkpoint is not None:
            checkpoint.keep(self.files[names], training)
        if self.options.callback is not None:
            mark, total = budget.marks[len(training.recorded) - 1], len(self.strategies)
            place = (mark, budget.total, done, total, self.stage, budget.kind)
            self.options.callback(Progress(names, *place))

    def _outcome(self, solutions: Mapping[Names, Solution], same: Alike) -> Outcome:
        """What became of each strategy, from the runs of its group."""
        history, status, heads = {}, {}, {}
        for name, (names, runs) in self.places.items():
            if (solution := solutions.get(names)) is None:  # after Ctrl-C
                continue
            history[name] = {m: values[:, runs].numpy() for m, values in solution.history.items()}
            status[name] = [code.name for code in solution.status[runs]]
            if Status.INTERRUPTED in solution.status:
                heads[name] = self.trainings[names].head_status()[runs]
        interrupted = bool(heads) or len(solutions) < len(self.trainings)
        found = same.turned_out(history)
        return Outcome(history, status, heads, found, self.bound, interrupted, solutions)
