"""Strategies against what needs no training: is it better than a constant, or than a line?"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bilevel.comparison.statistics.judging import higher_is_better, rounding
from bilevel.comparison.statistics.paired import mean_interval

Array = NDArray[Any]

FEWEST = 3
"""Seeds of which an interval says something."""


def against_references(
    final: Mapping[str, Array], settings: Mapping[str, Any], headline: str
) -> dict[str, Any]:
    """Means of the rules that were measured, and how each strategy stands to them.

    Args:
        final: Strategy -> (R,) values of the headline; NaN for runs without one.
        settings: Of the comparison; "references" has the rules, see `comparison/references.py`.
        headline: What is judged.

    Returns:
        "values": rule -> metric -> mean over seeds, of all metrics; "sides": rule -> strategy ->
        "better" or "worse" by the 95 % Student interval of the paired difference, else "level";
        of one seed or two, where it is so on each. A strategy that lost a run is not better.
    """
    sign = -1.0 if higher_is_better(headline) else 1.0
    known = settings.get("references", {})
    tables = {rule: {metric: np.array(values, dtype=np.float64) for metric, values in table.items()}
              for rule, table in sorted(known.items())}  # fmt: skip
    sides = {
        rule: {
            name: _side(sign * (runs - table[headline]), rounding(settings))
            for name, runs in final.items()
        }
        for rule, table in tables.items()
        if headline in table
    }
    means = {rule: {metric: float(values.mean()) for metric, values in table.items()}
             for rule, table in tables.items()}  # fmt: skip
    return {"values": means, "sides": sides}


def _side(differences: Array, near: float) -> str:
    """Where zero lies: above the interval of the mean difference, below it, or in it."""
    known = differences[np.isfinite(differences)]
    if not known.size:
        return "worse"
    interval = mean_interval(differences, rounding=near)
    low, high = interval.low, interval.high
    if known.size < FEWEST or np.isnan(low):  # or all differences are equal
        low, high = known.min(), known.max()
    if high < 0 and np.isfinite(differences).all():
        return "better"
    return "worse" if low > 0 else "level"
