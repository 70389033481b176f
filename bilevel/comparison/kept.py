"""The folder that a comparison is kept in while it is trained: which files in it are ours."""

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bilevel.errors import ResultsError
from bilevel.storage.folder import tidy, write_json, writing
from bilevel.storage.lock import LOCK
from bilevel.storage.reading import read_json
from bilevel.storage.results import read_results

DESCRIPTION, FINISHED = "comparison.json", "finished.json"
REPORT, NEW_REPORT = "report", "report.new"
"""Of a comparison that was interrupted; and before it takes the place of an earlier one."""
PARTIAL = ".partial"
"""What the folder of the command is called, after that of its results."""
SHARDS, CUT = "shards", "shards.json"
"""With an engine: the folder that has a folder for each shard, and how the work was cut."""
ATTEMPT, BEAT, RESULT = "attempt", "beat.json", "result.safetensors"
"""Of a shard: who computes it, how far that is, and what came of it."""
STOP = "stop"
"""What asks shards to end."""
_SHARD = re.compile(r"(training|tuning)-\d+")
_JOB = re.compile(r"job-[0-9a-f]{64}")
_TRAINING = re.compile(r"(training|tuning)-\d+\.safetensors")
_UNFINISHED = re.compile(r"\.[\w-]+(\.safetensors|\.json)?\.[0-9a-f]{8}\.partial")
"""Files that were being written when their process was killed."""

History = Mapping[str, Mapping[str, NDArray[np.float64]]]


def is_new(folder: Path) -> bool:
    """Whether nothing was ever kept in a folder."""
    places = {folder / REPORT, folder / NEW_REPORT}  # empty ones may be left of a clearing
    return all(
        path.name == LOCK
        or _UNFINISHED.fullmatch(path.name)
        or (path in places and path.is_dir() and not os.listdir(path))
        for path in folder.iterdir()
    )


def check_link(path: Path) -> None:
    """A link to nothing is damage: otherwise it would look as if nothing had been kept.

    Raises:
        ResultsError: It is one.
    """
    if path.is_symlink() and not path.exists():
        raise ResultsError(f"{path} is damaged: it links to {os.readlink(path)}, which is missing.")


def report(folder: Path, write: Callable[[Path], object]) -> Path:
    """Let a new report take the place of an earlier one, file by file: other files there stay."""
    new, old = folder / NEW_REPORT, folder / REPORT

    def replace() -> None:
        old.mkdir(exist_ok=True)
        for path in new.iterdir():
            path.replace(old / path.name)
        new.rmdir()

    with writing(old):
        if new.is_dir():  # of a process that was killed
            replace()
        write(new)
        replace()
    return old / "report.html"


def clear(folder: Path, result: Path | None = None) -> list[str]:
    """Remove what a comparison kept, and nothing that somebody else put there.

    Whatever interrupts this, what says that the comparison is finished goes last.

    Args:
        folder: of the checkpoint; it may be gone.
        result: the folder with its results.

    Returns:
        The names of what is left.
    """
    reported = [] if result is None else os.listdir(result)
    own = [folder / place / name for place in (REPORT, NEW_REPORT) for name in reported]
    own += trainings(folder)
    _clear_shards(folder / SHARDS)
    with contextlib.suppress(OSError):  # not what comes after a file that cannot be removed
        for path in [*own, folder / CUT, folder / DESCRIPTION, folder / FINISHED]:
            path.unlink(missing_ok=True)
    sweep(folder)
    for place in filter(None, (folder / NEW_REPORT, result)):
        with contextlib.suppress(ResultsError):
            tidy(place)
    for place in (folder / REPORT, folder / NEW_REPORT):
        with contextlib.suppress(OSError):
            place.rmdir()
    return sorted(set(os.listdir(folder)) - {LOCK}) if folder.is_dir() else []


def trainings(folder: Path) -> list[Path]:
    """Files of trainings in a folder."""
    return [path for path in folder.glob("*") if _TRAINING.fullmatch(path.name)]


def _clear_shards(folder: Path) -> None:
    """Remove what shards kept."""
    if not folder.is_dir():
        return
    for shard in folder.glob("*"):
        if _SHARD.fullmatch(shard.name) and shard.is_dir():
            sweep(shard)
            names = (ATTEMPT, BEAT, f".{BEAT}", RESULT)
            with contextlib.suppress(OSError):
                for path in [*trainings(shard), *(shard / name for name in names)]:
                    path.unlink(missing_ok=True)
                shard.rmdir()
    sweep(folder)
    with contextlib.suppress(OSError):
        for path in folder.glob("*"):
            if path.name == STOP or _JOB.fullmatch(path.name):
                path.unlink()
        folder.rmdir()


def sweep(folder: Path) -> None:
    """Remove what a process that was killed had begun to write."""
    for path in folder.glob(".*"):
        if _UNFINISHED.fullmatch(path.name):
            with contextlib.suppress(OSError):
                path.unlink()


def finish(folder: Path, result: Path, history: History) -> None:
    """Note that all is trained, and where the results come: only `clear` is left after them."""
    content = {"report": str(result.absolute()), "history_sha256": _digest(history)}
    write_json(folder / FINISHED, content)


def finished_report(folder: Path) -> Path | None:
    """The results of a comparison that is finished, although its folder is not cleared or is gone.

    None where there are no such results.
    """
    if (folder / FINISHED).is_file():
        noted = read_json(folder / FINISHED, {"report": str, "history_sha256": str})
        result = Path(noted["report"])
        with contextlib.suppress(ResultsError):  # not there, or something else
            if _digest(read_results(result)["history"]) == noted["history_sha256"]:
                return result
        return None
    result = folder.with_name(folder.name.removesuffix(PARTIAL))
    is_gone = result != folder and (not folder.exists() or is_new(folder))
    return result if is_gone and (result / "config.json").is_file() else None


def _digest(history: History) -> str:
    """What tells the numbers of two comparisons apart."""
    plain: list[Any] = [
        (name, metric, values.tolist())
        for name, table in sorted(history.items())
        for metric, values in sorted(table.items())
    ]
    return hashlib.sha256(repr(plain).encode()).hexdigest()
