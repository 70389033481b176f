"""Columns of a table as inputs of a network: numbers as they are, text as columns of 0 and 1."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bilevel.errors import DataError
from bilevel.tables import lost_digits
from bilevel.tables.csv_file import (
    MISSING,
    OTHER_COLUMNS,
    Cells,
    Entries,
    Offer,
    columns_of,
    holds_text,
    is_number,
    quoted,
    shortened,
    words_of,
)

Array = NDArray[np.float64]
MOST_CATEGORIES = 100
"""A column of more different texts is a name, an identifier or a comment."""
BY_ONE_HOT = ", or let --set encode=onehot do so"
BY_MEDIAN = ", or let --set impute=median fill in the median of the training rows"
UNIT = re.compile(r"(.*?)\s*[\[(]([^\[\]()]*)[\])]\s*")
"""A name with a unit in brackets, such as `height [cm]`."""


class Column(NamedTuple):
    """A column of the table that a model was trained on.

    Attributes:
        name: as in the file.
        categories: of a column of text, sorted; (): it holds numbers.
        first: the number that all are counted from, as it was written, where float64 loses digits
            that count; None: they are taken as they are.
    """

    name: str
    categories: tuple[str, ...] = ()
    first: str | None = None

    @property
    def inputs(self) -> list[str]:
        """The names of the inputs that it becomes."""
        return [f"{self.name}={text}" for text in self.categories] or [self.name]


class Table(NamedTuple):
    """A table that is trained on.

    Attributes:
        columns: of the inputs.
        target: the column to predict.
        inputs: (n, D), NaN where a number is missing.
        targets: (n,).
        counted: the names of the columns that are counted from their first number.
    """

    columns: tuple[Column, ...]
    target: Column
    inputs: Array
    targets: Array
    counted: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """Of the D inputs."""
        return [name for column in self.columns for name in column.inputs]


def read_table(
    cells: Cells, kept: Sequence[str], target: str, *, one_hot: bool, blank: bool
) -> Table:
    """The numbers of a table to train on.

    Args:
        cells: of the file.
        kept: the columns to read, the target among them, in the order of the file.
        target: the one to predict.
        one_hot: whether columns of text become columns of 0 and 1, one for each text.
        blank: whether numbers of the inputs may be missing.

    Raises:
        DataError: a column cannot be used; the message says where and what to do.
    """
    text = {name for name in kept if one_hot and name != target and holds_text(cells.column(name))}
    others = [name for name in kept if name not in text]
    free = [name for name in others if name != target]
    offers = dict.fromkeys(free, Offer(BY_ONE_HOT, BY_MEDIAN))
    found = columns_of(cells, others, free if blank else (), OTHER_COLUMNS, offers)
    numbers = dict(zip(others, found.values.T, strict=True))
    numbers |= found.apart  # the standardised column is the same, but right
    columns, parts = [], []
    for name in kept:
        entries = cells.column(name) if name in text or name in found.apart else ()
        if name in text:
            columns.append(Column(name, _categories(cells.path, name, entries)))
            parts.append(one_hot_of(columns[-1], entries))
        else:
            columns.append(Column(name, first=entries[0][1] if entries else None))
            parts.append(numbers[name][:, None])
    place = list(kept).index(target)
    own, _ = columns.pop(place), parts.pop(place)
    inputs = np.hstack(parts) if parts else np.empty((len(cells.lines), 0))
    return Table(tuple(columns), own, inputs, numbers[target], tuple(found.apart))


def _categories(path: Path, name: str, entries: Entries) -> tuple[str, ...]:
    """The different texts of a column, sorted; a DataError where they are no categories."""
    found = sorted({cell for _, cell in entries})
    missing = [number for number, cell in entries if cell.lower() in MISSING]
    if missing:
        raise DataError(
            f"{path}: Column {name!r} holds text and lacks {len(missing)} of {len(entries)} "
            f"values, the first in line {missing[0]}: write a word there, such as unknown, or "
            f"remove those rows. {OTHER_COLUMNS}"
        )
    if len(found) > min(MOST_CATEGORIES, len(entries) / 2):
        raise DataError(
            f"{path}: Column {name!r} holds {len(found)} different texts in {len(entries)} rows, "
            f"such as {shortened(entries[0][1])!r}: those are no categories. {OTHER_COLUMNS}"
        )
    return tuple(found)


def one_hot_of(column: Column, entries: Entries) -> Array:
    """(n, K) of 0 and 1: which of the K categories each cell is."""
    places = {text: place for place, text in enumerate(column.categories)}
    return np.eye(len(places))[[places[cell] for _, cell in entries]]


def encode(cells: Cells, columns: Sequence[Column], *, blank: bool) -> Array:
    """The inputs (n, D) of a model in the rows of another table, NaN where a number is missing.

    Raises:
        DataError: a column lacks, holds something else than it did, or a text that is not known.
    """
    check_present(cells, [column.name for column in columns])
    numeric = [column.name for column in columns if not column.categories]
    for name in numeric:
        entries = cells.column(name)
        if holds_text(entries):
            number, cell = words_of(entries)[0]
            raise DataError(
                f"{cells.path}: Column {name!r} holds text, such as {shortened(cell)!r} in line "
                f"{number}: the model was trained on numbers there."
            )
    offer = Offer(missing=". The model fills none in: --set impute=median trains one that does")
    found = columns_of(
        cells,
        numeric,
        numeric if blank else (),
        "The model was trained on numbers in these columns.",
        dict.fromkeys(numeric, offer),
    )
    numbers = dict(zip(numeric, found.values.T, strict=True))
    parts = []
    for column in columns:
        entries = cells.column(column.name)
        if column.categories:
            _check_known(cells.path, column, entries)
            parts.append(one_hot_of(column, entries))
            continue
        values = numbers[column.name]
        if column.first is not None:
            exact = lost_digits.counted_from(column.first, (cell for _, cell in entries))
            values = np.where(np.isnan(values), np.nan, exact)
        parts.append(values[:, None])
    return np.hstack(parts)


def check_present(cells: Cells, names: Sequence[str]) -> None:
    """Raise unless a file has these columns; it says what may be meant by another one."""
    lacking = [name for name in names if name not in set(cells.names)]
    if not lacking:
        return
    name = lacking[0]
    spare = [other for other in cells.names if other not in names]
    base = _without_unit(name)
    same = [other for other in spare if _without_unit(other) == base]
    near = difflib.get_close_matches(name, spare, n=1)
    hint = ""
    if same:
        hint = (
            f" It has {same[0]!r}: if only the unit differs, convert the numbers and call the "
            f"column {name!r}; if none does, rename it."
        )
    elif near:
        hint = f" Did you mean {near[0]!r}? Then rename that column."
    kinds = f"column{'s' * (len(lacking) > 1)}"
    raise DataError(
        f"{cells.path} lacks the {kinds} {quoted(lacking[:10])}, which the model needs.{hint}"
    )


def _without_unit(name: str) -> str:
    match = UNIT.fullmatch(name)
    return " ".join((match[1] if match else name).casefold().split())


def _check_known(path: Path, column: Column, entries: Entries) -> None:
    """Raise unless all texts are among the categories of the training."""
    known = set(column.categories)
    unknown = [(number, cell) for number, cell in entries if cell not in known]
    if not unknown:
        return
    number, cell = unknown[0]
    if all(is_number(cell) for _, cell in entries):
        raise DataError(
            f"{path}: Column {column.name!r} holds numbers, such as {shortened(cell)} in line "
            f"{number}: the model was trained on text there, {_listed(column)}."
        )
    if cell.lower() in MISSING:
        raise DataError(
            f"{path}: Column {column.name!r} lacks a value in line {number}: the model knows "
            f"{_listed(column)}."
        )
    near = difflib.get_close_matches(cell, column.categories, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    rows = f"{len(unknown)} of {len(entries)} rows"
    raise DataError(
        f"{path}: Column {column.name!r} holds {shortened(cell)!r} in line {number}, which the "
        f"model was not trained on ({rows} hold such texts). Known: {_listed(column)}.{hint}"
    )


def _listed(column: Column) -> str:
    """The first categories."""
    more = ", ..." if len(column.categories) > 10 else ""
    return quoted([shortened(text) for text in column.categories[:10]]) + more
