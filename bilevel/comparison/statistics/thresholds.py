"""How fast runs reach a level."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def steps_to_threshold(
    steps: Array, values: Array, threshold: float, higher: bool = False
) -> Array:
    """First recorded step at which each run reaches a threshold.

    Args:
        steps: (T,) recorded steps, increasing.
        values: (T, R) values; NaN never reaches anything.
        threshold: The value to reach.
        higher: Whether larger is better: reaching means `>=` instead of `<=`.

    Returns:
        (R,) steps as floats, inf for runs that never reach it.

    Examples:
        >>> steps_to_threshold(np.array([0, 50]), np.array([[3.0, 3.0], [1.0, 2.5]]), 2.0).tolist()
        [50.0, inf]
    """
    reached = values >= threshold if higher else values <= threshold
    first = np.asarray(steps, dtype=np.float64)[reached.argmax(axis=0)]
    return np.where(reached.any(axis=0), first, np.inf)


def reach_common_level(
    steps: Array, tables: Mapping[str, Array], final: Mapping[str, Array], higher: bool
) -> tuple[float, dict[str, float]]:
    """How fast the level is reached that half of the runs of every strategy reach in the end.

    Runs without a finite final value have failed: they never arrive, and are the worst in the
    median of their strategy. The median of an even number of runs is the better, or faster, of the
    two in the middle, so that the strategy that sets the level reaches it.

    Args:
        steps: (T,) recorded steps, or more, increasing.
        tables: Strategy -> (T, R) values.
        final: Strategy -> (R,) final values, NaN for runs that failed.
        higher: Whether larger is better.

    Returns:
        The threshold, the worst over strategies of the median final value, leaving out strategies
        most of whose runs failed; and strategy -> median of the first recorded step there, inf
        for never. NaN and nothing where runs start at that level already.

    Examples:
        >>> tables = {"a": np.array([[3.0, 3.0], [1.0, 2.0]])}
        >>> reach_common_level(np.array([0, 50]), tables, {"a": np.array([1.0, 2.0])}, False)
        (1.0, {'a': 50.0})
    """
    sign = -1.0 if higher else 1.0
    worst = [np.where(np.isfinite(runs), sign * runs, np.inf) for runs in final.values()]
    levels = [level for level in map(_middle, worst) if np.isfinite(level)]
    if not levels:
        return np.nan, {}
    threshold = sign * max(levels)
    start = np.concatenate([values[0] for values in tables.values()])
    if (start >= threshold if higher else start <= threshold).any():
        return np.nan, {}  # some runs got worse: being there at the start is no achievement
    ended = {name: np.where(np.isfinite(final[name]), tables[name], np.nan) for name in tables}
    return threshold, {
        name: _middle(steps_to_threshold(steps[: len(values)], values, threshold, higher))
        for name, values in ended.items()
    }


def _middle(values: Array) -> float:
    """The median; of an even number, the lower of the two in the middle."""
    return float(np.sort(values)[(len(values) - 1) // 2])
