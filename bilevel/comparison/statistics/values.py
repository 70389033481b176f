"""The values that strategies are compared by: one of each run, at the same place of the budget."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bilevel.comparison.statistics.paired import higher_is_better
from bilevel.comparison.statistics.records import best_values, common_record, last_values
from bilevel.core.status import FAILED

Array = NDArray[Any]


class Values(NamedTuple):
    """What was recorded of all strategies; runs that failed have no value.

    Attributes:
        history: Strategy -> metric -> (T, R) values.
        status: Strategy -> R names of `Status` members.
        records: T.
    """

    history: Mapping[str, Mapping[str, Array]]
    status: Mapping[str, Sequence[str]]
    records: int

    @property
    def common(self) -> int:
        """The last record that all strategies have."""
        return common_record(self.history, self.status, self.records)

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
        failed = np.array([status in FAILED for status in self.status[name]])
        return np.where(failed, np.nan, values)
