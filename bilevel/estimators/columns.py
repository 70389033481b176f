"""Which columns share a penalty, and how columns are scaled."""

import numbers
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bilevel.errors import ArgumentError, ShapeError, spell

Floats = NDArray[np.float64]
Integers = NDArray[np.intp]
CONSTANT = 10 * np.finfo(np.float64).eps
"""A column that varies by less than this part of its largest entry varies by rounding alone."""


class Grouping(NamedTuple):
    """Labels of the B groups, and the number of each column's group, (d,)."""

    labels: list[Any]
    of_column: Integers


def grouping(groups: Any, d: int, names: Sequence[str] | None) -> Grouping:
    """What the argument `groups` means for d columns, with their names if they have any."""
    if groups is None:
        return Grouping(list(range(d)) if names is None else list(names), np.arange(d))
    if isinstance(groups, Mapping):
        return _of_lists(list(groups), list(groups.values()), d, names)
    entries = _entries(groups)
    if entries is None:
        raise ArgumentError(
            "`groups` must be None, a label for each column, lists of columns, or a dictionary "
            f"of such lists, got {spell(groups)}."
        )
    if entries and all(_is_label(entry) for entry in entries):
        return _of_labels(entries, d)
    return _of_lists(list(range(len(entries))), entries, d, names)


def _entries(given: Any) -> list[Any] | None:
    """What a list, an array or a tensor holds; None: it is none of these."""
    if isinstance(given, str | bytes):
        return None
    try:
        return list(given.tolist() if hasattr(given, "tolist") else given)
    except (TypeError, ValueError, NotImplementedError, RuntimeError):
        return None


def _is_label(entry: object) -> bool:
    return isinstance(entry, str | numbers.Integral)


def _of_labels(entries: list[Any], d: int) -> Grouping:
    if len(entries) != d:
        raise ShapeError(
            f"`groups` has {len(entries)} labels, but there are {d} columns: one label for each."
        )
    if len({isinstance(entry, str) for entry in entries}) > 1:
        raise ArgumentError("`groups` must be all integers or all strings, got both.")
    labels, of_column = np.unique(np.asarray(entries), return_inverse=True)
    return Grouping(labels.tolist(), of_column.astype(np.intp))


def _of_lists(
    labels: list[Any], entries: list[Any], d: int, names: Sequence[str] | None
) -> Grouping:
    of_column = np.full(d, -1, dtype=np.intp)
    for number, entry in enumerate(entries):
        columns = _columns(entry, d, names)
        again = columns[of_column[columns] >= 0]
        if len(again) or len(np.unique(columns)) < len(columns):
            shown = again[0] if len(again) else columns[0]
            raise ArgumentError(f"`groups` names column {shown} twice.")
        if not len(columns):
            raise ArgumentError(f"`groups` has a group without columns: {labels[number]!r}.")
        of_column[columns] = number
    missing = np.flatnonzero(of_column < 0)
    if len(missing):
        raise ArgumentError(
            f"`groups` leaves out {len(missing)} of {d} columns, the first is {missing[0]}: each "
            "column belongs to one group."
        )
    return Grouping(labels, of_column)


def _columns(entry: Any, d: int, names: Sequence[str] | None) -> Integers:
    """The columns of one group, given by a slice, numbers or names."""
    if isinstance(entry, slice):
        try:
            return np.arange(d)[entry]
        except TypeError:
            raise ArgumentError(f"`groups` has a slice that is none: {spell(entry)}.") from None
    columns = _entries(entry)
    if columns is None:
        raise ArgumentError(f"`groups` must have lists of columns, got {spell(entry)}.")
    return np.array([_column(one, d, names) for one in columns], dtype=np.intp)


def _column(one: Any, d: int, names: Sequence[str] | None) -> int:
    if isinstance(one, str):
        if names is None or one not in list(names):
            raise ArgumentError(f"`groups` names a column {spell(one)} that X does not have.")
        return list(names).index(one)
    if not isinstance(one, numbers.Integral) or isinstance(one, bool) or not -d <= int(one) < d:
        raise ArgumentError(f"`groups` must name columns from 0 to {d - 1}, got {spell(one)}.")
    return int(one) % d


class Scaling(NamedTuple):
    """Means and deviations of columns; the deviation of a constant one is infinite."""

    mean: Floats
    deviation: Floats

    @property
    def units(self) -> Floats:
        """What scaled columns are multiplied with: one for constant ones."""
        return np.where(np.isinf(self.deviation), 1.0, self.deviation)

    def __call__(self, columns: Floats) -> Floats:
        """Columns around their means, divided by their deviations: constant ones are zero."""
        scaled: Floats = (columns - self.mean) / self.deviation
        return scaled


def scaling(columns: Floats, *, divided: bool = True) -> Scaling:
    """The scaling that makes the columns of these rows centred, and if `divided` of variance 1."""
    largest = np.abs(columns).max(0)
    # by powers of two, which round nothing: squares would overflow, or vanish
    exponent = np.frexp(largest)[1]
    near = np.ldexp(columns, -exponent)
    mean, deviation = np.ldexp(near.mean(0), exponent), np.ldexp(near.std(0), exponent)
    constant = deviation <= CONSTANT * largest
    if not divided:
        deviation = np.ones_like(deviation)
    return Scaling(mean, np.where(constant, np.inf, deviation))
