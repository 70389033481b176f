"""Rates searched for every strategy with the same effort, on seeds of their own."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bilevel.comparison.budget import Budget
from bilevel.comparison.side_by_side import Outcome, SideBySide
from bilevel.comparison.statistics.judging import higher_is_better, selecting
from bilevel.core.checks import single
from bilevel.core.schedules import AbstractSchedule
from bilevel.core.status import FAILED
from bilevel.data.training_data import TrainingData
from bilevel.errors import ArgumentError
from bilevel.report import doubts
from bilevel.report.words import TUNED
from bilevel.strategies import AbstractStrategy
from bilevel.training.arguments import seed_list


@dataclasses.dataclass(frozen=True)
class Tuning:
    """A search for the rates of every strategy, before strategies are compared.

    With $n$ factors, a strategy of two rates is tried at all $n^2$ pairs of them, and a strategy of
    one rate at $n^2$ factors between the smallest and the largest: every strategy gets as many
    trials, on the same seeds. The trial with the best mean at the last step wins, by the validation
    metric that belongs to the headline, else by another validation metric, else by F at the
    recorded point: never by the test rows, and never by g where F is not g.

    Args:
        factors: what the rates are multiplied with, at least two; they should embrace 1.
        seeds: to train trials from: how many, after the largest seed of the comparison, or the
            seeds themselves, which must not be among those that are compared. One is enough where
            no seed makes a difference.

    Raises:
        ArgumentError: a factor is not positive, or there are none; `seeds` is no positive integer.

    Examples:
        >>> import bilevel
        >>> from problems.toy import ScalarProduct
        >>> pair = {"slow": bilevel.uniform(0.01), "two": bilevel.TwoTimescale(0.01, 0.1)}
        >>> tuning = bilevel.Tuning((0.1, 1, 10), seeds=2)
        >>> tuned = bilevel.compare(ScalarProduct(), pair, steps=50, seeds=3, tune=tuning)
        >>> list(tuned.strategies)
        ['slow', 'two', 'slow, tuned', 'two, tuned']
    """

    factors: tuple[float, ...] = (0.1, 0.32, 1.0, 3.2, 10.0)
    seeds: int | Sequence[int] = 5

    def __post_init__(self) -> None:
        try:
            factors = tuple(single(factor, "`tune`") for factor in self.factors)
        except TypeError:
            raise ArgumentError(
                f"`tune` must be factors such as (0.1, 1, 10), or a Tuning, got {self.factors!r}."
            ) from None
        if len(set(factors)) < 2:
            raise ArgumentError(f"`tune` needs at least two factors, got {self.factors!r}.")
        object.__setattr__(self, "factors", tuple(sorted(set(factors))))

    @classmethod
    def of(
        cls,
        asked: "Sequence[float] | Tuning",
        compared: Sequence[int],
        strategies: Mapping[str, AbstractStrategy],
    ) -> "Tuning":
        """What was asked for, with seeds that are not among those `compared`, for `strategies`."""
        tuning = asked if isinstance(asked, Tuning) else cls(asked)  # type: ignore[arg-type]
        if not any(strategy.rates for strategy in strategies.values()):
            raise ArgumentError("`tune` finds no rates: no strategy has any.")
        if taken := [name for name in strategies if f"{name}{TUNED}" in strategies]:
            raise ArgumentError(
                f"`tune` gives the name {taken[0] + TUNED!r} to what it finds, which a strategy "
                "has already: rename that one."
            )
        seeds = seed_list(tuning.seeds)
        if isinstance(tuning.seeds, int):
            seeds = [max(compared) + 1 + i for i in seeds]
        if shared := sorted(set(seeds) & set(compared)):
            raise ArgumentError(
                f"Rates must be tuned on seeds that are not compared, but both have {shared}."
            )
        return dataclasses.replace(tuning, seeds=seeds)

    def trials(self, strategies: Mapping[str, AbstractStrategy]) -> dict[str, list["Trial"]]:
        """The trials of every strategy that has rates."""
        rates = {name: strategy.rates for name, strategy in strategies.items()}
        total = len(self.factors) ** max(map(len, rates.values()))
        return {
            name: self._trials(strategies[name], groups, total)
            for name, groups in rates.items()
            if groups
        }

    def _trials(
        self, strategy: AbstractStrategy, groups: tuple[tuple[str, ...], ...], total: int
    ) -> list["Trial"]:
        """All combinations of as many factors for each rate as make up `total` trials."""
        count = round(total ** (1 / len(groups)))
        factors = self.factors
        if count != len(factors):
            spread = np.geomspace(factors[0], factors[-1], count)
            factors = tuple(float(f"{factor:.3g}") for factor in spread)
        return [
            Trial(
                scaled(strategy, dict(zip(groups, chosen, strict=True))),
                dict(zip((" = ".join(group) for group in groups), chosen, strict=True)),
                any(factor in (factors[0], factors[-1]) for factor in chosen),
            )
            for chosen in itertools.product(factors, repeat=len(groups))
        ]


class Trial(NamedTuple):
    """Rates to try, what makes them of those given, and whether that is an end of the grid."""

    strategy: AbstractStrategy
    factors: dict[str, float]
    edge: bool


def tune_strategies(
    side_by_side: SideBySide,
    tuning: Tuning,
    budget: Budget,
    headline: str,
    train: Callable[[SideBySide, Budget], Outcome],
) -> tuple[dict[str, AbstractStrategy], dict[str, Any]]:
    """Have all trials of the strategies trained, with the budget of the comparison, and choose.

    Returns:
        "NAME, tuned" -> strategy; and what the report tells: metric, seeds, factors, and for every
        strategy its trials and the best of them.
    """
    trials = tuning.trials(side_by_side.strategies)
    dtype, device = side_by_side.data.dtype, side_by_side.data.device
    data = TrainingData(
        side_by_side.problem, seed_list(tuning.seeds), dtype, device, experienced=True
    )
    entries = {
        f"{name} {i}": trial.strategy for name in trials for i, trial in enumerate(trials[name])
    }
    search = SideBySide(entries, data, side_by_side.options, "tuning")
    search = search.of_distinct_runs()
    metric = selecting(search.recorded_names(), headline)
    outcome = train(search, dataclasses.replace(budget, every=budget.total))
    if outcome.interrupted:
        raise KeyboardInterrupt
    found: dict[str, AbstractStrategy] = {}
    described = {}
    for name, tried in trials.items():
        scores = [_score(outcome, f"{name} {i}", metric) for i in range(len(tried))]
        number = int(np.argmin(scores))
        best = tried[number]
        found[name + TUNED] = best.strategy
        sign = -1 if higher_is_better(metric) else 1
        described[name] = {
            "trials": len(tried),
            "failed": sum(map(math.isinf, scores)),
            "factors": best.factors,
            "score": sign * min(scores),
            "edge": best.edge,
            "doubts": doubts.counted(outcome.status[f"{name} {number}"]),
        }
    return found, {
        "metric": metric,
        "seeds": search.data.seeds,
        "factors": list(tuning.factors),
        "strategies": described,
    }


def scaled(
    strategy: AbstractStrategy, factors: Mapping[tuple[str, ...], float]
) -> AbstractStrategy:
    """The strategy with its rates multiplied, those of a group by the same factor."""
    changes: dict[str, AbstractSchedule] = {}
    for group, factor in factors.items():
        rates = [getattr(strategy, name) for name in group]
        made = {id(rate): rate.scaled(factor) for rate in rates}  # one that is shared stays so
        changes |= {name: made[id(rate)] for name, rate in zip(group, rates, strict=True)}
    changed: AbstractStrategy = dataclasses.replace(strategy, **changes)  # type: ignore[type-var]
    return changed


def _score(outcome: Outcome, name: str, metric: str) -> float:
    """The mean over seeds at the last record, lower is better; inf if a run failed."""
    last = outcome.history[name][metric][-1]
    if any(code in FAILED for code in outcome.status[name]) or not np.isfinite(last).all():
        return math.inf
    return float(last.mean()) * (-1 if higher_is_better(metric) else 1)
