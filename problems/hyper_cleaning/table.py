"""Means over seeds with standard errors, paired differences, and what may be said of them."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from problems.hyper_cleaning.experiment import (
    BILEVEL,
    BOTH,
    FILTER,
    ITERATED,
    METHODS,
    ORACLE,
    Result,
)


@dataclasses.dataclass(frozen=True)
class Line:
    """A method over seeds, in per cent.

    Attributes:
        method: its name.
        accuracy: mean over seeds.
        error: its standard error.
        above_filter: mean difference from the cross-fitted filter, seed by seed.
        filter_error: its standard error.
        above_iterated: the same from the iterated filter.
        iterated_error: its standard error.
        way: how much of the way from training on both to the oracle it goes.
        f1: mean.
        auc: mean.
        seconds: of CPU time, mean.
    """

    method: str
    accuracy: float
    error: float
    above_filter: float
    filter_error: float
    above_iterated: float
    iterated_error: float
    way: float
    f1: float
    auc: float
    seconds: float


def lines_of(runs: Sequence[Result]) -> list[Line]:
    """A line for each method, from the runs of one number of clean rows."""
    of: dict[str, dict[str, NDArray[np.float64]]] = {}
    for method in METHODS:
        own = sorted((run for run in runs if run.method == method), key=lambda run: run.seed)
        of[method] = {
            name: np.array([getattr(run, name) for run in own])
            for name in ("accuracy", "f1", "auc", "seconds")
        }
    low, high = (of[name]["accuracy"].mean() for name in (BOTH, ORACLE))
    found = []
    for method, values in of.items():
        right = values["accuracy"]
        pairs = [mean_and_error(right - of[name]["accuracy"]) for name in (FILTER, ITERATED)]
        rest = [float(values[name].mean()) for name in ("f1", "auc", "seconds")]
        way = float((right.mean() - low) / (high - low))
        found.append(Line(method, *mean_and_error(right), *pairs[0], *pairs[1], way, *rest))
    return found


def mean_and_error(values: NDArray[np.float64]) -> tuple[float, float]:
    """The mean and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def printed(lines: Sequence[Line]) -> list[str]:
    """The table for people."""
    head = f"{'':20}  test accuracy   minus filter  minus iterated   way     F1    AUC   CPU s"
    return [head, *map(_row, lines)]


def _row(line: Line) -> str:
    def pair(value: float, error: float, sign: str = "+") -> str:
        return f"{value:{sign}6.2f} ± {error:4.2f}"

    told = [f"{x:5.1f}" if x == x else "     " for x in (line.f1, line.auc)]
    return (
        f"{line.method:20} {pair(line.accuracy, line.error, '')}  "
        f"{pair(line.above_filter, line.filter_error)}   "
        f"{pair(line.above_iterated, line.iterated_error)}  {line.way:+5.2f}  "
        f"{told[0]}  {told[1]}  {line.seconds:6.1f}"
    )


def verdicts(lines: Sequence[Line]) -> list[str]:
    """What may be said of each learned weighting: two standard errors are asked for."""
    found = []
    for line in lines:
        if line.method in BILEVEL:
            filters = {
                FILTER: (line.above_filter, line.filter_error),
                ITERATED: (line.above_iterated, line.iterated_error),
            }
            said = [f"{told(*pair)} the {name}" for name, pair in filters.items()]
            found.append(f"{line.method}: {', '.join(said)}")
    return found


def told(difference: float, error: float) -> str:
    """A paired difference in words."""
    if abs(difference) <= 2 * error:
        return "not told apart from"
    return "more accurate than" if difference > 0 else "less accurate than"
