"""Results folders: never overwritten, never half-written; JSON and CSV files in them."""

import contextlib
import csv
import dataclasses
import io
import itertools
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from bilevel.errors import BilevelError, ResultsError, ResultsExistError, UnwritableError, spell
from bilevel.storage.lock import locked

LONGEST = 200
"""Bytes of a name that file systems take, with what is added to it while it is written."""


def located(path: str | os.PathLike[str]) -> Path:
    """A path that somebody typed, with `~` replaced by the home folder.

    Raises:
        ResultsError: If there is no such home.
    """
    try:
        found = Path(path).expanduser()
        if "\0" in str(found) or any(len(os.fsencode(part)) > 255 for part in found.parts):
            raise ValueError("names of files are shorter, without NUL")
        return found
    except (RuntimeError, TypeError, ValueError) as error:
        raise ResultsError(f"{spell(str(path))} names no place: {error}") from error


def reserve(folder: str | os.PathLike[str], what: Literal["folder", "file"] = "folder") -> Path:
    """The path of a results folder, or file, if it can be written; call it before any work is done.

    Nothing is created: the folder appears when everything in it has been written.

    Raises:
        ResultsExistError: If something is there already.
        ResultsError: If it cannot be created there.
    """
    path = located(folder)
    if len(os.fsencode(path.name)) > LONGEST:
        raise ResultsError(f"{spell(str(path))} names no place: file systems take shorter names.")
    if os.path.lexists(path):
        raise ResultsExistError(
            f"{path} exists already, and results are never overwritten. Name another {what} "
            f"(such as {_free_name(path, what)}), or move or delete this one first."
        )
    ancestor = next((parent for parent in path.absolute().parents if parent.exists()), None)
    if ancestor is None or not ancestor.is_dir() or not os.access(ancestor, os.W_OK | os.X_OK):
        raise ResultsError(
            f"{path} cannot be created: {ancestor} is not a folder that you may write to. "
            f"Name a {what} elsewhere."
        )
    return path


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the operating system says against it becomes an error of ours that names the path.

    Raises:
        UnwritableError: If something could not be written.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, BilevelError):
            raise
        raise UnwritableError(
            f"{path} cannot be written: {error}. What was written before is whole."
        ) from error


@dataclasses.dataclass(frozen=True)
class HeldFolder:
    """The path of a folder that who has this object works in; `held` makes it."""

    path: Path

    def __fspath__(self) -> str:
        return str(self.path)


@contextmanager
def held(folder: str | os.PathLike[str]) -> Iterator[HeldFolder]:
    """Work in a folder, and nobody else; it is made if it is missing, and gone if it stays empty.

    A `HeldFolder` is held already. A folder in which nothing can be written is not locked: nobody
    harms it.

    Raises:
        ResultsInUseError: If somebody works in it; says who.
        ResultsError: If there can be no such folder.
    """
    if isinstance(folder, HeldFolder):
        yield folder
        return
    path = located(folder)
    if os.path.lexists(path) and not path.is_dir():
        what = "a link to nothing" if path.is_symlink() and not path.exists() else "no folder"
        raise ResultsError(f"{path} is {what}: name a folder.")
    if path.is_dir() and not os.access(path, os.W_OK):
        yield HeldFolder(path)
        return
    made = [place for place in (path, *path.parents) if not place.exists()]
    with contextlib.ExitStack() as stack:
        stack.callback(remove_empty, *made)
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(path))
        yield HeldFolder(path)


@contextmanager
def write_atomically(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Fill a hidden folder next to the target, then rename it: all files appear, or none.

    Raises:
        ResultsExistError: If the folder exists, before or after the files were written.
        ResultsInUseError: If somebody else writes it.
        UnwritableError: If a file cannot be written.

    Examples:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "run"
        >>> with write_atomically(target) as hidden:
        ...     write_json(hidden / "config.json", {"steps": 10})
        >>> [file.name for file in target.iterdir()]
        ['config.json']
    """
    target = reserve(folder)
    with _hidden(target) as new, writing(target):
        new.mkdir()
        yield new
        for path in filter(Path.is_file, new.iterdir()):  # a power cut may come next
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        reserve(target)  # somebody else may have been faster
        try:
            new.rename(target)
        except OSError:
            reserve(target)
            raise


def tidy(folder: Path) -> None:
    """Remove what `write_atomically` left hidden next to a folder when its process was killed."""
    if _hiding(folder).is_dir():
        with _hidden(folder):
            pass


def _hiding(target: Path) -> Path:
    return target.with_name(f".{target.name}.partial")


@contextmanager
def _hidden(target: Path) -> Iterator[Path]:
    """Where a folder is filled until it is renamed: nothing is there before, nor after."""
    with contextlib.ExitStack() as stack:
        stack.callback(remove_empty, _hiding(target))
        new = Path(stack.enter_context(held(_hiding(target)))) / "new"
        stack.callback(shutil.rmtree, new, ignore_errors=True)
        shutil.rmtree(new, ignore_errors=True)  # of a process that was killed
        yield new


def remove_empty(*folders: Path) -> None:
    """Remove folders, each in the next one, as long as they are empty."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears, in the place of one that was there, when all of it is written.

    Whatever interrupts this, the one that was there stays whole.

    Raises:
        UnwritableError: If it cannot be written.
    """
    hidden = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    with writing(path):
        try:
            with hidden.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            hidden.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                hidden.unlink()
            raise


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON that any reader accepts: sorted, indented, numbers that are not finite as null.

    `content` is made of built-in types and numpy numbers or arrays.

    Raises:
        ResultsError: If something in it cannot be written as JSON, or the file cannot be written.
    """
    try:
        text = json.dumps(plain(content), indent=2, sort_keys=True, allow_nan=False)
    except TypeError as error:
        raise ResultsError(f"{path.name} cannot be written as JSON: {error}.") from error
    write_whole(path, f"{text}\n".encode())


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table as `write_whole` does; floats keep all their digits, None is an empty cell.

    Raises:
        UnwritableError: If it cannot be written.
    """
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(value) for value in row] for row in rows)
    write_whole(path, file.getvalue().encode())


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


def _free_name(path: Path, what: str) -> Path:
    path = path / "results" if path.name in ("", "..") else path  # of `.`, `/` and the like
    stem, suffix = (path.stem, path.suffix) if what == "file" else (path.name, "")
    names = (path.with_name(f"{stem}-{number}{suffix}") for number in itertools.count(2))
    return next(name for name in names if not os.path.lexists(name))
