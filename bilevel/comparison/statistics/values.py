"""The values that strategies are compared by: one of each run, at the same place of the budget."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bilevel.comparison.statistics.judging import higher_is_better
from bilevel.core.status import FAILED, Status

Array = NDArray[Any]


class Values(NamedTuple):
    """What was recorded of all strategies; runs that failed have no value.

    Attributes:
        history: Strategy -> metric -> (T, R) values, NaN where nothing was recorded.
        status: Strategy -> R names of `Status` members.
        records: T.
    """

    history: Mapping[str, Mapping[str, Array]]
    status: Mapping[str, Sequence[str]]
    records: int

    @property
    def common(self) -> int:
        """The last record that all strategies have: where they can be compared at one step.

        Runs that failed or converged ended by themselves and need no further records.
        """
        last = [self.records - 1]
        for name, table in self.history.items():
            going = ~np.isin(self.status[name], [*FAILED, Status.CONVERGED.name])
            recorded = [~np.isnan(values[:, going]).all(axis=1) for values in table.values()]
            last.extend(np.flatnonzero(np.any(recorded, axis=0))[-1:].tolist())
        return min(last)

    def compared(self) -> dict[str, dict[str, Array]]:
        """The history up to that record."""
        end = self.common + 1
        return {name: {metric: values[:end] for metric, values in table.items()}
                for name, table in self.history.items()}  # fmt: skip

    def last(self, metric: str) -> dict[str, Array]:
        """The last value of each run, (R,), by strategy, without those that lack the metric."""
        return {
            name: self._ended(name, last_values(table, metric))
            for name, table in self.compared().items()
            if metric in table
        }

    def best(self, metric: str, score: str) -> dict[str, Array]:
        """The value of each run, (R,), where its score is best."""
        higher = higher_is_better(score)
        return {
            name: self._ended(name, best_values(table[metric], table[score], higher))
            for name, table in self.compared().items()
            if score in table and metric in table
        }

    def _ended(self, name: str, values: Array) -> Array:
        """NaN where a run failed."""
        return np.where(self.failed(name), np.nan, values)

    def failed(self, name: str) -> Array:
        """Which runs of a strategy failed, (R,)."""
        return np.isin(self.status[name], list(FAILED))


def last_values(table: Mapping[str, Array], metric: str) -> Array:
    """Value of each run at the last record at which anything was recorded for it, (R,).

    Runs may stop early (converged, interrupted, fewer steps for the same budget); the rest of
    their history is NaN then. A metric that is NaN while others are recorded stays NaN.

    Args:
        table: Metric -> (T, R) values.
        metric: Which metric.

    Examples:
        >>> last_values({"loss": np.array([[3.0, 3.0], [2.0, np.nan]])}, "loss").tolist()
        [2.0, 3.0]
    """
    recorded = ~np.isnan(np.stack(list(table.values()))).all(axis=0)
    return _pick(table[metric], len(recorded) - 1 - recorded[::-1].argmax(axis=0))


def best_values(values: Array, scores: Array, higher: bool) -> Array:
    """Value of each run at the record where its score is best, (R,): early stopping in hindsight.

    Args:
        values: (T, R) values to report.
        scores: (T, R) validation scores to choose by; a run without any finite one has no value.
        higher: Whether higher scores are better.

    Examples:
        >>> test, validation = np.array([[3.0], [1.0], [2.0]]), np.array([[5.0], [6.0], [4.0]])
        >>> best_values(test, validation, higher=False).tolist()
        [2.0]
    """
    finite = np.isfinite(scores)
    scores = np.where(finite, -scores if higher else scores, np.inf)
    return np.where(finite.any(axis=0), _pick(values, scores.argmin(axis=0)), np.nan)


def _pick(values: Array, record: Array) -> Array:
    picked: Array = values[record, np.arange(values.shape[1])]
    return picked


def count_finite(values: Mapping[str, Array]) -> dict[str, int]:
    """How many runs of each strategy have a value."""
    return {name: int(np.isfinite(runs).sum()) for name, runs in values.items()}
