"""What strategies have spent by each record: steps, gradient evaluations, seconds."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bilevel.report.units import Unit

Array = NDArray[Any]
Positions = dict[str, dict[str, Array]]


def positions(
    unit: Unit, marks: Array, gradients: Mapping[str, float], seconds: Mapping[str, float]
) -> Positions:
    """Where records lie on each horizontal axis.

    Args:
        unit: What the budget is counted in.
        marks: (T,) of these by each record.
        gradients: Name -> gradient evaluations of one step.
        seconds: Name -> seconds of one step, NaN where they were not measured.

    Returns:
        Axis -> name -> (T,) positions: first the axis of the unit, on which all strategies end at
        the same place; seconds only of strategies with a time, and only if there are any.
    """
    made = {name: unit.steps(marks, cost) for name, cost in gradients.items()}
    timed = {name: cost for name, cost in seconds.items() if np.isfinite(cost)}
    found = {
        "steps": made,
        "gradients": {name: made[name] * cost for name, cost in gradients.items()},
        "seconds": {name: made[name] * cost for name, cost in timed.items()},
    }
    order = sorted(found, key=lambda axis: axis != unit.budget)
    return {axis: found[axis] for axis in order if found[axis]}


def spent(found: Positions, record: int) -> dict[str, dict[str, float]]:
    """What every strategy has spent by one record.

    Args:
        found: What `positions` gave.
        record: Index of the record.

    Returns:
        Name -> axis -> how much; NaN for seconds that were not measured.
    """
    unknown = np.full(record + 1, np.nan)
    return {
        name: {
            axis: found.get(axis, {}).get(name, unknown)[record].item()
            for axis in ("steps", "gradients", "seconds")
        }
        for name in found["steps"]
    }
