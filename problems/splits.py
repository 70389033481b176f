"""Rows of a table divided at random into training, validation and test rows."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bilevel.core.checks import single
from bilevel.errors import ArgumentError, DataError

Arrays = tuple[NDArray[np.float64], NDArray[Any]]
Splits = dict[str, Arrays]


def sizes_of_fractions(rows: int, validation: float, test: float) -> dict[str, int]:
    """How many rows the groups get that are not for training; no validation group for 0.

    Raises:
        ArgumentError: fractions that leave less than a tenth for training, or groups of one row.
    """
    validation, test = (
        single(share, f"`{name}`, one of two fractions,", zero_allowed=True)
        for name, share in (("validation", validation), ("test", test))
    )
    if not (0 < test < 1 and 0 <= validation < 1 and test + validation <= 0.9):
        raise ArgumentError(
            f"`validation` and `test` are fractions that leave at least a tenth for training, got "
            f"{validation=}, {test=}."
        )
    sizes = {"test": round(test * rows), "validation": round(validation * rows)}
    if validation == 0:
        del sizes["validation"]
    if min(sizes.values()) < 2:
        raise ArgumentError(f"`validation` and `test` must leave 2 rows each at least: {sizes}.")
    return sizes


def random_split(
    inputs: NDArray[np.float64],
    targets: NDArray[Any],
    sizes: Mapping[str, int],
    split: int | None = None,
) -> Callable[[int], Splits]:
    """A function of the seed: the rows in random order, the last ones to the groups of `sizes`.

    With the number of a `split` the order is the same for every seed: that of
    `numpy.random.default_rng(split).permutation(n)`.
    """

    def draw(seed: int) -> Splits:
        key = [seed, len(targets)] if split is None else split
        order = np.random.default_rng(key).permutation(len(targets))
        splits = last_rows(inputs[order], targets[order], sizes)
        for name, (_, drawn) in splits.items():
            if np.ptp(drawn) == 0:
                raise DataError(
                    f"With seed {seed} all {len(drawn)} {name} rows have the target {drawn[0]:g}: "
                    "the target hardly varies. Use more rows, or larger groups."
                )
        return splits

    return draw


def last_rows(
    inputs: NDArray[np.float64], targets: NDArray[Any], sizes: Mapping[str, int]
) -> Splits:
    """The last rows become the groups of `sizes`, the others the training group."""
    end, splits = len(targets), {}
    for name, size in sizes.items():
        splits[name] = (inputs[end - size : end], targets[end - size : end])
        end -= size
    return {"train": (inputs[:end], targets[:end]), **splits}
