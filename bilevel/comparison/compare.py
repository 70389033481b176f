"""Many strategies on one problem: same starts, same rows, same budget, few trainings."""

import contextlib
import os
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bilevel.comparison.budget import Budget, BudgetKind
from bilevel.comparison.checkpoint import Checkpoint, digest
from bilevel.comparison.judged import baselines_of, headline_of
from bilevel.comparison.references import references
from bilevel.comparison.result import Comparison
from bilevel.comparison.side_by_side import Options, Outcome, Progress, SideBySide
from bilevel.comparison.timing import seconds_per_step
from bilevel.comparison.tuning import Tuning, tune_strategies
from bilevel.core import parts
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
from bilevel.storage.folder import held
from bilevel.storage.results import OWN_SETTINGS
from bilevel.strategies import AbstractStrategy, OwnLoop
from bilevel.training.arguments import check_strategy, seed_list

Array = NDArray[np.float64]


@ordinary()
def compare(
    problem: StackelbergProblem,
    strategies: Mapping[str, AbstractStrategy | Callable[..., Any]],
    *,
    seeds: int | Sequence[int] = 20,
    steps: int = 2000,
    budget: BudgetKind = "steps",
    batch_size: BatchSize = 64,
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
        seeds: how many (0, 1, ...), or the seeds themselves. Where the starts, the data and the
            rows of the steps do not depend on the seed, all runs are one: the first seed alone is
            trained, and there is no interval and no p-value.
        steps: body steps of every strategy; with `budget="gradients"` its gradient evaluations.
        budget: what is equal for all: "steps", or "gradients", which makes strategies with dear
            steps take fewer; `Cost.evaluations` says what a step counts.
        batch_size: rows per step; None: all rows.
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
        ResultsInUseError: somebody else works in `checkpoint`; says which process.
        UnwritableError: the disk is full, say; call again to go on from what was kept.
        BilevelError: bad arguments, data or problems, before the training starts.

    Examples:
        >>> import bilevel
        >>> from problems.toy import ScalarProduct
        >>> sgd = bilevel.SGD()
        >>> pair = {"slow": bilevel.uniform(0.01, sgd), "two": bilevel.TwoTimescale(0.01, 0.1, sgd)}
        >>> comparison = bilevel.compare(ScalarProduct(), pair, seeds=3, steps=100)
        >>> sorted(comparison.final("body_error"))
        ['slow', 'two']
    """
    if callback is not None:
        check_function(callback, "callback", "callback(progress)", 1)
    check_instance(name, str | None, "name", '"my problem"')
    check_instance(settings, Mapping | None, "settings", '{"command": "..."}')
    if taken := sorted(map(str, (settings or {}).keys() & OWN_SETTINGS)):
        raise ArgumentError(f"`settings` are further ones: {', '.join(taken)} is said already.")
    entries = _entries(strategies)
    if baselines is not None:
        check_names(baselines, entries, "strategy", "baselines")
    keeping = contextlib.nullcontext() if checkpoint is None else held(checkpoint)
    with keeping as folder, training_shown(progress, budget) as show:
        data = TrainingData(problem, seed_list(seeds), float_type(dtype), device)
        told = callback if show is None else _showing(show, len(data.seeds), callback)
        options = Options(batch_size, sampling, compile, max_runs_at_once, told)
        plan = _prepare(
            SideBySide(entries, data, options), budget, steps, every, tune, headline, baselines
        )
        kept = None if folder is None else Checkpoint(folder, _identity(plan), settings)
        if plan.tuning is not None:
            plan = _tuned(plan, plan.tuning, kept)
        outcome = _train(plan, kept)
        return _result(plan, outcome, name or type(problem).__name__, settings or {})


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


class _Plan(NamedTuple):
    """A comparison before its first step, all of it checked.

    Attributes:
        side_by_side: the strategies, on the seeds that are trained.
        asked: the seeds that were asked for.
        budget: how far, and where to record.
        tuning: how rates are searched before, if they are.
        headline: the metric to judge by.
        baselines: names to compare the others with.
        described: what the report tells of it.
    """

    side_by_side: SideBySide
    asked: list[int]
    budget: Budget
    tuning: Tuning | None
    headline: str
    baselines: Sequence[str]
    described: dict[str, Any]


def _prepare(
    side_by_side: SideBySide,
    kind: BudgetKind,
    steps: int,
    every: int | None,
    tune: Sequence[float] | Tuning | None,
    headline: str | None,
    baselines: Sequence[str] | None,
) -> _Plan:
    """Everything is checked and initialised before the first step of the first strategy."""
    asked = side_by_side.data.seeds
    side_by_side = side_by_side.of_distinct_runs()
    names = side_by_side.recorded_names()
    headline = headline_of(side_by_side, headline, names)
    costs = side_by_side.gradients_per_step()
    budget = Budget(kind, steps, every, max(costs.values()))
    if kind == "gradients" and (free := [key for key, cost in costs.items() if not cost > 0]):
        raise ArgumentError(
            f"The steps of {', '.join(map(repr, free))} cost no gradients, so a budget of "
            'gradients does not end them: use `budget="steps"`, or return the `cost` of a step.'
        )
    tuning = None if tune is None else Tuning.of(tune, asked, side_by_side.strategies)
    data = side_by_side.data
    described = {
        **_seeds(data.seeds, asked),
        "steps": steps,
        **_rows(side_by_side),
        "every": budget.marks[1] - budget.marks[0],
        "budget": kind,
        "dtype": str(data.dtype).removeprefix("torch."),
        "device": str(data.device),
        **({"number_of_tasks": data.sizes["train"]} if data.tasks else {}),
    }
    baselines = baselines_of(side_by_side) if baselines is None else baselines
    return _Plan(side_by_side, asked, budget, tuning, headline, baselines, described)


def _rows(side_by_side: SideBySide) -> dict[str, Any]:
    """What the rows of a step are, for the settings."""
    batch_size, problem = side_by_side.options.batch_size, side_by_side.problem
    size = dict(batch_size) if isinstance(batch_size, Mapping) else batch_size
    found: dict[str, Any] = {"batch_size": size, "sampling": side_by_side.options.sampling}
    if side_by_side.data.online:
        found = {"experience": side_by_side.experience}
    return found | ({"also_judged": list(problem.judged)} if problem.judged else {})


def _identity(plan: _Plan) -> dict[str, Any]:
    """Everything that the numbers depend on: what a checkpoint must be of."""
    side_by_side, tuning = plan.side_by_side, plan.tuning
    return plan.described | {
        "problem": type(side_by_side.problem).__qualname__,
        "data_sha256": digest(side_by_side.data),
        # in their order, which is that of the runs
        "strategies": [[key, parts.signature(strategy)]
                       for key, strategy in side_by_side.strategies.items()],
        "tune": None if tuning is None else [repr(tuning), plan.headline],
        "compile": side_by_side.options.compile,
    }  # fmt: skip


def _tuned(plan: _Plan, tuning: Tuning, kept: Checkpoint | None) -> _Plan:
    """The plan with the best rates of every strategy beside the rates as given."""
    side_by_side = plan.side_by_side
    found, described = tune_strategies(side_by_side, tuning, plan.budget, plan.headline, kept)
    entries = {**side_by_side.strategies, **found}
    return plan._replace(
        side_by_side=SideBySide(entries, side_by_side.data, side_by_side.options),
        baselines=[*plan.baselines, *(k + TUNED for k in plan.baselines if k + TUNED in found)],
        described=plan.described | {"tuning": described},
    )


def _train(plan: _Plan, kept: Checkpoint | None) -> Outcome:
    """What became of all strategies, some of which must have got somewhere."""
    outcome = plan.side_by_side.train(plan.budget, kept)
    if all(Status[code].failed for codes in outcome.status.values() for code in codes):
        raise AllRunsFailedError(
            f"All runs of all strategies failed. {Status.DIVERGED.message}", outcome.solutions
        )
    return outcome


def _result(plan: _Plan, outcome: Outcome, name: str, settings: Mapping[str, object]) -> Comparison:
    """Everything that is known of the strategies that were trained, and what steps take."""
    side_by_side, costs = plan.side_by_side, plan.side_by_side.gradients_per_step()
    trained = [key for key in side_by_side.strategies if key in outcome.history]
    missing = [key for key in side_by_side.strategies if key not in outcome.history]  # after Ctrl-C
    same = outcome.same
    if plan.asked != side_by_side.data.seeds:  # all runs are one
        same = list(outcome.history)
    counted = slice(1 if same == list(outcome.history) else None)
    data = side_by_side.data.part(counted)
    seconds = dict.fromkeys(trained, np.nan)
    if not outcome.interrupted:
        with contextlib.suppress(KeyboardInterrupt):  # the trainings are worth more than the times
            seconds = seconds_per_step(trained, side_by_side, data)
    some = next(iter(outcome.solutions.values()))
    records = max(len(solution.steps) for solution in outcome.solutions.values())
    heads = {key: codes[counted] for key, codes in outcome.heads.items()}
    threads = torch.get_num_threads()
    described = plan.described | {
        **_seeds(data.seeds, plan.asked),
        "threads": threads,
        "data_note": side_by_side.problem.note,
        "bound_note": some.bound_note,
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
            dtype=plan.described["dtype"], device=plan.described["device"], threads=threads
        ),
        bound_kind=some.bound_kind,
    )


def _seeds(counted: list[int], asked: list[int]) -> dict[str, list[int]]:
    """The seeds of the numbers, and those that were asked for where all make the same run."""
    return {"seeds": counted, **({"seeds_asked": asked} if asked != counted else {})}


def _entries(strategies: object) -> dict[str, AbstractStrategy]:
    """The strategies by name; generator functions become strategies."""
    if not isinstance(strategies, Mapping) or not all(isinstance(key, str) for key in strategies):
        raise ArgumentError("`strategies` must be a dict of strategies by name.")
    if not strategies:
        raise ArgumentError("`strategies` is empty: there is nothing to compare.")
    if wrong := [key for key in strategies if not key.strip() or not key.isprintable()]:
        raise ArgumentError(f"Names of strategies are printed on a line, got {wrong[0]!r}.")
    entries = {
        key: OwnLoop(value) if isinstance(value, types.FunctionType) else value
        for key, value in strategies.items()
    }
    for strategy in entries.values():
        check_strategy(strategy, 1)
    return entries


def _padded(values: Array, records: int) -> Array:
    """NaN for the records that an interrupted or ended strategy does not have."""
    return np.pad(values, ((0, records - len(values)), (0, 0)), constant_values=np.nan)
