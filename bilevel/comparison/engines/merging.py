"""What became of strategies whose runs were trained in shards."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bilevel.bounds.heads import BoundKind
from bilevel.comparison.engines.answers import History, Result
from bilevel.comparison.engines.shards import Shard
from bilevel.comparison.side_by_side import Alike, Outcome
from bilevel.core.status import Status

Table = Mapping[str, NDArray[np.float64]]


class Known(NamedTuple):
    """What is known of a stage before it is trained.

    Attributes:
        groups: the strategies of each group of equal structure.
        bound: see `Outcome`.
        alike: whose runs may be one.
    """

    groups: list[tuple[str, ...]]
    bound: tuple[BoundKind, str]
    alike: Alike


def merged(
    shards: Iterable[Shard], results: Mapping[Shard, Result], known: Known, *, interrupted: bool
) -> Outcome:
    """The outcome that one process would have had, by the results of all shards.

    After Ctrl-C, a strategy is told of as far as all its runs came.

    Raises:
        KeyboardInterrupt: nothing was recorded before it was pressed.
    """
    of: dict[str, list[Shard]] = {}
    for shard in shards:
        for name in shard.strategies:
            of.setdefault(name, []).append(shard)
    history: History = {}
    status, heads = {}, {}
    for names in known.groups:
        longest = _longest(results[shard] for name in names for shard in of[name]
                           if shard in results)  # fmt: skip
        for name in names:
            found = [results.get(shard) for shard in of[name]]
            there = [result for result in found if result is not None and name in result.history]
            if len(there) < len(found):  # Ctrl-C came before its first record
                continue
            cut = [len(_some(result.history[name])) for result in there if result.interrupted]
            length = min(cut, default=len(_some(longest)))
            history[name] = _joined([_told(r, name, longest, length) for r in there])
            codes = [code for result in there for code in result.status[name]]
            if cut:
                codes = [code if Status[code].failed else "INTERRUPTED" for code in codes]
                heads[name] = [code for result in there for code in result.heads[name]]
            status[name] = codes
    if not history:
        raise KeyboardInterrupt
    same = known.alike.turned_out(history)
    return Outcome(history, status, heads, same, known.bound, interrupted)


def _some(table: Table) -> NDArray[np.float64]:
    """One of the metrics: all have as many records."""
    return next(iter(table.values()))


def _longest(results: Iterable[Result]) -> Table:
    """Metrics of the runs of a group that were recorded most often."""
    tables = [table for result in results for table in result.history.values()]
    return max(tables, key=lambda table: len(_some(table)), default={})


def _told(result: Result, name: str, longest: Table, length: int) -> Table:
    """The records of a strategy in a shard, in as many as there shall be.

    A training ends when all its runs have ended. Had others been trained beside them, they would
    have been recorded to the end, where they stopped; what is recorded seldom, no more often.
    """
    table = result.history[name]
    missing = length - len(_some(table))
    if missing <= 0:
        return {metric: values[:length] for metric, values in table.items()}
    told = {}
    for metric, values in table.items():
        more = np.repeat(values[-1:], missing, axis=0)
        if metric in longest:
            more[np.isnan(longest[metric][len(values) : length]).all(1)] = np.nan
        told[metric] = np.concatenate([values, more])
    return told


def _joined(tables: list[Table]) -> dict[str, NDArray[np.float64]]:
    """The runs of all shards side by side; NaN where one lacks a metric."""
    metrics = dict.fromkeys(metric for table in tables for metric in table)
    lacking = [np.full_like(_some(table), np.nan) for table in tables]
    return {
        metric: np.concatenate(
            [table.get(metric, nothing) for table, nothing in zip(tables, lacking, strict=True)], 1
        )
        for metric in metrics
    }
