"""Columns with mean 0 and standard deviation 1, wherever they lie and however small or large."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bilevel.core.arrays import array_of
from bilevel.errors import DataError

Array = NDArray[Any]
ROUNDING = 16
"""Numbers that are not whole and differ by at most so many units in the last place do not vary."""
FEW = 1000
"""A column whose range is less than so many units in the last place has few digits left."""
MOST = float(np.finfo(np.float32).max)


class Scaling(NamedTuple):
    """The standardisation of columns by their training rows.

        z = ((x - origin) 2^-exponent - mean) / deviation

    The origin is a row, so that a mean that is huge against the spread costs no digits; a power of
    two loses none either, and the squares of what remains neither overflow nor underflow. A column
    that does not vary in the training rows keeps its unit: 0 there, other rows as they are apart.

    Attributes:
        origin: (D,), the first row.
        exponent: (D,), whole numbers.
        mean: (D,), of what the first two leave.
        deviation: (D,), of the same, with the divisor n; 1 where the column does not vary.
        names: of the columns; empty: their numbers.
    """

    origin: Array
    exponent: Array
    mean: Array
    deviation: Array
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, rows: Array, names: Sequence[str] = ()) -> "Scaling":
        """The standardisation of (n, D) training rows; float32 stays float32.

        Raises:
            DataError: a column holds numbers that are not finite, or further apart than numbers
                can be.
        """
        rows = _floating(rows)
        origin = rows[0]
        with np.errstate(over="ignore", invalid="ignore"):
            apart = rows - origin
            furthest = np.maximum(apart.max(0), -apart.min(0))
        scaling = cls(origin, *(np.zeros(len(origin)),) * 3, tuple(names))
        bad = ~np.isfinite(furthest)
        if bad.any():
            raise DataError(
                f"{scaling.name(bad)} cannot be standardised: it holds numbers that are not "
                f"finite, or further apart than numbers can be ({np.finfo(rows.dtype).max:.2g})."
            )
        varies = (furthest > 0) & ~only_rounding(rows)
        exponent = np.where(varies, np.frexp(furthest)[1], 0)
        np.ldexp(apart, -exponent, out=apart)
        mean = apart.mean(0, dtype=np.float64)
        squares = np.square(apart - mean.astype(rows.dtype)).mean(0, dtype=np.float64)
        deviation = np.where(varies, np.sqrt(squares), 1.0)
        return scaling._replace(exponent=exponent, mean=mean, deviation=deviation)

    @classmethod
    def identity(cls, columns: int) -> "Scaling":
        """The one that leaves all as it is."""
        return cls(np.zeros(columns), np.zeros(columns, int), np.zeros(columns), np.ones(columns))

    def __call__(self, rows: Array) -> Array:
        """The rows (n, D), standardised.

        Raises:
            DataError: a row is so far from the training rows that float32 cannot hold it.
        """
        rows = _floating(rows)
        with np.errstate(over="ignore", invalid="ignore"):
            found = rows - self.origin
            np.ldexp(found, -self.exponent, out=found)
            found -= self.mean.astype(rows.dtype)
            found /= self.deviation.astype(rows.dtype)
            bad = ~(np.maximum(found.max(0), -found.min(0)) <= MOST)
        if bad.any():
            raise DataError(
                f"{self.name(bad)} cannot be standardised with the training rows: another row is "
                f"not finite, or more than {MOST:.2g} of their standard deviations away from them. "
                "Correct that row, or leave the column out."
            )
        return found

    def inverse(self, scaled: Array) -> Array:
        """What was standardised, from (n, D): predictions in their own units."""
        apart = np.ldexp(scaled * self.deviation + self.mean, self.exponent)
        found: Array = apart + self.origin
        return found

    def name(self, columns: Array) -> str:
        """The first of some columns in words, for the beginning of a sentence."""
        first = int(columns.argmax())
        return f"Column {self.names[first]!r}" if self.names else f"Column {first} (from 0)"


def only_rounding(values: Array) -> NDArray[np.bool_]:
    """Which columns of (n, D) differ by rounding at most, as sums in another order do, (D,).

    Whole numbers are no results of rounding.
    """
    units = _units(values)
    near = (units > 0) & (units <= ROUNDING)
    places = np.flatnonzero(near)
    near[places] = [not (values[:, k] == np.rint(values[:, k])).all() for k in places]
    return near


def few_digits(values: Array) -> NDArray[np.bool_]:
    """Which columns of (n, D) vary by few of the steps between neighbouring numbers, (D,).

    The steps are those of float32 where it holds all of the column. Whole numbers lose nothing as
    long as steps are at most 1.
    """
    units = _units(values)
    few = (units > 0) & (units < FEW * 2.0**29)  # a step of float32 is 2^29 steps of float64
    for place in np.flatnonzero(few).tolist():
        column = values[:, place]
        with np.errstate(over="ignore"):
            single = column.astype(np.float32)
        held = single if (single == column).all() else column
        step = float(np.spacing(np.abs(held).max()))
        exact = step <= 1 and bool((column == np.rint(column)).all())
        few[place] = np.ptp(column) < FEW * step and not exact
    return few


def _units(values: Array) -> Array:
    """The ranges of columns in units of the last place of their largest number, (D,)."""
    high, low = values.max(0), values.min(0)
    unit = np.spacing(np.maximum(abs(high), abs(low)))
    found: Array = high / unit - low / unit
    return found


def _floating(rows: Array) -> Array:
    rows = array_of(rows, "rows")
    return rows if rows.dtype in (np.float32, np.float64) else rows.astype(np.float64)
