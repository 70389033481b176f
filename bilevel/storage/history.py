"""The history of a comparison as one long table: a line per strategy, seed and recorded step."""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bilevel.errors import ResultsError
from bilevel.storage.folder import write_csv
from bilevel.storage.reading import REMEDY, read_csv

Array = NDArray[Any]
History = Mapping[str, Mapping[str, Array]]

KEYS = ["strategy", "seed"]
NUMBER = re.compile(r"-?(\d+(\.\d+)?(e[+-]?\d+)?|inf)|nan", re.ASCII)
"""As Python writes numbers; it reads others too, such as 1_0."""


def write_history(
    path: Path, history: History, seeds: Sequence[int], steps: Array, column: str = "step"
) -> None:
    """Write a history so that `read_history` gives the same numbers, bit for bit.

    That is strategy -> metric -> (T, R) values, for R seeds at T steps, which `column` is called;
    cells of metrics that a strategy lacks are empty.
    """
    metrics = list(dict.fromkeys(metric for table in history.values() for metric in table))
    rows = (
        [name, seed, int(step), *(table[m][i, run] if m in table else None for m in metrics)]
        for name, table in history.items()
        for run, seed in enumerate(seeds)
        for i, step in enumerate(steps)
    )
    write_csv(path, [*KEYS, column, *metrics], rows)


def read_history(
    path: Path, strategies: Sequence[str], seeds: Sequence[int], column: str = "step"
) -> tuple[Array, dict[str, dict[str, Array]]]:
    """The (T,) steps, and strategy -> metric -> (T, R) float64 values, that were written.

    Raises:
        ResultsError: If the file is missing, or does not hold these strategies and seeds with the
            same steps for each; names the file and the line.
    """
    columns, rows = read_csv(path)
    if columns[:3] != [*KEYS, column]:
        named = f"{[*KEYS, column]}, got {columns[:3]}"
        raise ResultsError(f"{path} must begin with the columns {named}.")
    if len(set(columns[3:])) < len(columns) - 3:
        raise ResultsError(f"{path} names a metric twice: {columns[3:]}. {REMEDY}")
    runs = len(strategies) * len(seeds)
    if not runs or not rows or len(rows) % runs:
        raise ResultsError(
            f"{path} has {len(rows)} lines of values, which is no multiple of the {runs} runs "
            f"that config.json names: the file was cut off or edited. {REMEDY}"
        )
    length = len(rows) // runs
    steps = [_step(path, line, row[2]) for line, row in enumerate(rows[:length], start=2)]
    if any(later <= early for early, later in itertools.pairwise(steps)):
        raise ResultsError(f"{path} has steps that do not grow: {steps}. {REMEDY}")
    expected = itertools.product(strategies, map(str, seeds), map(str, steps))
    for line, (row, key) in enumerate(zip(rows, map(list, expected), strict=True), start=2):
        if row[:3] != key:
            raise ResultsError(f"{path} line {line} is for {row[:3]}, expected {key}. {REMEDY}")
    history: dict[str, dict[str, Array]] = {name: {} for name in strategies}
    size = len(seeds) * length
    for start, table in zip(range(0, len(rows), size), history.values(), strict=True):
        for place, metric in enumerate(columns[3:], start=3):
            cells = [row[place] for row in rows[start : start + size]]
            if not any(cells):  # a metric that the strategy does not have
                continue
            for line, cell in enumerate(cells, start=start + 2):
                # too large a number would become infinite
                if not NUMBER.fullmatch(cell) or (math.isinf(float(cell)) and "inf" not in cell):
                    raise ResultsError(
                        f"{path} line {line}, column {metric!r}: {cell!r:.40} is not a number, "
                        f"infinite or nan. {REMEDY}"
                    )
            values = np.array([float(cell) for cell in cells])
            table[metric] = np.ascontiguousarray(values.reshape(len(seeds), length).T)
    return np.array(steps), history


def _step(path: Path, line: int, cell: str) -> int:
    if not re.fullmatch(r"\d{1,18}", cell, re.ASCII):
        raise ResultsError(f"{path} line {line}: {cell!r:.40} is not a step. {REMEDY}")
    return int(cell)
