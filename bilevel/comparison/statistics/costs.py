"""What strategies have spent by each record: steps, gradient evaluations, seconds."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Positions = dict[str, dict[str, Array]]
AXES = ("steps", "gradients", "seconds")


def whole_steps(budget: str, marks: Array, gradients: float) -> Array:
    """Steps that a strategy has made by some marks of its budget.

    Args:
        budget: "steps" or "gradients": what is equal for all.
        marks: (T,) of these.
        gradients: Gradient evaluations of one step of the strategy.

    Returns:
        (T,) steps: the marks, or as many whole steps as their gradients pay for.

    Examples:
        >>> whole_steps("gradients", np.array([0, 10, 20]), 4.0).tolist()
        [0, 2, 5]
    """
    # a step that ends at a mark is made, whatever the rounding: 0.3 / 0.1 is below 3
    return marks if budget == "steps" else np.floor(marks / gradients + 1e-9).astype(np.int64)


def positions(
    budget: str, marks: Array, gradients: Mapping[str, float], seconds: Mapping[str, float]
) -> Positions:
    """Where records lie on each horizontal axis.

    Args:
        budget: "steps" or "gradients": what is equal for all.
        marks: (T,) of these by each record.
        gradients: Name -> gradient evaluations of one step.
        seconds: Name -> seconds of one step, NaN where they were not measured.

    Returns:
        Axis -> name -> (T,) positions: first the axis of the budget, on which all strategies end at
        the same place; seconds only of strategies with a time, and only if there are any.
    """
    made = {name: whole_steps(budget, marks, cost) for name, cost in gradients.items()}
    timed = {name: made[name] * cost for name, cost in seconds.items() if np.isfinite(cost)}
    evaluated = {name: made[name] * cost for name, cost in gradients.items()}
    found = {"steps": made, "gradients": evaluated, "seconds": timed}
    return {axis: found[axis] for axis in sorted(AXES, key=lambda axis: axis != budget)
            if found[axis]}  # fmt: skip


def spent(found: Positions, record: int) -> dict[str, dict[str, float]]:
    """Name -> axis -> what a strategy has spent by one record; NaN for seconds without a time.

    Args:
        found: What `positions` gave.
        record: Index of the record.
    """
    return {
        name: {
            axis: found[axis][name][record].item() if name in found.get(axis, ()) else np.nan
            for axis in AXES
        }
        for name in found["steps"]
    }
