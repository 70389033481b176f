"""Columns of numbers from a CSV file; what cannot be one is refused with its line or column."""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bilevel.errors import DataError
from bilevel.tables import lost_digits
from bilevel.tables.csv_lines import read_lines

MISSING = {"", "na", "n/a", "#n/a", "nan", "-nan", "null", "none", "?"}
OTHER_COLUMNS = "Columns that are not needed can be left out: --set drop=NAME,NAME in the command."
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+")
ADORNED = re.compile(
    r"[^\w\s]{0,2}\s?\d[\d.,'_\s]*([^\w\s]|\s[^\W\d_]{1,3})?"
)  # $5, 5 %, 5 kg, 1 000
ENCODE = "encode it as numbers, such as columns of 0 and 1"
NOT_ZERO = re.compile(r"[+-]?[0.]*[1-9]")
LARGEST = 1e150  # larger numbers, whose squares overflow, stand for something else than a quantity


@dataclasses.dataclass(frozen=True)
class Columns:
    """Named columns of finite numbers.

    Attributes:
        names: of the columns, in the order of the file.
        values: (rows, columns).
        apart: by name, for columns of whose digits float64 loses some that count: the numbers less
            the first one, (rows,), computed without loss.
    """

    names: tuple[str, ...]
    values: NDArray[np.float64]
    apart: Mapping[str, NDArray[np.float64]] = dataclasses.field(default_factory=dict)

    def index(self, name: str) -> int:
        """Where a column stands."""
        return self.names.index(name)


Entries = Sequence[tuple[int, str]]
"""The cells of a column, each with the number of its line."""


class Offer(NamedTuple):
    """What messages say besides of a column that cannot be used, where something helps.

    Attributes:
        text: of one that holds text.
        missing: of one that lacks values.
    """

    text: str = ""
    missing: str = ""


NO_OFFER = Offer()


class Cells(NamedTuple):
    """What a file holds.

    Attributes:
        path: of the file.
        names: of the columns.
        lines: the number of each line below the first, and its cells.
    """

    path: Path
    names: tuple[str, ...]
    lines: Sequence[tuple[int, list[str]]]

    def column(self, name: str) -> Entries:
        """The cells of one column."""
        place = self.names.index(name)
        return [(number, line[place]) for number, line in self.lines]


def read_columns(path: Path) -> Columns:
    """All columns of a file of numbers; see `read_cells` and `columns_of` for what is refused."""
    cells = read_cells(path)
    return columns_of(cells, cells.names)


def read_cells(path: Path) -> Cells:
    """Read a file whose first line names its columns; the other lines hold anything.

    Fields are separated by what a line `sep=;` above the names tells, or else by whichever of
    `, ; tab |` splits the names into most. The encoding is UTF-8, or the one that a byte order mark
    tells; empty lines are skipped.

    Raises:
        MissingDataError: there is no such file.
        DataError: it has no header, or a line has another number of cells.
    """
    (_, header), *lines = read_lines(path)
    names = check_names(path, header)
    for number, cells in lines:
        if len(cells) != len(names):
            raise DataError(
                f"{path}: line {number} has {len(cells)} value{'s' * (len(cells) != 1)}, but there "
                f"are {len(names)} columns. Correct that line: values that contain the separator "
                "are quoted, decimals are written with a point."
            )
    return Cells(path, tuple(names), lines)


def columns_of(
    cells: Cells,
    kept: Sequence[str],
    blank: Sequence[str] = (),
    remedy: str = OTHER_COLUMNS,
    offers: Mapping[str, Offer] | None = None,
) -> Columns:
    """Some columns of a file as numbers.

    Args:
        cells: of the file.
        kept: the columns, in the order wanted.
        blank: those of them in which cells may be empty: NaN.
        remedy: a sentence for the error.
        offers: by column, what else its error may say.

    Raises:
        DataError: a cell is no finite number; the message says where and what to do.
    """
    path, offers = cells.path, offers or {}
    values = np.empty((len(cells.lines), len(kept)))
    trouble, apart = [], {}
    for column, name in enumerate(kept):
        entries, offer = cells.column(name), offers.get(name, NO_OFFER)
        values[:, column], wrong = numbers_of(name, entries, name in blank, offer)
        trouble += wrong
        if not wrong and lost_digits.may_count(values[:, column]):
            exact = lost_digits.apart((cell for _, cell in entries), values[:, column])
            if exact is not None:
                apart[name] = exact
    if trouble:
        more = f" There are {len(trouble) - 5} more such columns." if len(trouble) > 5 else ""
        raise DataError(f"{path}: {' '.join(trouble[:5])}{more} {remedy}")
    return Columns(tuple(kept), values, apart)


def check_names(path: Path, header: list[str]) -> list[str]:
    """The column names, or an error if the first line cannot be that."""
    if all(is_number(name) or name.lower() in MISSING for name in header):
        raise DataError(
            f"{path} has no header: its first line holds numbers only ({', '.join(header[:4])}"
            f"{', ...' if len(header) > 4 else ''}). Put a line of column names above it."
        )
    nameless = [place for place, name in enumerate(header, 1) if not name]
    if nameless:
        raise DataError(
            f"{path}: {columns_in_words(nameless)} without a name in the first line. Name or "
            "remove the column (pandas writes its row numbers unless told `index=False`)."
        )
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise DataError(
            f"{path}: more than one column is called {quoted(twice)}. Rename or remove the others."
        )
    return header


def numbers_of(
    name: str, cells: Entries, blank: bool = False, offer: Offer = NO_OFFER
) -> tuple[NDArray[np.float64], list[str]]:
    """The numbers of a column, NaN where there is none, and a sentence if it cannot be used.

    With `blank` a column may lack numbers.
    """
    try:  # the common case, which is several times faster than looking for what is wrong
        values = np.array([float(cell) for _, cell in cells])
    except ValueError:
        pass
    else:
        if (abs(values) <= LARGEST).all() and not any("_" in cell for _, cell in cells):
            return values, vanished(name, cells, values)
    missing = [number for number, cell in cells if cell.lower() in MISSING]
    words = words_of(cells)
    if words:
        number, cell = words[0]
        remedy = remedy_of(words, cells)
        remedy += offer.text * (remedy == ENCODE)
        return np.full(len(cells), np.nan), [
            f"Column {name!r} holds text in {len(words)} of {len(cells)} rows, such as "
            f"{shortened(cell)!r} in line {number}: {remedy}."
        ]
    values = np.array([math.nan if c.lower() in MISSING else float(c) for _, c in cells])
    if missing and not blank:
        return values, [
            f"Column {name!r} lacks {len(missing)} of {len(cells)} values, the first in line "
            f"{missing[0]}: remove those rows or impute the values{offer.missing}."
        ]
    beyond = [number for (number, _), x in zip(cells, values, strict=True) if abs(x) > LARGEST]
    if beyond:
        return values, [
            f"Column {name!r} is infinite or beyond {LARGEST:g} in {len(beyond)} of {len(cells)} "
            f"rows, the first in line {beyond[0]}: correct the values or remove those rows."
        ]
    return values, []


def words_of(cells: Entries) -> Entries:
    """The cells that are neither numbers nor missing."""
    return [(n, c) for n, c in cells if c.lower() not in MISSING and not is_number(c)]


def remedy_of(words: Entries, cells: Entries) -> str:
    """What helps where some cells of a column are words."""
    if any(DECIMAL_COMMA.fullmatch(cell) for _, cell in words):
        return "write a point before the decimals and nothing between the thousands"
    if len(words) < len(cells) / 2:
        return "correct these entries or remove their rows"
    if all(ADORNED.fullmatch(cell) for _, cell in words):
        return "write bare numbers, without units, signs or gaps in them"
    return ENCODE


def holds_text(cells: Entries) -> bool:
    """Whether a column is one of words, such as the names of classes."""
    words = words_of(cells)
    return bool(words) and remedy_of(words, cells) == ENCODE


def vanished(name: str, cells: Entries, values: NDArray[np.float64]) -> list[str]:
    """A sentence if numbers of a column are so small that they were read as 0."""
    zeros = np.flatnonzero(values == 0).tolist()
    written = {cell for cell in {cells[k][1] for k in zeros} if NOT_ZERO.match(cell)}
    if not written:
        return []
    places = [k for k in zeros if cells[k][1] in written]
    number, cell = cells[places[0]]
    return [
        f"Column {name!r} holds numbers that are too small for float64 in {len(places)} of "
        f"{len(cells)} rows, such as {shortened(cell)!r} in line {number}: give them in a smaller "
        "unit."
    ]


def is_number(cell: str) -> bool:
    """Whether a cell is a number as one would write it: not NaN, and without underscores."""
    try:
        return not math.isnan(float(cell)) and "_" not in cell
    except ValueError:
        return False


def columns_in_words(places: Sequence[int]) -> str:
    """`column 3 is`, `columns 3, 4 are`."""
    listed = ", ".join(map(str, places))
    return f"column {listed} is" if len(places) == 1 else f"columns {listed} are"


def quoted(names: Sequence[str]) -> str:
    """`'a', 'b'`."""
    return ", ".join(map(repr, names))


def shortened(text: str) -> str:
    """At most 30 characters."""
    return text if len(text) <= 30 else text[:27] + "..."
