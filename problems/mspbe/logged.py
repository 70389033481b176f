"""Logged transitions: from arrays, from `.npz` and CSV files."""

from collections.abc import Callable, Sized
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import bilevel
from bilevel.core.arrays import array_of, refusal
from bilevel.errors import DataError, ShapeError
from bilevel.storage.folder import located
from problems.mspbe.linear import LinearEvaluation
from problems.mspbe.log_files import read_arrays
from problems.mspbe.sources import Logged
from problems.mspbe.transitions import Transitions, check_ratios

Array = NDArray[np.float64]
Ratios = Any | Callable[[Any, Any], Any] | None


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
            1; a ratio is negative, or all are 0.

    Examples:
        >>> import numpy as np
        >>> from problems.mspbe import from_transitions
        >>> states = np.array([[0.0], [1.0], [2.0]])
        >>> rows = from_transitions(states, None, np.ones(3), states + 1, [0, 0, 1])
        >>> rows.continues
        tensor([1., 1., 0.], dtype=torch.float64)
    """
    x = array_of(states, "states").astype(np.float64)
    following = array_of(next_states, "next_states").astype(np.float64)
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
    _check_flags("terminated", ended)
    following = np.where(ended[:, None] == 1, 0.0, following)
    found = {"states": x, "next_states": following, "rewards": _column("rewards", rewards, n)}
    if np.ma.is_masked(actions) or (isinstance(actions, torch.Tensor) and refusal(actions)):
        raise DataError(f"`actions` is {refusal(actions)}.")
    shape = getattr(actions, "shape", None)
    shape = (len(actions),) if shape is None and isinstance(actions, Sized) else shape
    count = (*(shape or ()), 1)[0]  # what has no length is one
    if actions is not None and count != n:
        raise ShapeError(f"`actions` has {count} entries, but there are {n} transitions.")
    if callable(ratios):
        if actions is None:
            raise DataError("`ratios` is a function of states and actions: give `actions` too.")
        ratios = ratios(states, actions)
    found["ratios"] = np.ones(n) if ratios is None else _column("ratios", ratios, n)
    for name, values in found.items():
        bad = ~np.isfinite(values.reshape(n, -1)).all(1)
        if bad.any():
            ends = " where no episode ended" * (name == "next_states")
            mark = "Mark their ends in `terminated`, or drop them" if ends else "Drop them"
            raise DataError(
                f"`{name}` is NaN or infinite in {int(bad.sum())} of {n} transitions{ends}, the "
                f"first number {int(bad.argmax())}. {mark}."
            )
    if (found["ratios"] < 0).any():
        place = int((found["ratios"] < 0).argmax())
        raise DataError(
            f"`ratios` is {found['ratios'][place]:g} for transition {place}. Importance ratios are "
            "quotients of probabilities, at least 0."
        )
    check_ratios(torch.from_numpy(found["ratios"]))
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

    `.npz`: arrays `states`, `rewards`, `next_states`, and `actions`, `terminated`, `truncated`,
    `ratios`, `returns` where they are known. Anything else is read as CSV: columns `state_NAME` and
    `next_state_NAME` of the same names, `reward`, and `action`, `terminated`, `truncated`, `ratio`,
    `return`. Both understand the other names in use, such as `obs`, `dones`, `terminals`,
    `timeouts`, `rho` (`problems.mspbe.log_files.NAMES`). Where an episode was over (`done`) it
    ended, unless it is marked as truncated too. A next state may be NaN or empty after an end.

    Returns:
        The transitions, and a batch of inputs and Monte-Carlo returns where the file has returns.

    Raises:
        MissingDataError: there is no such file.
        DataError: the file cannot be used; two names mean the same; a name is not understood that
            may say where episodes end or what transitions count. Others are named in a warning.
    """
    path = located(file)
    arrays = read_arrays(path)
    try:
        rows = from_transitions(
            arrays["states"],
            arrays.get("actions"),
            arrays["rewards"],
            arrays["next_states"],
            arrays.get("terminated"),
            arrays.get("ratios"),
        )
        if "truncated" in arrays:
            _check_flags("truncated", _column("truncated", arrays["truncated"], len(rows.rewards)))
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

    Raises:
        MissingDataError: there is no such file.
        DataError: it cannot be used; the message says why.

    Examples:
        >>> import bilevel
        >>> from bilevel.errors import BilevelError
        >>> try: bilevel.load_problem("transitions", file="nowhere.npz")
        ... except BilevelError as error: print(type(error).__name__)
        MissingDataError
    """
    rows, returns = load_transitions(file)
    return LinearEvaluation(Logged(rows, discount, returns, Path(str(file)).name))


def _column(name: str, given: Any, n: int) -> Array:
    """A float64 copy with one entry for each transition."""
    found = array_of(given, name).astype(np.float64)
    if found.shape != (n,):
        raise ShapeError(
            f"`{name}` must be ({n},), one entry for each transition, got {found.shape}."
        )
    return found


def _check_flags(name: str, values: Array) -> None:
    if not np.isin(values, (0, 1)).all():
        raise DataError(f"`{name}` must hold 0 and 1, or False and True, and nothing else.")
