"""Many strategies on one problem: same starts, same rows, same budget, few trainings."""

import contextlib
import hashlib
import os
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bilevel import trees
from bilevel.comparison.budget import Budget, BudgetKind
from bilevel.comparison.checkpoint import Checkpoint
from bilevel.comparison.result import Comparison
from bilevel.comparison.side_by_side import Options, Progress, SideBySide
from bilevel.comparison.statistics.judging import shown
from bilevel.comparison.timing import _seconds
from bilevel.comparison.tuning import Tuning, tune_strategies
from bilevel.core import parts
from bilevel.core.status import Status
from bilevel.data.draws import Sampling
from bilevel.data.groups import ROWS_AT_ONCE
from bilevel.data.sampler import BatchSize
from bilevel.data.training_data import TrainingData
from bilevel.errors import AllRunsFailedError, ArgumentError, unknown_name
from bilevel.problem.base import StackelbergProblem
from bilevel.storage.environment import environment
from bilevel.strategies import AbstractStrategy, OwnLoop, TwoTimescale
from bilevel.strategies.presets import CONTROLS
from bilevel.training.arguments import check_strategy, float_type, seed_list

Array = NDArray[np.float64]


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
            strategies among them, or else the first strategy.
        headline: the metric to judge by; None: the first that starts with "test_", else the first
            that starts with "validation_", else F at the recorded point ("body_objective", which is
            "objective" where F is g).
        name: of the problem, for the report; None: its class.
        device: where to compute.
        dtype: of the training.
        compile: compile the steps, see `solve`.
        max_runs_at_once: bounds memory, see `solve`.
        checkpoint: a folder to keep the training in. If it holds this comparison, the training
            goes on from there, with the same numbers as if it had never stopped.
        settings: more entries for the report's settings, such as the command.
        callback: called with a `Progress` at every record.

    Returns:
        The `Comparison`. Ctrl-C ends the training early: what was recorded is kept, runs that were
        not finished have the status INTERRUPTED.

    Raises:
        AllRunsFailedError: every run of every strategy diverged.
        ResultsError: `checkpoint` holds another comparison, or a damaged file.
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
    entrants = _entrants(strategies)
    baselines = _baselines(entrants, baselines)
    seed_numbers = seed_list(seeds)
    data = TrainingData(problem, seed_numbers, float_type(dtype), device)
    options = Options(batch_size, sampling, compile, max_runs_at_once)
    # everything is checked and initialised before the first step of the first strategy
    contest, asked = SideBySide(problem, entrants, data, options), seed_numbers
    if len(asked) > 1 and len(contest.one_run()) == len(entrants):
        data = data.part(slice(0, 1))
        contest, seed_numbers = SideBySide(problem, entrants, data, options), asked[:1]
    if headline is not None:
        headline = _headline(contest.recorded_names(), headline)
    costs = contest.gradients_per_step()
    plan = Budget(budget, steps, every, max(costs.values()))
    if budget == "gradients" and (free := [key for key, cost in costs.items() if not cost > 0]):
        raise ArgumentError(
            f"The steps of {', '.join(map(repr, free))} cost no gradients, so a budget of "
            'gradients does not end them: use `budget="steps"`, or return the `cost` of a step.'
        )
    tuning, metric = None, ""
    if tune is not None:
        tuning = Tuning.of(tune, asked, entrants)
        metric = headline or _headline(contest.recorded_names(), None)
    described: dict[str, Any] = {
        "seeds": seed_numbers,
        **({"seeds_asked": asked} if asked != seed_numbers else {}),
        "steps": steps,
        "batch_size": dict(batch_size) if isinstance(batch_size, Mapping) else batch_size,
        "every": plan.marks[1] - plan.marks[0],
        "budget": budget,
        "sampling": sampling,
        "dtype": str(dtype).removeprefix("torch."),
        "device": str(device),
    }
    kept = None
    if checkpoint is not None:
        what = {
            "problem": type(problem).__qualname__,
            "data_sha256": _digest(data),
            # in their order, which is that of the runs
            "strategies": [[key, parts.signature(s, numbers=True)] for key, s in
                           entrants.items()],
            "tune": None if tuning is None else [repr(tuning), metric],
            "compile": compile,
        }  # fmt: skip
        kept = Checkpoint(checkpoint, {**described, **what}, settings)
    if tuning is not None:
        found = tune_strategies(
            problem, entrants, tuning, plan, options, data, metric, callback, kept
        )
        baselines = [*baselines, *(found.names[key] for key in baselines if key in found.names)]
        entrants = {**entrants, **found.strategies}
        described["tuning"] = found.described
        contest = SideBySide(problem, entrants, data, options)
    outcome = contest.train(plan, callback, kept)
    same = list(outcome.history) if asked != seed_numbers else outcome.same
    if same == list(outcome.history):  # all runs are one: it is counted once
        outcome, data = outcome.first_seed(), data.part(slice(0, 1))
        described |= {"seeds": asked[:1], "seeds_asked": asked}
    trained = {key: entrants[key] for key in entrants if key in outcome.history}
    missing = [key for key in entrants if key not in outcome.history]  # after Ctrl-C
    failed = {Status[code].failed for codes in outcome.status.values() for code in codes}
    if failed == {True}:
        raise AllRunsFailedError(
            f"All runs of all strategies failed. {Status.DIVERGED.message}", outcome.solutions
        )
    seconds = dict.fromkeys(trained, np.nan)
    if not outcome.interrupted:
        with contextlib.suppress(KeyboardInterrupt):  # the trainings are worth more than the times
            seconds = _seconds(problem, trained, data, options)
    some = next(iter(outcome.solutions.values()))
    records = max(len(solution.steps) for solution in outcome.solutions.values())
    costs = contest.gradients_per_step()
    metrics = list(dict.fromkeys(m for table in outcome.history.values() for m in table))
    described |= {
        "threads": torch.get_num_threads(),
        "data_note": problem.note,
        "bound_note": some.bound_note,
        **({"same_runs": same} if same else {}),
        **({"interrupted_heads": outcome.heads} if outcome.heads else {}),
        **({"not_trained": missing} if missing else {}),
        **(settings or {}),
    }
    return Comparison(
        problem=name or type(problem).__name__,
        settings=described,
        strategies={key: repr(strategy) for key, strategy in trained.items()},
        steps=np.array(plan.marks[:records]),
        history={key: _pad(table, records) for key, table in outcome.history.items()},
        status=outcome.status,
        gradients_per_step={key: costs[key] for key in trained},
        seconds_per_step=seconds,
        baselines=tuple(key for key in baselines if key in trained),
        headline=_headline(metrics, headline),
        environment=environment(
            dtype=described["dtype"], device=str(device), threads=torch.get_num_threads()
        ),
        bound_kind=some.bound_kind,
    )


def _entrants(strategies: object) -> dict[str, AbstractStrategy]:
    """The strategies by name; generator functions become strategies."""
    if not isinstance(strategies, Mapping) or not all(isinstance(key, str) for key in strategies):
        raise ArgumentError("`strategies` must be a dict of strategies by name.")
    if not strategies:
        raise ArgumentError("`strategies` is empty: there is nothing to compare.")
    entrants = {
        key: OwnLoop(value) if isinstance(value, types.FunctionType) else value
        for key, value in strategies.items()
    }
    for strategy in entrants.values():
        check_strategy(strategy, 1)
    return entrants


def _digest(data: TrainingData) -> str:
    """What tells one data set from another."""
    found = hashlib.sha256()
    for place, leaf in trees.named_leaves(data.groups):
        found.update(f"{place} {tuple(leaf.shape)} {leaf.dtype}".encode())
        for some in torch.split(leaf, ROWS_AT_ONCE):  # they may come from a file
            found.update(some.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _pad(table: dict[str, Array], records: int) -> dict[str, Array]:
    """NaN for the records that an interrupted or ended strategy does not have."""
    return {
        metric: np.concatenate(
            [values, np.full((records - len(values), values.shape[1]), np.nan)], axis=0
        )
        for metric, values in table.items()
    }


def _baselines(
    strategies: Mapping[str, AbstractStrategy], asked: Sequence[str] | None
) -> Sequence[str]:
    if asked is not None:
        for name in asked:
            if name not in strategies:
                raise unknown_name("strategy", name, strategies)
        return asked
    found = [
        name
        for name, strategy in strategies.items()
        if name in CONTROLS or (isinstance(strategy, TwoTimescale) and strategy.is_uniform)
    ]
    return found if 0 < len(found) < len(strategies) else list(strategies)[:1]


def _headline(metrics: Sequence[str], asked: str | None) -> str:
    if asked is not None:
        if asked not in metrics:
            raise unknown_name("metric", asked, metrics)
        return asked
    return shown(metrics)
