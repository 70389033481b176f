"""Results folders: never overwritten, never half-written; JSON and CSV files in them."""

import csv
import itertools
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bilevel.errors import ResultsError, ResultsExistError, spell

LONGEST = 200
"""Characters of a name that file systems take, with what is added to it while it is written."""


def located(path: str | os.PathLike[str]) -> Path:
    """A path that somebody typed, with `~` replaced by the home folder.

    Raises:
        ResultsError: If there is no such home.
    """
    try:
        if "\0" in os.fspath(path) or len(Path(path).name) > LONGEST:
            raise ValueError("names of files are shorter, without NUL")
        return Path(path).expanduser()
    except (RuntimeError, TypeError, ValueError) as error:
        raise ResultsError(f"{spell(path)} names no place: {error}") from error


def reserve(folder: str | os.PathLike[str]) -> Path:
    """The path of a results folder, if it can be written; call it before any work is done.

    Nothing is created: the folder appears when everything in it has been written.

    Raises:
        ResultsExistError: If something is there already.
        ResultsError: If it cannot be created there.
    """
    path = located(folder)
    if os.path.lexists(path):
        raise ResultsExistError(
            f"{path} exists already, and results are never overwritten. Name another folder "
            f"(such as {_free_name(path)}), or move or delete this one first."
        )
    ancestor = next((parent for parent in path.absolute().parents if parent.exists()), None)
    if ancestor is None or not ancestor.is_dir() or not os.access(ancestor, os.W_OK | os.X_OK):
        raise ResultsError(
            f"{path} cannot be created: {ancestor} is not a folder that you may write to. "
            "Name a folder elsewhere."
        )
    return path


@contextmanager
def write_atomically(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Fill a hidden folder next to the target, then rename it: all files appear, or none.

    Raises:
        ResultsExistError: If the folder exists, before or after the files were written.

    Examples:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "run"
        >>> with write_atomically(target) as hidden:
        ...     write_json(hidden / "config.json", {"steps": 10})
        >>> [file.name for file in target.iterdir()]
        ['config.json']
    """
    target = reserve(folder)
    hidden = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.partial"
    hidden.mkdir(parents=True)
    try:
        yield hidden
        reserve(target)  # somebody else may have been faster
        hidden.rename(target)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON that any reader accepts: sorted, indented, numbers that are not finite as null.

    `content` is made of built-in types and numpy numbers or arrays.

    Raises:
        ResultsError: If something in it cannot be written as JSON.
    """
    try:
        text = json.dumps(plain(content), indent=2, sort_keys=True, allow_nan=False)
    except TypeError as error:
        raise ResultsError(f"{path.name} cannot be written as JSON: {error}.") from error
    path.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The content of a file that `write_json` wrote.

    Raises:
        ResultsError: If it is missing or is not a JSON object; names the file.
    """
    text = _text(path)
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ResultsError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ResultsError(f"{path} must hold a JSON object, got {type(content).__name__}.")
    return content


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table; floats keep all their digits, None is an empty cell."""
    if path.is_dir():
        raise ResultsExistError(f"{path} is a folder: name a file.")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_cell(value) for value in row] for row in rows)


def read_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    """The names of the columns of a table that `write_csv` wrote, and its rows as text.

    Raises:
        ResultsError: If it is missing, empty or has rows of another length; names file and line.
    """
    lines = list(csv.reader(_text(path).splitlines()))
    if not lines:
        raise ResultsError(f"{path} is empty; expected a line with the names of the columns.")
    columns, rows = lines[0], lines[1:]
    for number, row in enumerate(rows, start=2):
        if len(row) != len(columns):
            raise ResultsError(
                f"{path} line {number} has {len(row)} cells, expected {len(columns)}: "
                "the file was cut off or edited."
            )
    return columns, rows


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ResultsError(
            f"{path} is missing: is {path.parent} a folder that `Comparison.report` wrote?"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ResultsError(f"{path} cannot be read: {error}.") from error


def plain(value: Any) -> Any:
    """Built-in types only; JSON has no word for NaN and infinity."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if not isinstance(value, (str, bytes)) and callable(getattr(value, "tolist", None)):
        return plain(value.tolist())  # numpy arrays and numbers
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _cell(value: Any) -> Any:
    """What a cell shows of numpy.float64 and the like, whose own repr is longer."""
    return repr(float(value)) if isinstance(value, float) else value


def _free_name(path: Path) -> Path:
    path = path if path.name else path.absolute()
    names = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return next(name for name in names if not os.path.lexists(name))
