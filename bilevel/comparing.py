"""Many strategies on one problem: same starts, same rows, same budget, few trainings."""

import contextlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bilevel import hyperparameters
from bilevel.arguments import check_problem_instance, check_strategy, float_type, seed_list
from bilevel.comparison import Comparison
from bilevel.errors import AllRunsFailedError, ArgumentError, unknown_name
from bilevel.loop import Loop, record_steps
from bilevel.problem import StackelbergProblem
from bilevel.sampling import BatchSize, TrainingData
from bilevel.solution import Solution
from bilevel.status import Status
from bilevel.storage.environment import environment
from bilevel.strategies import AbstractStrategy, TwoTimescale
from bilevel.strategies.presets import CONTROLS
from bilevel.training import Training

WARM_UP, ROUNDS, STEPS_PER_ROUND = 10, 5, 10
RECORDS = 50


class Progress(NamedTuple):
    """Where a comparison stands.

    Attributes:
        strategies: what is trained now, together.
        step: of `steps`.
        steps: of each strategy.
        done: strategies that are finished.
        total: how many there are.
    """

    strategies: tuple[str, ...]
    step: int
    steps: int
    done: int
    total: int


def compare(
    problem: StackelbergProblem,
    strategies: Mapping[str, AbstractStrategy],
    seeds: int | Sequence[int] = 20,
    *,
    steps: int = 2000,
    budget: Literal["steps"] = "steps",
    batch_size: BatchSize = 64,
    every: int | None = None,
    baselines: Sequence[str] | None = None,
    headline: str | None = None,
    name: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    compile: bool = False,
    settings: Mapping[str, object] | None = None,
    callback: Callable[[Progress], object] | None = None,
) -> Comparison:
    """Train strategies side by side and compare them, paired over seeds.

    All strategies start a seed from the same point and see the same rows at every step. Strategies
    of equal structure, which differ in numbers only, are trained as one.

    Args:
        problem: what to solve.
        strategies: by name.
        seeds: how many (0, 1, ...), or the seeds themselves.
        steps: body steps of every strategy.
        budget: what is equal for all: "steps".
        batch_size: rows per step; None: all rows.
        every: steps between records; None: about 50 records.
        baselines: names to compare the others with; None: the preset controls and uniform
            strategies among them, or else the first strategy.
        headline: the metric to judge by; None: the first that starts with "test_", else
            "objective".
        name: of the problem, for the report; None: its class.
        device: where to compute.
        dtype: of the training.
        compile: compile the steps, see `solve`.
        settings: more entries for the report's settings, such as the command.
        callback: called with a `Progress` at every record.

    Returns:
        The `Comparison`. Ctrl-C ends the training early: what was recorded is kept, runs that were
        not finished have the status INTERRUPTED.

    Raises:
        AllRunsFailedError: every run of every strategy diverged.
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
    if budget != "steps":
        raise ArgumentError(f'`budget` must be "steps", got {budget!r}.')
    check_problem_instance(problem)
    if not isinstance(strategies, Mapping) or not all(isinstance(name, str) for name in strategies):
        raise ArgumentError("`strategies` must be a dict of strategies by name.")
    if not strategies:
        raise ArgumentError("`strategies` is empty: there is nothing to compare.")
    seed_numbers = seed_list(seeds)
    if isinstance(steps, int) and steps > 0 and every is None:
        every = max(1, round(steps / RECORDS))
    for strategy in strategies.values():
        check_strategy(strategy, 1)
    baselines = _baselines(strategies, baselines)
    data = TrainingData(problem, seed_numbers, float_type(dtype), device)
    groups = _group(strategies)
    # everything is checked and initialised before the first step of the first strategy
    trainings = {
        names: Loop(
            problem,
            hyperparameters.stack([strategies[n] for n in names], len(seed_numbers)),
            data.repeated(len(names)),
            batch_size,
            compile=compile,
        )
        for names in groups
    }
    if headline is not None:
        _headline(next(iter(trainings.values())).recorded_names(), headline)
    solutions = _train(trainings, steps, 1 if every is None else every, callback)
    history, status = _split(solutions, len(seed_numbers))
    trained = {name: strategies[name] for name in strategies if name in history}
    missing = [name for name in strategies if name not in history]  # after Ctrl-C
    recorded = next(iter(solutions.values()))
    steps_recorded = max((s.steps for s in solutions.values()), key=len).numpy()
    failed = {Status[code].failed for codes in status.values() for code in codes}
    if failed == {True}:
        raise AllRunsFailedError(
            f"All runs of all strategies failed. {Status.DIVERGED.message}", solutions
        )
    interrupted = any(Status.INTERRUPTED in s.status for s in solutions.values())
    seconds = dict.fromkeys(trained, np.nan)
    if not interrupted:
        with contextlib.suppress(KeyboardInterrupt):  # the trainings are worth more than the times
            seconds = _seconds(problem, trained, data, batch_size, compile=compile)
    metrics = list(dict.fromkeys(metric for table in history.values() for metric in table))
    described: dict[str, Any] = {
        "seeds": seed_numbers,
        "steps": steps,
        "batch_size": dict(batch_size) if isinstance(batch_size, Mapping) else batch_size,
        "every": every,
        "budget": budget,
        "dtype": str(dtype).removeprefix("torch."),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "data_note": problem.note,
        "bound_note": recorded.bound_note,
        **({"not_trained": missing} if missing else {}),
        **(settings or {}),
    }
    return Comparison(
        problem=name or type(problem).__name__,
        settings=described,
        strategies={key: repr(strategy) for key, strategy in trained.items()},
        steps=steps_recorded,
        history={key: _pad(table, len(steps_recorded)) for key, table in history.items()},
        status=status,
        gradients_per_step={k: float(s.cost.gradients) for k, s in trained.items()},
        seconds_per_step=seconds,
        baselines=tuple(key for key in baselines if key in trained),
        headline=_headline(metrics, headline),
        environment=environment(
            dtype=described["dtype"], device=str(device), threads=torch.get_num_threads()
        ),
        bound_kind=recorded.bound_kind,
    )


Groups = dict[tuple[str, ...], Loop]


def _group(strategies: Mapping[str, AbstractStrategy]) -> list[tuple[str, ...]]:
    """Names of strategies of equal structure, in the order given."""
    found: dict[object, list[str]] = {}
    for name, strategy in strategies.items():
        found.setdefault(hyperparameters.structure(strategy), []).append(name)
    return [tuple(names) for names in found.values()]


def _train(
    trainings: Groups, steps: int, every: int, callback: Callable[[Progress], object] | None
) -> dict[tuple[str, ...], Solution]:
    """Run the groups one after another; an interrupted one is the last."""
    solutions: dict[tuple[str, ...], Solution] = {}
    total, done = sum(map(len, trainings)), 0
    for names, training in trainings.items():

        def report(
            k: int, _: dict[str, Tensor], names: tuple[str, ...] = names, done: int = done
        ) -> None:
            if callback is not None:
                callback(Progress(names, k, steps, done, total))

        try:
            solutions[names] = training.run(record_steps(0, steps, every), callback=report)
        except KeyboardInterrupt:
            if not solutions:
                raise
            break
        done += len(names)
        if Status.INTERRUPTED in solutions[names].status:
            break
    return solutions


def _split(
    solutions: Mapping[tuple[str, ...], Solution], seeds: int
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, list[str]]]:
    """History and status of each strategy, from the runs of its group."""
    history, status = {}, {}
    for names, solution in solutions.items():
        for i, name in enumerate(names):
            runs = slice(i * seeds, (i + 1) * seeds)
            history[name] = {m: v[:, runs].numpy() for m, v in solution.history.items()}
            status[name] = [code.name for code in solution.status[runs]]
    return history, status


def _pad(table: dict[str, np.ndarray], records: int) -> dict[str, np.ndarray]:
    """NaN for the records that an interrupted or ended strategy does not have."""
    return {
        metric: np.concatenate(
            [values, np.full((records - len(values), values.shape[1]), np.nan)], axis=0
        )
        for metric, values in table.items()
    }


def _seconds(
    problem: StackelbergProblem,
    strategies: Mapping[str, AbstractStrategy],
    data: TrainingData,
    batch_size: BatchSize,
    *,
    compile: bool,
) -> dict[str, float]:
    """Seconds of a step per run when all seeds train together: interleaved rounds, medians."""
    trainings = {
        name: Training(problem, strategy, data, batch_size, compile=compile and strategy.compilable)
        for name, strategy in strategies.items()
    }
    for training in trainings.values():
        training.seconds_per_step(WARM_UP)
    times: dict[str, list[float]] = {name: [] for name in trainings}
    for _ in range(ROUNDS):
        for name, training in trainings.items():
            times[name].append(training.seconds_per_step(STEPS_PER_ROUND) / len(data.seeds))
    return {name: statistics.median(found) for name, found in times.items()}


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
    return next((metric for metric in metrics if metric.startswith("test_")), "objective")
