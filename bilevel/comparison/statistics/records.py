"""Which recorded value of a run counts: the last one, or the one of the best validation score."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bilevel.core.status import FAILED, Status

Array = NDArray[Any]


def last_values(table: Mapping[str, Array], metric: str) -> Array:
    """Value of each run at the last record at which anything was recorded for it.

    Runs may stop early (converged, interrupted, fewer steps for the same budget); the rest of
    their history is NaN then. A metric that is NaN while others are recorded stays NaN.

    Args:
        table: Metric -> (T, R) values.
        metric: Which metric.

    Returns:
        (R,) values.

    Examples:
        >>> last_values({"loss": np.array([[3.0, 3.0], [2.0, np.nan]])}, "loss").tolist()
        [2.0, 3.0]
    """
    recorded = ~np.isnan(np.stack(list(table.values()))).all(axis=0)
    return _pick(table[metric], len(recorded) - 1 - recorded[::-1].argmax(axis=0))


def accuracy_beside(metric: str, history: Mapping[str, Mapping[str, Array]]) -> str | None:
    """The accuracy of the same rows as a cross-entropy, which readers want to see beside it.

    Args:
        metric: Name of a metric.
        history: Strategy -> metric -> values.

    Returns:
        Its name; None for other metrics, or where it was not recorded.

    Examples:
        >>> accuracy_beside("test_cross_entropy", {"a": {"test_accuracy": np.ones((1, 1))}})
        'test_accuracy'
    """
    name = metric.removesuffix("cross_entropy") + "accuracy"
    known = metric.endswith("cross_entropy") and any(name in table for table in history.values())
    return name if known else None


def common_record(
    history: Mapping[str, Mapping[str, Array]], status: Mapping[str, Sequence[str]], records: int
) -> int:
    """The last record that all strategies have: where they can be compared at one step.

    Runs that failed or converged ended by themselves and need no further records.

    Args:
        history: Strategy -> metric -> (T, R) values, NaN where nothing was recorded.
        status: Strategy -> R names of `Status` members.
        records: T.

    Returns:
        Its index; T - 1 where the values say nothing else.

    Examples:
        >>> history = {"a": {"loss": np.ones((2, 1))}, "b": {"loss": np.array([[1.0], [np.nan]])}}
        >>> common_record(history, {"a": ["COMPLETED"], "b": ["INTERRUPTED"]}, 2)
        0
    """
    last = [records - 1]
    for name, table in history.items():
        going = ~np.isin(status[name], [*FAILED, Status.CONVERGED.name])
        recorded = np.zeros(records, dtype=bool)
        for values in table.values():
            recorded |= ~np.isnan(values[:, going]).all(axis=1)
        last.extend(np.flatnonzero(recorded)[-1:].tolist())
    return min(last)


def best_values(values: Array, scores: Array, higher: bool) -> Array:
    """Value of each run at the record where its score is best: early stopping in hindsight.

    Args:
        values: (T, R) values to report.
        scores: (T, R) validation scores to choose by.
        higher: Whether higher scores are better.

    Returns:
        (R,) values, NaN for runs without any finite score.

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
