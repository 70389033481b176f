"""Numbers of which float64 loses digits that count: their differences, computed without loss."""

import decimal
from collections.abc import Iterable
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from bilevel.tables.scaling import ROUNDING

Array = NDArray[np.float64]
WHOLE = 2.0**53
"""Up to here float64 holds every whole number."""
RANGE = 2.0**20
"""A range of fewer steps between neighbouring numbers is worth a second look."""
WIDE = 2.0**40
"""A range of more steps loses nothing by rounding to the nearest one."""
REPRESENTED = 17
"""So many digits name every number of float64: what has more was not written by a program's float.
"""
CONTEXT = decimal.Context(prec=400, traps=[])  # numbers up to 1e150, to their last digit


def may_count(values: Array) -> bool:
    """Whether digits of a column (n,) may be lost that its differences need: a quick look."""
    if not values.size:
        return False
    largest = np.abs(values).max()
    return bool(largest >= WHOLE or np.ptp(values) < RANGE * np.spacing(largest))


def apart(numbers: Iterable[str | int], values: Array) -> Array | None:
    """A column less its first number, or None where float64 lost nothing that counts.

    Nothing is lost where the numbers are equal, or where float64 holds them; in a wide column that
    is true of 2e30 too, which is what float64 calls the number next to it. Numbers with decimals
    that differ in the last digits of a float only are results of rounding, and stay as they are.

    Args:
        numbers: as they were written.
        values: (n,), the same in float64.
    """
    exact = [CONTEXT.create_decimal(number) for number in numbers]
    step = np.spacing(np.abs(values).max())
    wide = np.ptp(values) >= WIDE * step
    if all(
        number == Decimal(value) or (wide and number == Decimal(repr(value)))
        for number, value in zip(exact, values.tolist(), strict=True)
    ):
        return None
    found = counted_from(exact[0], exact)
    if not found.any() or not np.isfinite(found).all():
        return None
    whole = all(number == number.to_integral_value(context=CONTEXT) for number in exact)
    longest = max(len(number.as_tuple().digits) for number in exact)
    near = np.ptp(values) <= ROUNDING * step
    return None if near and not whole and longest <= REPRESENTED else found


def counted_from(first: str | Decimal, numbers: Iterable[str | int | Decimal]) -> Array:
    """Numbers less a first one, computed without loss; what is no number is NaN."""
    origin = CONTEXT.create_decimal(first)
    exact = (CONTEXT.create_decimal(number) for number in numbers)
    return np.array([float(CONTEXT.subtract(number, origin)) for number in exact])
