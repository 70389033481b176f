"""A comparison before its first step, all of it checked."""

import types
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bilevel.comparison.budget import Budget, BudgetKind
from bilevel.comparison.checkpoint import digest
from bilevel.comparison.judged import baselines_of, headline_of
from bilevel.comparison.side_by_side import SideBySide
from bilevel.comparison.tuning import Tuning
from bilevel.core import parts
from bilevel.errors import ArgumentError
from bilevel.strategies import AbstractStrategy, OwnLoop
from bilevel.training.arguments import check_strategy


class Plan(NamedTuple):
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


def prepare(
    side_by_side: SideBySide,
    kind: BudgetKind,
    steps: int,
    every: int | None,
    tune: Sequence[float] | Tuning | None,
    headline: str | None,
    baselines: Sequence[str] | None,
) -> Plan:
    """Everything is checked and initialised before the first step of the first strategy."""
    asked = side_by_side.data.seeds
    side_by_side = side_by_side.of_distinct_runs()
    names = side_by_side.recorded_names()
    headline = headline_of(side_by_side, headline, names)
    costs = side_by_side.costs
    budget = Budget(kind, steps, every, max(costs.values()))
    if kind == "gradients" and (free := [key for key, cost in costs.items() if not cost > 0]):
        raise ArgumentError(
            f"The steps of {', '.join(map(repr, free))} cost no gradients, so a budget of "
            'gradients does not end them: use `budget="steps"`, or return the `cost` of a step.'
        )
    tuning = None if tune is None else Tuning.of(tune, asked, side_by_side.strategies)
    data = side_by_side.data
    described = {
        **seeds_told(data.seeds, asked),
        "steps": steps,
        **_rows(side_by_side),
        "every": budget.marks[1] - budget.marks[0],
        "budget": kind,
        "dtype": str(data.dtype).removeprefix("torch."),
        "device": str(data.device),
        **({"number_of_tasks": data.sizes["train"]} if data.tasks else {}),
    }
    baselines = baselines_of(side_by_side) if baselines is None else baselines
    return Plan(side_by_side, asked, budget, tuning, headline, baselines, described)


def _rows(side_by_side: SideBySide) -> dict[str, Any]:
    """What the rows of a step are, for the settings."""
    batch_size, problem = side_by_side.options.batch_size, side_by_side.problem
    size = dict(batch_size) if isinstance(batch_size, Mapping) else batch_size
    found: dict[str, Any] = {"batch_size": size, "sampling": side_by_side.options.sampling}
    if side_by_side.data.online:
        found = {"experience": side_by_side.experience}
    return found | ({"also_judged": list(problem.judged)} if problem.judged else {})


def identity(plan: Plan) -> dict[str, Any]:
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


def seeds_told(counted: list[int], asked: list[int]) -> dict[str, list[int]]:
    """The seeds of the numbers, and those that were asked for where all make the same run."""
    return {"seeds": counted, **({"seeds_asked": asked} if asked != counted else {})}


def entries_of(strategies: object) -> dict[str, AbstractStrategy]:
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
