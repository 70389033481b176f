"""Files of logged transitions: which array or column is what, and what is left over."""

import difflib
import re
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bilevel.errors import DataError, MissingDataError
from bilevel.tables.csv_file import columns_of, quoted, read_cells

NAMES = {
    "states": ("states", "state", "observations", "observation", "obs"),
    "next_states": (
        "next_states", "next_state", "next_observations", "next_observation", "next_obs",
    ),
    "rewards": ("rewards", "reward"),
    "actions": ("actions", "action"),
    "terminated": (
        "terminated", "terminal", "terminals", "termination", "terminations", "is_terminal",
        "is_terminated",
    ),
    "done": ("done", "dones", "is_done"),
    "truncated": (
        "truncated", "truncation", "truncations", "is_truncated", "timeout", "timeouts",
    ),
    "ratios": ("ratios", "ratio", "rho", "rhos", "importance_ratio", "importance_ratios"),
    "returns": ("returns", "return"),
}  # fmt: skip
"""What each array may be called, in files of either kind, in small or capital letters."""
REQUIRED = ("states", "rewards", "next_states")
WIDE = ("next_states", "states")
"""What has several columns in a CSV file, called NAME_x, NAME_y, ..."""
UNDERSTOOD = (
    f"Understood are {', '.join(NAMES)}, in the singular too, and other names such as obs, "
    "is_terminal, timeouts and rho."
)
FLAGS = ("terminated", "done", "truncated")
WORDS = {"true": "1", "false": "0"}
"""What flags may be in CSV files, in small or capital letters, as pandas writes them."""
OURS = {name: ours for ours, names in NAMES.items() for name in names}
TELLING = {
    *(word for ours in (*FLAGS, "ratios") for word in NAMES[ours]),
    "end", "ends", "ended", "finished", "absorbing", "discount", "discounts",
    "gamma", "gammas", "importance",
}  # fmt: skip
"""Words of names that may say where episodes end or what rows count: never left out in silence."""
ALONE = {"mask", "masks"}
"""Names that may say so as they are, and not as a part of others (`action_mask`)."""


def read_arrays(path: Path) -> dict[str, Any]:
    """The arrays of a file under our names: those of `NAMES`, "terminated" in place of "done".

    Names that are not understood are named in a warning, or refused where the values could depend
    on them.

    Raises:
        MissingDataError: there is no such file.
        DataError: the file cannot be used; the message says why.
    """
    arrays = _from_npz(path) if path.suffix == ".npz" else _from_csv(path)
    if "done" in arrays:
        arrays["terminated"] = _ends_of(path, arrays.pop("done"), arrays.get("truncated"))
    return arrays


def _from_npz(path: Path) -> dict[str, Any]:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise MissingDataError(f"{path} {what}: name an .npz file.")
    try:
        # NumPy itself leaves a damaged file open
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            unknown = [name for name in file.files if not _meaning(name, ())[0]]
            single = {name for name in unknown if _is_single(file, name)}
            places = _places(path, file.files, (), single)
            return {ours: file[names[0]] for ours, names in places.items()}
    except DataError:
        raise
    except Exception as error:  # of damaged files NumPy, zipfile and zlib raise anything
        raise DataError(
            f"{path} cannot be read as an .npz file of plain arrays: {error}. Write it with "
            "np.savez(file, states=..., rewards=..., next_states=...)."
        ) from error


def _from_csv(path: Path) -> dict[str, Any]:
    cells = read_cells(path)
    places = _places(path, cells.names, WIDE)
    places.pop("actions", None)  # which may be words, and are not needed here
    endings = [[_meaning(name, WIDE)[2] for name in places[ours]] for ours in WIDE]
    if sorted(endings[0]) != sorted(endings[1]) or len(set(endings[0])) < len(endings[0]):
        raise DataError(
            f"{path} needs a column `next_state_NAME` for each `state_NAME`, at least one; it has "
            f"{quoted(cells.names)}."
        )
    following = dict(zip(endings[0], places["next_states"], strict=True))
    places["next_states"] = [following[ending] for ending in endings[1]]
    flags = {cells.names.index(name) for ours in FLAGS for name in places.get(ours, ())}
    lines = [
        (number, [WORDS.get(x.lower(), x) if k in flags else x for k, x in enumerate(line)])
        for number, line in cells.lines
    ]
    cells = cells._replace(lines=lines)
    used = [name for names in places.values() for name in names]
    remedy = "Columns whose names are not understood may hold anything."
    columns = columns_of(cells, used, blank=places["next_states"], remedy=remedy)
    if columns.apart:
        warnings.warn(
            f"{path}: float64 loses digits of the numbers in {quoted(list(columns.apart))}. "
            "Subtract a number near their mean.",
            stacklevel=4,
        )
    found = {}
    for ours, names in places.items():
        values = columns.values[:, [columns.index(name) for name in names]]
        found[ours] = values if ours in WIDE else values[:, 0]
    return found


def _is_single(file: Mapping[str, Any], name: str) -> bool:
    """Whether an array is one number or word, a remark on all transitions."""
    try:
        return not np.ndim(file[name])
    except ValueError:  # objects, which are not read
        return False


def _places(
    path: Path, names: Iterable[str], wide: tuple[str, ...], single: Collection[str] = ()
) -> dict[str, list[str]]:
    """Our names, with the names in the file that stand for them; what is left is told or refused.

    Args:
        path: the file.
        names: what it holds.
        wide: our names that may have several columns.
        single: those of `names` that say nothing about single transitions.
    """
    names, left = list(names), []
    found: dict[str, dict[str, list[str]]] = {}  # names of the same prefix belong together
    for name in names:
        ours, prefix, _ = _meaning(name, wide)
        if ours:
            found.setdefault(ours, {}).setdefault(prefix, []).append(name)
        else:
            left.append(name)
    alike: dict[str, list[str]] = {}
    for ours, by_prefix in found.items():
        meaning = "terminated" if ours == "done" else ours
        alike.setdefault(meaning, []).extend(same[0] for same in by_prefix.values())
    for twice in alike.values():
        if len(twice) > 1:
            raise DataError(
                f"{path}: {quoted(twice)} mean the same here. Leave all but one of them out."
            )
    lacking = [ours for ours in REQUIRED if ours not in found]
    if lacking:
        columns = " Columns of states are called state_NAME and next_state_NAME." * bool(wide)
        raise DataError(
            f"{path} lacks {quoted(lacking)}; it holds {quoted(sorted(names)) or 'nothing'}. "
            f"{UNDERSTOOD}{columns}"
        )
    _check_left(path, left, single)
    return {ours: next(iter(by.values())) for ours, by in found.items()}


def _meaning(name: str, wide: tuple[str, ...]) -> tuple[str, str, str]:
    """Our name for an array or a column, its prefix, and the rest; three times "" for none."""
    lower = name.lower()
    for ours in wide:
        for alias in NAMES[ours]:
            if lower == alias or lower.startswith(f"{alias}_"):
                return ours, alias, name[len(alias) + 1 :]
    return (OURS[lower], name, "") if lower in OURS else ("", "", "")


def _check_left(path: Path, left: Sequence[str], single: Collection[str]) -> None:
    """Refuse names that may change the values, warn of the others."""
    for name in left:
        lower = name.lower()
        words = set(re.split(r"[^a-z]+", lower))
        # short words are near to others: one, done
        near = len(lower) > 6 and difflib.get_close_matches(lower, TELLING, n=1, cutoff=0.85)
        if (near or words & TELLING or lower in ALONE) and name not in single:
            raise DataError(
                f"{path}: {name!r} is not understood, but may say where episodes end or what "
                f"transitions count. {UNDERSTOOD} Rename it, or leave it out."
            )
    if left:
        warnings.warn(
            f"{path}: not used: {quoted(left)}.",
            stacklevel=6,
        )


def _ends_of(path: Path, done: Any, truncated: Any) -> Any:
    """Where episodes ended, from where they were over: a truncated one has not ended.

    A file may mark truncated transitions as done or not, but all of them alike.
    """
    if truncated is None:
        return done
    over, cut = np.asarray(done), np.asarray(truncated)
    if over.shape != cut.shape or over.dtype.kind not in "biuf" or cut.dtype.kind not in "biuf":
        return done  # refused with the other arrays
    marked = over[cut == 1]
    if marked.size and marked.min() != marked.max():
        raise DataError(
            f"{path}: {int((marked != 0).sum())} of {marked.size} truncated transitions are marked "
            "as done, the others are not, so it cannot be known which episodes ended. Write an "
            "array `terminated` in place of the one of what was done."
        )
    return np.where(cut == 1, 0, over)
