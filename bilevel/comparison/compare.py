"""Many strategies on one problem: same starts, same rows, same budget, few trainings."""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from bilevel.comparison.budget import Budget, BudgetKind
from bilevel.comparison.checkpoint import Checkpoint
from bilevel.comparison.engines.sharded import Sharded, used
from bilevel.comparison.plan import Plan, entries_of, identity, prepare, seeds_told
from bilevel.comparison.references import references
from bilevel.comparison.result import Comparison
from bilevel.comparison.side_by_side import Options, Outcome, Progress, SideBySide
from bilevel.comparison.timing import seconds_per_step
from bilevel.comparison.tuning import Tuning, tune_strategies
from bilevel.core.checks import check_function, check_instance, check_names, float_type
from bilevel.core.graph import ordinary
from bilevel.core.progress import Show, training_shown
from bilevel.core.status import Status
from bilevel.data.draws import Sampling
from bilevel.data.sampler import BatchSize
from bilevel.data.training_data import TrainingData
from bilevel.errors import AllRunsFailedError, ArgumentError, counted
from bilevel.problem.base import StackelbergProblem
from bilevel.report.words import TUNED
from bilevel.storage.environment import environment
from bilevel.storage.results import OWN_SETTINGS
from bilevel.strategies import AbstractStrategy
from bilevel.training.arguments import seed_list

Array = NDArray[np.float64]


@ordinary()
def compare(
    problem: StackelbergProblem,
    strategies: Mapping[str, AbstractStrategy | Callable[..., Any]],
    *,
    steps: int = 2000,
    budget: BudgetKind = "steps",
    batch_size: BatchSize = 64,
    seeds: int | Sequence[int] = 20,
    every: int | None = None,
    sampling: Sampling = "iid",
    tune: Sequence[float] | Tuning | None = None,
    baselines: Sequence[str] | None = None,
    headline: str | None = None,
    name: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    compile: bool = False,
    max_runs_at_once: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    engine: Any = None,
    settings: Mapping[str, object] | None = None,
    callback: Callable[[Progress], object] | None = None,
    progress: bool = False,
) -> Comparison:
    """Train strategies side by side and compare them, paired over seeds.

    All strategies start a seed from the same point and see the same rows at every step. Strategies
    of equal structure, which differ in numbers only, are trained as one.

    Args:
        problem: what to solve.
        strategies: by name. A generator function is a training loop of your own, see `OwnLoop`.
        steps: body steps of every strategy; with `budget="gradients"` its gradient evaluations.
        budget: what is equal for all: "steps", or "gradients", which makes strategies with dear
            steps take fewer; `Cost.evaluations` says what a step counts.
        batch_size: rows per step; None: all rows.
        seeds: how many (0, 1, ...), or the seeds themselves. Where the starts, the data and the
            rows of the steps do not depend on the seed, all runs are one: the first seed alone is
            trained, and there is no interval and no p-value.
        every: steps (or gradient evaluations) between records; None: about 50 records.
        sampling: how rows are drawn, see `solve`.
        tune: factors to multiply the rates with, such as (0.1, 0.3, 1, 3, 10), or a `Tuning`: the
            best rates of every strategy, found on seeds of their own, take part as "NAME, tuned".
        baselines: names to compare the others with; None: the preset controls and uniform
            strategies among them, or else the first strategy; every pair where the problem is
            `pairwise`.
        headline: the metric to judge by; None: the problem's own, else the first that starts with
            "test_", else the first that starts with "validation_", else F at the recorded point
            ("body_objective", which is "objective" where F is g).
        name: of the problem, for the report; None: its class.
        device: where to compute.
        dtype: of the training.
        compile: compile the steps, see `solve`.
        max_runs_at_once: bounds memory, see `solve`.
        checkpoint: a folder to keep the training in. If it holds this comparison, the training
            goes on from there, with the same numbers as if it had never stopped. One comparison at
            a time works in a folder.
        engine: what computes: None, this process; a name such as "processes:4" (processes of this
            machine), "dask:tcp://host:8786" or "slurm:PARTITION"; or an executor, anything with
            `submit(function, *args)` whose futures have `result()`. Work is cut into shards, some
            seeds of strategies of equal structure each, and numbers are those of one process, up to
            rounding. A shard whose worker is lost is submitted again, up to three times, and goes
            on from its checkpoint where workers see the folder `checkpoint`. A comparison may go on
            with another engine, or with none.
        settings: more entries for the report's settings, such as the command.
        callback: called with a `Progress` at every record.
        progress: show a bar, at records, with what is trained, the runs, the steps of all
            strategies and the time left (by rich).

    Returns:
        The `Comparison`. Ctrl-C ends the training early: what was recorded is kept, runs that were
        not finished have the status INTERRUPTED.

    Raises:
        AllRunsFailedError: every run of every strategy diverged.
        ResultsError: `checkpoint` holds another comparison, or a damaged file.
        EngineError: a shard failed four times, or the engine is gone; what is done is kept in
            `checkpoint`: call again to go on.
        ResultsInUseError: somebody else works in `checkpoint`; says which process.
        UnwritableError: the disk is full, say; call again to go on from what was kept.
        BilevelError: bad arguments, data or problems, before the training starts.

    Examples:
        >>> import bilevel
        >>> from problems.toy import ScalarProduct
        >>> sgd = bilevel.SGD()
        >>> pair = {"slow": bilevel.uniform(0.01, sgd), "two": bilevel.TwoTimescale(0.01, 0.1, sgd)}
        >>> comparison = bilevel.compare(ScalarProduct(), pair, steps=100, seeds=3)
        >>> sorted(comparison.final("body_error"))
        ['slow', 'two']
    """
    if callback is not None:
        check_function(callback, "callback", "callback(progress)", 1)
    check_instance(name, str | None, "name", '"my problem"')
    check_instance(settings, Mapping | None, "settings", '{"command": "..."}')
    if taken := sorted(map(str, (settings or {}).keys() & OWN_SETTINGS)):
        raise ArgumentError(f"`settings` are further ones: {', '.join(taken)} is said already.")
    entries = entries_of(strategies)
    if baselines is not None:
        check_names(baselines, entries, "strategy", "baselines")
    with (
        used(engine, checkpoint) as (workers, folder),
        training_shown(progress, budget) as show,
    ):
        kind = seed_list(seeds), float_type(dtype), device
        data = TrainingData(problem, *kind, experienced=True)
        here = workers is None or workers.same_machine
        told = callback if show is None else _showing(show, len(data.seeds), callback)
        options = Options(batch_size, sampling, compile, max_runs_at_once, told, here)
        plan = prepare(
            SideBySide(entries, data, options), budget, steps, every, tune, headline, baselines
        )
        kept = None if folder is None else Checkpoint(folder, identity(plan), settings)
        trainer: Trainer = Here(kept) if workers is None else Sharded(workers, kept)
        if plan.tuning is not None:
            plan = _tuned(plan, plan.tuning, trainer)
        outcome = _train(plan, trainer)
        return _result(plan, outcome, trainer, name or type(problem).__name__, settings or {})


class Trainer(Protocol):
    """What trains the strategies of a comparison, here or elsewhere.

    Attributes:
        threads: of torch, where they are trained.
    """

    @property
    def threads(self) -> int: ...  # noqa: D102

    def train(self, side_by_side: SideBySide, budget: Budget) -> Outcome:
        """Train all strategies, or those that Ctrl-C leaves time for."""

    def seconds(
        self, names: Sequence[str], side_by_side: SideBySide, data: TrainingData
    ) -> dict[str, float]:
        """See `seconds_per_step`."""

    def noted(self) -> dict[str, Any]:
        """More of the environment."""


class Here:
    """Training in this process.

    Args:
        kept: where it is kept.
    """

    def __init__(self, kept: Checkpoint | None) -> None:
        self._kept = kept

    @property
    def threads(self) -> int:
        """Of torch."""
        return torch.get_num_threads()

    def train(self, side_by_side: SideBySide, budget: Budget) -> Outcome:
        """Train all strategies, in turn."""
        return side_by_side.train(budget, self._kept)

    def seconds(
        self, names: Sequence[str], side_by_side: SideBySide, data: TrainingData
    ) -> dict[str, float]:
        """See `seconds_per_step`."""
        return seconds_per_step(names, side_by_side, data)

    def noted(self) -> dict[str, Any]:
        """Nothing but what is noted in any case."""
        return {}


def _showing(
    show: Show, seeds: int, callback: Callable[[Progress], object] | None
) -> Callable[[Progress], None]:
    """A callback that shows where a comparison stands, and then calls the one that was given."""

    def told(progress: Progress) -> None:
        runs = counted(seeds * len(progress.strategies), "run")
        show(f"{progress.what}, {runs}", *progress.place)
        if callback is not None:
            callback(progress)

    return told


def _tuned(plan: Plan, tuning: Tuning, trainer: Trainer) -> Plan:
    """The plan with the best rates of every strategy beside the rates as given."""
    side_by_side = plan.side_by_side
    found, described = tune_strategies(
        side_by_side, tuning, plan.budget, plan.headline, trainer.train
    )
    entries = {**side_by_side.strategies, **found}
    return plan._replace(
        side_by_side=SideBySide(entries, side_by_side.data, side_by_side.options),
        baselines=[*plan.baselines, *(k + TUNED for k in plan.baselines if k + TUNED in found)],
        described=plan.described | {"tuning": described},
    )


def _train(plan: Plan, trainer: Trainer) -> Outcome:
    """What became of all strategies, some of which must have got somewhere."""
    outcome = trainer.train(plan.side_by_side, plan.budget)
    if all(Status[code].failed for codes in outcome.status.values() for code in codes):
        raise AllRunsFailedError(
            f"All runs of all strategies failed. {Status.DIVERGED.message}", outcome.solutions
        )
    return outcome


def _result(
    plan: Plan, outcome: Outcome, trainer: Trainer, name: str, settings: Mapping[str, object]
) -> Comparison:
    """Everything that is known of the strategies that were trained, and what steps take."""
    side_by_side, costs = plan.side_by_side, plan.side_by_side.costs
    trained = [key for key in side_by_side.strategies if key in outcome.history]
    missing = [key for key in side_by_side.strategies if key not in outcome.history]  # after Ctrl-C
    same = outcome.same
    if plan.asked != side_by_side.data.seeds:  # all runs are one
        same = list(outcome.history)
    counted = slice(1 if same == list(outcome.history) else None)
    data = side_by_side.data.part(counted)
    seconds = dict.fromkeys(trained, np.nan)
    if not outcome.interrupted:
        # the trainings are worth more than the times
        with contextlib.suppress(KeyboardInterrupt, MemoryError):
            seconds = trainer.seconds(trained, side_by_side, data)
    records = max(len(x) for table in outcome.history.values() for x in table.values())
    heads = {key: codes[counted] for key, codes in outcome.heads.items()}
    bound_kind, bound_note = outcome.bound
    described = plan.described | {
        **seeds_told(data.seeds, plan.asked),
        "threads": trainer.threads,
        "data_note": side_by_side.problem.note,
        "bound_note": bound_note,
        **({"references": rules} if (rules := references(data)) else {}),
        **({"same_runs": same} if same else {}),
        **({"interrupted_heads": heads} if heads else {}),
        **({"not_trained": missing} if missing else {}),
        **settings,
    }
    return Comparison(
        problem=name,
        settings=described,
        strategies={key: repr(side_by_side.strategies[key]) for key in trained},
        steps=np.array(plan.budget.marks[:records]),
        history={
            key: {metric: _padded(values[:, counted], records) for metric, values in table.items()}
            for key, table in outcome.history.items()
        },
        status={key: codes[counted] for key, codes in outcome.status.items()},
        gradients_per_step={key: costs[key] for key in trained},
        seconds_per_step=seconds,
        baselines=tuple(key for key in plan.baselines if key in trained),
        headline=plan.headline,
        environment=environment(
            dtype=plan.described["dtype"], device=plan.described["device"], threads=trainer.threads
        )
        | trainer.noted(),
        bound_kind=bound_kind,
    )


def _padded(values: Array, records: int) -> Array:
    """NaN for the records that an interrupted or ended strategy does not have."""
    return np.pad(values, ((0, records - len(values)), (0, 0)), constant_values=np.nan)
