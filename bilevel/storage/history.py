"""The history of a comparison as one long table: a line per strategy, seed and recorded step."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bilevel.errors import ResultsError
from bilevel.storage.folder import read_csv, write_csv

Array = NDArray[Any]
History = Mapping[str, Mapping[str, Array]]

KEYS = ["strategy", "seed"]


def write_history(
    path: Path, history: History, seeds: Sequence[int], steps: Array, column: str = "step"
) -> None:
    """Write a history so that `read_history` gives the same numbers, bit for bit.

    Args:
        path: CSV file to write.
        history: Strategy -> metric -> (T, R) values. A metric that a strategy lacks gives empty
            cells.
        seeds: The R seeds.
        steps: (T,) recorded steps.
        column: What they are called.
    """
    metrics = list(dict.fromkeys(metric for table in history.values() for metric in table))
    write_csv(path, [*KEYS, column, *metrics], _rows(history, seeds, steps, metrics))


def read_history(
    path: Path, strategies: Sequence[str], seeds: Sequence[int], column: str = "step"
) -> tuple[Array, dict[str, dict[str, Array]]]:
    """Read what `write_history` wrote.

    Args:
        path: CSV file to read.
        strategies: The strategies it must hold, in order.
        seeds: The seeds it must hold, in order.
        column: What the steps are called.

    Returns:
        (T,) steps, and strategy -> metric -> (T, R) float64 values.

    Raises:
        ResultsError: If the file is missing, or does not hold these strategies and seeds with the
            same steps for each; names the file and the line.
    """
    columns, rows = read_csv(path)
    keys = [*KEYS, column]
    if columns[:3] != keys:
        raise ResultsError(f"{path} must begin with the columns {keys}, got {columns[:3]}.")
    runs = len(strategies) * len(seeds)
    if not runs or not rows or len(rows) % runs:
        raise ResultsError(
            f"{path} has {len(rows)} lines of values, which is no multiple of the {runs} runs "
            "that config.json names: the file was cut off or edited."
        )
    length = len(rows) // runs
    steps = np.array([_step(path, line, row[2]) for line, row in enumerate(rows[:length], 2)])
    _check_keys(path, rows, strategies, seeds, steps)
    history = {
        name: _table(path, columns[3:], rows, index * len(seeds) * length, (len(seeds), length))
        for index, name in enumerate(strategies)
    }
    return steps, history


def _rows(
    history: History, seeds: Sequence[int], steps: Array, metrics: Sequence[str]
) -> Iterator[list[Any]]:
    for name, table in history.items():
        for run, seed in enumerate(seeds):
            for record, step in enumerate(steps):
                values = [
                    table[metric][record, run] if metric in table else None for metric in metrics
                ]
                yield [name, seed, int(step), *values]


def _check_keys(
    path: Path,
    rows: Sequence[Sequence[str]],
    strategies: Sequence[str],
    seeds: Sequence[int],
    steps: Array,
) -> None:
    expected = ([name, str(seed), str(step)] for name in strategies for seed in seeds
                for step in steps)  # fmt: skip
    for line, (row, keys) in enumerate(zip(rows, expected, strict=True), start=2):
        if list(row[:3]) != keys:
            raise ResultsError(f"{path} line {line} is for {list(row[:3])}, expected {keys}.")


def _table(
    path: Path,
    metrics: Sequence[str],
    rows: Sequence[Sequence[str]],
    start: int,
    shape: tuple[int, int],
) -> dict[str, Array]:
    """Metrics of one strategy; a column without any value is a metric it does not have."""
    block = rows[start : start + shape[0] * shape[1]]
    found = {}
    for column, metric in enumerate(metrics, start=3):
        cells = [row[column] for row in block]
        if not any(cells):
            continue
        try:
            values = np.array([float(cell) for cell in cells])
        except ValueError as error:
            lines = f"lines {start + 2} to {start + 1 + len(block)}"
            raise ResultsError(f"{path} {lines}, column {metric!r}: {error}.") from error
        found[metric] = np.ascontiguousarray(values.reshape(shape).T)
    return found


def _step(path: Path, line: int, cell: str) -> int:
    try:
        return int(cell)
    except ValueError as error:
        raise ResultsError(f"{path} line {line}: {cell!r} is not a step.") from error
