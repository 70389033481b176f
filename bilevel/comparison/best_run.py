"""The run of a comparison that its validation rows like best, and that run once more."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from bilevel import trees
from bilevel.comparison.budget import Budget
from bilevel.comparison.result import Comparison
from bilevel.comparison.statistics.judging import higher_is_better, selecting
from bilevel.comparison.tuning import scaled
from bilevel.core.status import Status
from bilevel.problem.base import StackelbergProblem
from bilevel.report.words import TUNED
from bilevel.strategies import AbstractStrategy
from bilevel.training.solve import solve
from bilevel.trees import Tree


class BestRun(NamedTuple):
    """A run at a record.

    Attributes:
        strategy: its name.
        seed: of the run.
        step: of the record, at least 1.
        metric: the validation metric that chose it.
        value: of that metric.
    """

    strategy: str
    seed: int
    step: int
    metric: str
    value: float


def best_run(comparison: Comparison) -> BestRun | None:
    """The strategy with the best mean over seeds, and of its runs the best one.

    Each run counts at its best record, by the validation metric that belongs to the headline; test
    rows have no say. A strategy of which a run failed counts only where all are such. None where
    no validation metric was recorded.
    """
    metric = selecting(comparison.metrics, comparison.headline)
    if metric is None or not metric.startswith("validation"):
        return None
    sign = -1.0 if higher_is_better(metric) else 1.0
    found: list[tuple[bool, float, BestRun]] = []
    for name, table in comparison.history.items():
        if metric not in table or len(table[metric]) < 2:
            continue
        # the start is nobody's result
        values = np.where(np.isfinite(table[metric]), sign * table[metric], np.inf)[1:]
        best = values.min(0)
        if not np.isfinite(best).any():
            continue
        failed = any(Status[code].failed for code in comparison.status[name])
        run = int(best.argmin())
        step = _steps(comparison, name)[1 + int(values[:, run].argmin())]
        seed = comparison.settings["seeds"][run]
        chosen = BestRun(name, seed, step, metric, sign * float(best[run]))
        found.append((failed, float(best[np.isfinite(best)].mean()), chosen))
    return min(found, key=lambda row: row[:2])[2] if found else None


def _steps(comparison: Comparison, name: str) -> list[int]:
    """The steps of the records of a strategy, whatever the budget counts."""
    settings, costs = comparison.settings, comparison.gradients_per_step
    budget = Budget(settings["budget"], settings["steps"], settings["every"], max(costs.values()))
    return list(budget.steps(costs[name]))


def trained_again(
    comparison: Comparison,
    run: BestRun,
    problem: StackelbergProblem,
    strategies: Mapping[str, AbstractStrategy],
) -> tuple[Tree, Tree]:
    """Body and head of a run at its record, without a run axis.

    A comparison keeps no iterates; a seed makes the same steps again, equal up to rounding.

    Raises:
        AllRunsFailedError: the run, at the edge of what is stable, failed this time.
    """
    settings = comparison.settings
    strategy = strategies.get(run.strategy)
    if strategy is None:
        given = run.strategy.removesuffix(TUNED)
        factors = settings["tuning"]["strategies"][given]["factors"]
        groups = strategies[given].rates
        strategy = scaled(strategies[given], {g: factors[" = ".join(g)] for g in groups})
    solution = solve(
        problem,
        strategy,
        steps=run.step,
        every=run.step,
        batch_size=settings["batch_size"],
        seeds=[run.seed],
        sampling=settings["sampling"],
        device=settings["device"],
        dtype=getattr(torch, settings["dtype"]),
    )
    if Status.INTERRUPTED in solution.status:
        raise KeyboardInterrupt
    body, head = (trees.cast(trees.take(x, 0), torch.float64, "cpu")
                  for x in (solution.body, solution.head))  # fmt: skip
    return body, head
