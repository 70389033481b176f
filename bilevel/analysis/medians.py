"""Medians over runs with their intervals, as text and as a table."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bilevel.report.words import number, span

Array = NDArray[Any]
LEVEL = 0.95


class Median(NamedTuple):
    """A median and an interval that holds the true one with a probability of at least 95 %.

    Attributes:
        value: NaN where there is no value at all.
        low: NaN where there are too few values for such an interval.
        high: Likewise.
    """

    value: float
    low: float
    high: float


def median(values: Array) -> Median:
    """The median of the finite values, and its interval between two of them in order.

    The j-th of n values in order and the j-th from above hold the median but with the probability
    2 P(B < j), B binomial with n and 1/2, whatever the distribution; j is the largest that will do.

    Args:
        values: (R,); those that are not finite are left out.

    Examples:
        >>> median(np.arange(20.0))
        Median(value=9.5, low=5.0, high=14.0)
    """
    from scipy import stats  # takes a second to import

    finite = np.sort(values[np.isfinite(values)])
    if not finite.size:
        return Median(np.nan, np.nan, np.nan)
    tails = 2 * stats.binom.cdf(np.arange(finite.size), finite.size, 0.5)
    place = int((tails <= 1 - LEVEL).sum()) - 1
    ends = (finite[place], finite[-1 - place]) if place >= 0 else (np.nan, np.nan)
    return Median(float(np.median(finite)), *(float(end) for end in ends))


def table(steps: Sequence[int], columns: Mapping[str, Array]) -> str:
    """Medians by step, with their intervals where there are any.

    Args:
        steps: T numbers of iterates.
        columns: What is above a column -> its values, (T, R).
    """
    found = {name: [median(row) for row in values] for name, values in columns.items()}
    cells = {name: [_cell(one) for one in medians] for name, medians in found.items()}
    rows = [["iterate", *cells], *([f"{k:,}", *(cells[name][i] for name in cells)]
            for i, k in enumerate(steps))]  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )


def _cell(one: Median) -> str:
    known = np.isfinite(one.low)
    return f"{number(one.value)} ({span(one.low, one.high)})" if known else number(one.value)
