"""The lines of a CSV file as cells, in whatever encoding and with whatever separator."""

import codecs
import csv
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from bilevel.errors import DataError, MissingDataError

DELIMITERS = ",;\t|"
TOLD = re.compile(r'"?sep=(\\t|[^\r\n])"?\1*\s*', re.IGNORECASE)
"""The first line by which spreadsheets tell the separator; other programs may fill it up."""
NO_SEPARATORS = re.compile(r'[\w"+.-]')
MARKS = {  # without one UTF-16 is not guessed at
    codecs.BOM_UTF8: "UTF-8-sig",
    codecs.BOM_UTF32_LE: "UTF-32",  # begins like the mark of UTF-16
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def read_lines(path: Path) -> list[tuple[int, list[str]]]:
    """The cells of every line that is not empty, at least one, with its number."""
    rows, above = opened(path), 0
    told = TOLD.fullmatch(rows.readline())
    if told is None:
        rows.seek(0)
        delimiter = max(DELIMITERS, key=lambda sign: len(_first(rows, sign)))
        rows.seek(0)
    else:
        delimiter, above = "\t" if told[1] == "\\t" else told[1], 1
        if NO_SEPARATORS.match(delimiter):
            raise DataError(
                f"{path}: its first line says that {delimiter!r} separates the values, which is a "
                "part of them. Write another sign there, or leave that line out."
            )
    reader = csv.reader(rows, delimiter=delimiter, skipinitialspace=delimiter != " ", strict=True)
    try:
        lines = [(above + reader.line_num, cells) for cells in _filled(reader)]
    except csv.Error as error:
        raise DataError(
            f"{path}: line {above + reader.line_num} cannot be read as CSV: {error}. Look for a "
            "quotation mark that is never closed, or for a value that is too long."
        ) from error
    if not lines:
        raise DataError(f"{path} is empty: it needs a line of column names, then rows of numbers.")
    return lines


def opened(path: Path) -> TextIO:
    """The text of a file in UTF-8, or in the encoding that a mark at its beginning tells."""
    try:
        if not path.is_file():
            what = "is no file" if path.exists() else "does not exist"
            what = "is a folder" if path.is_dir() else what
            raise MissingDataError(f"{path} {what}: name a CSV file.")
        raw = path.read_bytes()
        encoding = next((name for mark, name in MARKS.items() if raw.startswith(mark)), "UTF-8")
        text = raw.decode(encoding)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not {encoding.removesuffix('-sig')} text: byte {error.start} cannot be "
            "read. Save it as CSV in UTF-8; a spreadsheet offers that under 'Save as'."
        ) from error
    place = text.find("\0")
    if place >= 0:
        raise DataError(
            f"{path}: line {len(text[: place + 1].splitlines())} holds a zero byte: it is UTF-16 "
            "without the mark that says so, damaged, or no text. Save it as CSV in UTF-8; a "
            "spreadsheet offers that under 'Save as'."
        )
    return io.TextIOWrapper(io.BytesIO(raw), encoding, newline="")


def _filled(lines: Iterable[list[str]]) -> Iterator[list[str]]:
    """The lines in which there is something, without the spaces around it."""
    for cells in lines:
        stripped = [cell.strip() for cell in cells]
        if any(stripped):
            yield stripped


def _first(rows: TextIO, delimiter: str) -> list[str]:
    """The cells of the first line by a separator, none where it cannot be that one."""
    rows.seek(0)
    try:
        lines = csv.reader(rows, delimiter=delimiter, skipinitialspace=True, strict=True)
        return next(_filled(lines), [])
    except csv.Error:  # a value too long, or quotation marks inside of one
        return []
