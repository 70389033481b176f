"""Logged transitions: from arrays, from `.npz` and CSV files."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import bilevel
from bilevel.errors import DataError, MissingDataError, ShapeError
from problems.csv_file import Columns, quoted, read_columns
from problems.mspbe.linear import LinearEvaluation
from problems.mspbe.sources import Logged
from problems.mspbe.transitions import Transitions

Array = NDArray[np.float64]
Ratios = Any | Callable[[Any, Any], Any] | None
OTHER_NAMES = {
    "observations": "states",
    "next_observations": "next_states",
    "terminals": "terminated",
}
"""What other collections of transitions call their arrays."""
REQUIRED = ("states", "rewards", "next_states")
KNOWN = (*REQUIRED, "actions", "terminated", "ratios", "returns")


def from_transitions(
    states: Any,
    actions: Any,
    rewards: Any,
    next_states: Any,
    terminated: Any = None,
    ratios: Ratios = None,
) -> Transitions:
    """Rows for policy evaluation from arrays or tensors of n logged transitions, which are copied.

    Args:
        states: (n, D), what features are computed from (for linear methods the features).
        actions: (n,) or (n, ...); None where nobody kept them. They are handed to `ratios`.
        rewards: (n,).
        next_states: (n, D); whatever it is where an episode terminated, NaN included.
        terminated: (n,), 1 or True where the episode ended and V = 0 follows; None: nowhere. An
            episode that was only cut off (truncated) goes on: its last state has a value.
        ratios: (n,), rho, the target policy's probability of the action over the behaviour's; or a
            function of (states, actions) that returns them; None: 1 (on-policy).

    Raises:
        ShapeError: an array does not have one entry for each transition, or widths differ.
        DataError: there are no transitions; a number is not finite; `terminated` is neither 0 nor
            1; a ratio is negative.

    Examples:
        >>> import numpy as np
        >>> from problems.mspbe import from_transitions
        >>> states = np.array([[0.0], [1.0], [2.0]])
        >>> rows = from_transitions(states, None, np.ones(3), states + 1, [0, 0, 1])
        >>> rows.continues
        tensor([1., 1., 0.], dtype=torch.float64)
    """
    x, following = _numbers("states", states), _numbers("next_states", next_states)
    if x.ndim != 2 or not x.shape[1]:
        raise ShapeError(
            f"`states` must be (n, D), rows of D numbers, got {x.shape}. Write `states[:, None]` "
            "for a single number, `np.eye(S)[states]` for numbers of states."
        )
    n = len(x)
    if not n:
        raise DataError("There are no transitions: `states` is empty.")
    if following.shape != x.shape:
        raise ShapeError(f"`next_states` must be {x.shape} like `states`, got {following.shape}.")
    ended = np.zeros(n) if terminated is None else _column("terminated", terminated, n)
    if not np.isin(ended, (0, 1)).all():
        raise DataError("`terminated` must hold 0 and 1, or False and True, and nothing else.")
    following = np.where(ended[:, None] == 1, 0.0, following)
    found = {"states": x, "next_states": following, "rewards": _column("rewards", rewards, n)}
    if actions is not None and len(actions) != n:
        raise ShapeError(f"`actions` has {len(actions)} entries, but there are {n} transitions.")
    if callable(ratios):
        if actions is None:
            raise DataError("`ratios` is a function of states and actions: give `actions` too.")
        ratios = ratios(states, actions)
    found["ratios"] = np.ones(n) if ratios is None else _column("ratios", ratios, n)
    for name, values in found.items():
        bad = ~np.isfinite(values.reshape(n, -1)).all(1)
        if bad.any():
            raise DataError(
                f"`{name}` is NaN or infinite in {int(bad.sum())} of {n} transitions, the first "
                f"number {int(bad.argmax())}. Drop them."
            )
    if (found["ratios"] < 0).any():
        place = int((found["ratios"] < 0).argmax())
        raise DataError(
            f"`ratios` is {found['ratios'][place]:g} for transition {place}. Importance ratios are "
            "quotients of probabilities, at least 0."
        )
    return Transitions(
        torch.from_numpy(x),
        torch.from_numpy(following),
        torch.from_numpy(found["rewards"]),
        torch.from_numpy(found["ratios"]),
        torch.from_numpy(1 - ended),
        torch.ones(n, dtype=torch.float64),
    )


def load_transitions(file: str | Path) -> tuple[Transitions, bilevel.Batch | None]:
    """Read transitions from a file; see `from_transitions` for what is checked.

    `.npz`: arrays `states`, `rewards`, `next_states`, and `actions`, `terminated`, `ratios`,
    `returns` where they are known (`observations`, `next_observations` and `terminals` are
    understood too). Anything else is read as CSV: columns `state_NAME` and `next_state_NAME` of
    the same names, `reward`, and `action`, `terminated`, `ratio`, `return`.

    Returns:
        The transitions, and a batch of inputs and Monte-Carlo returns where the file has returns.

    Raises:
        MissingDataError: there is no such file.
        DataError: the file cannot be used; the message says why.
    """
    path = Path(str(file)).expanduser()
    arrays = _from_npz(path) if path.suffix == ".npz" else _from_csv(path)
    try:
        rows = from_transitions(
            arrays["states"],
            arrays.get("actions"),
            arrays["rewards"],
            arrays["next_states"],
            arrays.get("terminated"),
            arrays.get("ratios"),
        )
        if "returns" not in arrays:
            return rows, None
        returns = _column("returns", arrays["returns"], len(rows.rewards))
    except (DataError, ShapeError) as error:
        raise DataError(f"{path}: {error}") from error
    if not np.isfinite(returns).all():
        raise DataError(f"{path}: `returns` is NaN or infinite. Leave it out, or drop those rows.")
    return rows, bilevel.Batch(rows.inputs, torch.from_numpy(returns))


def logged_transitions(file: str | Path, discount: float = 0.99) -> LinearEvaluation:
    """The values behind logged transitions in a file, with linear features: TD, TDC, LSTD, ...

    Args:
        file: `.npz` or CSV, as `load_transitions` takes it; the states are the features.
        discount: gamma.
    """
    rows, returns = load_transitions(file)
    return LinearEvaluation(Logged(rows, discount, returns, Path(str(file)).name))


def _numbers(name: str, given: Any) -> Array:
    """A float64 copy of an argument."""
    if isinstance(given, torch.Tensor):
        given = given.detach().cpu().numpy()
    try:
        found = np.array(given)
    except ValueError as error:  # lists of different lengths
        raise ShapeError(f"`{name}` must be an array or a tensor: {error}") from error
    if found.dtype.kind not in "biuf":
        raise DataError(f"`{name}` must hold numbers, got {found.dtype}.")
    return found.astype(np.float64)


def _column(name: str, given: Any, n: int) -> Array:
    """A float64 copy with one entry for each transition."""
    found = _numbers(name, given)
    if found.shape != (n,):
        raise ShapeError(
            f"`{name}` must be ({n},), one entry for each transition, got {found.shape}."
        )
    return found


def _from_npz(path: Path) -> dict[str, Any]:
    """The arrays of a NumPy file under our names."""
    if not path.is_file():
        raise MissingDataError(f"{path} does not exist: name an .npz file.")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {OTHER_NAMES.get(name, name): file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} cannot be read as an .npz file of plain arrays: {error}. Write it with "
            "np.savez(file, states=..., rewards=..., next_states=...)."
        ) from error
    lacking = [name for name in REQUIRED if name not in arrays]
    if lacking:
        raise DataError(
            f"{path} lacks {quoted(lacking)}; it holds {quoted(sorted(arrays)) or 'nothing'}. "
            f"Arrays that are understood: {', '.join(KNOWN)}."
        )
    return arrays


def _from_csv(path: Path) -> dict[str, Any]:
    """The columns of a CSV file as arrays under our names."""
    columns = read_columns(path, wanted=["reward"])
    names = [name.removeprefix("state_") for name in columns.names if name.startswith("state_")]
    following = {name.removeprefix("next_state_") for name in columns.names if "next_" in name}
    if not names or set(names) != following:
        raise DataError(
            f"{path} needs a column `next_state_NAME` for each `state_NAME`, at least one; it has "
            f"{quoted(columns.names)}."
        )
    arrays = {
        "states": _stacked(columns, [f"state_{name}" for name in names]),
        "next_states": _stacked(columns, [f"next_state_{name}" for name in names]),
        "rewards": columns.values[:, columns.index("reward")],
    }
    for column, name in (
        ("action", "actions"),
        ("terminated", "terminated"),
        ("ratio", "ratios"),
        ("return", "returns"),
    ):
        if column in columns.names:
            arrays[name] = columns.values[:, columns.index(column)]
    return arrays


def _stacked(columns: Columns, names: list[str]) -> Array:
    return columns.values[:, [columns.index(name) for name in names]]
