"""Reading the JSON and CSV files of results folders; whatever is in them, errors name the file."""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

from bilevel.errors import ResultsError
from bilevel.storage.schema import ANYTHING, Schema, check

REMEDY = "Put back a copy of the folder, or compare anew."
DEEPEST = 50  # levels: what looks at a content afterwards goes down by recursion


def read_json(path: Path, schema: Schema = ANYTHING, remedy: str = REMEDY) -> dict[str, Any]:
    """The content of a file that `write_json` wrote.

    Raises:
        ResultsError: If it is missing, is not JSON or does not hold what the schema says; names the
            file and the place in it.
    """

    def finite(text: str) -> float:
        if not math.isfinite(number := float(text)):
            raise ValueError(f"{text:.20} is no finite number")
        return number

    return parsed(_text(path), path, schema, remedy, parse_float=finite, parse_constant=finite)


def parsed(
    text: str, path: Path, schema: Schema = ANYTHING, remedy: str = REMEDY, **options: Any
) -> dict[str, Any]:
    """The JSON object in a text of a file; `options` are those of `json.loads`."""
    try:
        content = json.loads(text, object_pairs_hook=_unique, **options)
        level = [content]
        for _ in range(DEEPEST):
            level = [item for node in level if isinstance(node, dict | list)
                     for item in (node.values() if isinstance(node, dict) else node)]  # fmt: skip
        if level:
            raise ValueError("it is nested too deep")
        json.dumps(content, ensure_ascii=False).encode()  # halves of letters cannot be written
    except (ValueError, RecursionError) as error:
        raise ResultsError(f"{path} is not valid JSON: {error}. {remedy}") from error
    check(content, schema, path, remedy)
    return content  # type: ignore[no-any-return]


def read_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    """The names of the columns of a table that `write_csv` wrote, and its rows as text.

    Raises:
        ResultsError: If it is missing, cut off, not CSV, empty or has rows of another length; names
            file and line.
    """
    text = _text(path)
    if text and not text.endswith("\n"):
        raise ResultsError(f"{path} was cut off: its last line has no end. {REMEDY}")
    try:
        # a name may hold the ends of lines of any system
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise ResultsError(f"{path} is not a table: {error}. {REMEDY}") from error
    if not lines:
        raise ResultsError(f"{path} is empty; expected a line with the names of the columns.")
    columns, rows = lines[0], lines[1:]
    for number, row in enumerate(rows, start=2):
        if len(row) != len(columns):
            raise ResultsError(
                f"{path} line {number} has {len(row)} cells, expected {len(columns)}: "
                f"the file was cut off or edited. {REMEDY}"
            )
    return columns, rows


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except FileNotFoundError as error:
        raise ResultsError(
            f"{path} is missing: is {path.parent} a folder that `Comparison.report` wrote?"
        ) from error
    except (OSError, ValueError, MemoryError) as error:
        raise ResultsError(f"{path} cannot be read: {error or 'it is too large'}.") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found
