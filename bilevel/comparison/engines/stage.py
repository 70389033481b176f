"""A stage of a comparison, seen from the process that has its shards computed."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bilevel.comparison.budget import Budget
from bilevel.comparison.checkpoint import digest_of
from bilevel.comparison.engines import work
from bilevel.comparison.engines.answers import Result
from bilevel.comparison.engines.base import AbstractEngine, Beat, Future
from bilevel.comparison.engines.files import ShardFiles
from bilevel.comparison.engines.jobs import Fingerprint, Packed, fingerprint
from bilevel.comparison.engines.shards import Shard
from bilevel.comparison.side_by_side import Progress, SideBySide
from bilevel.core import parts

OFTEN = 0.1
"""Seconds between what is told of shards that are done."""


class Place(NamedTuple):
    """Where a comparison is kept.

    Attributes:
        folder: absolute; None: nowhere.
        seal: what tells it from other folders of that name, on other machines.
        digest: of what the comparison is.
        session: a name for this process.
    """

    folder: Path | None
    seal: str
    digest: str
    session: str

    def files(self, shard: Shard) -> ShardFiles | None:
        """Those of a shard."""
        return None if self.folder is None else ShardFiles(self.folder, shard.name)


class Stage:
    """Shards of a stage, and what came of them; what `Dispatch` asks of `Work`.

    Args:
        engine: where they are computed.
        place: where they are kept.
        side_by_side: the strategies.
        budget: how far.
        shards: all of the stage.
        packed: what workers are sent.
    """

    def __init__(
        self,
        engine: AbstractEngine,
        place: Place,
        side_by_side: SideBySide,
        budget: Budget,
        shards: Sequence[Shard],
        packed: Packed,
    ) -> None:
        self._engine, self._place, self._budget = engine, place, budget
        self._data, self._stage = side_by_side.data, side_by_side.stage
        self._callback = side_by_side.options.callback
        self._signatures = {
            name: parts.signature(strategy) for name, strategy in side_by_side.strategies.items()
        }
        self._shards, self._whole, self._packed = shards, packed, packed
        if place.folder is not None:
            self._packed = packed.beside(place.folder)
        self._shared: Fingerprint | None = None
        self._running: dict[Shard, int] = {}
        self._finished = self._runs = 0
        self._total = sum(map(_runs, shards))
        self._told = 0.0
        self.results: dict[Shard, Result] = {}

    def missing(self) -> list[Shard]:
        """The shards without a result; the results of the others are read."""
        for shard in self._shards:
            files = self._place.files(shard)
            if files is not None and (found := files.result(self.digest(shard))) is not None:
                self._take(shard, found)
        return [shard for shard in self._shards if shard not in self.results]

    def digest(self, shard: Shard) -> str:
        """Of what the files of a shard belong to."""
        strategies = [[name, self._signatures[name]] for name in shard.strategies]
        return digest_of([self._place.digest, shard.stage, strategies, list(shard.seeds)])

    def submit(self, shard: Shard, attempt: str, fewer: int) -> Future:
        """Submit a shard."""
        place, files = self._place, self._place.files(shard)
        if files is not None:
            files.claim(attempt)
        task = work.Task(
            packed=self._packed,
            folder="" if place.folder is None else str(place.folder),
            seal=place.seal,
            name=shard.name,
            digest=self.digest(shard),
            strategies=shard.strategies,
            seeds=shard.seeds,
            data=self._fingerprint(shard),
            attempt=attempt,
            session=place.session,
            threads=self._engine.threads,
            fewer=fewer,
        )
        return self._engine.submit(work.compute, task)

    def _fingerprint(self, shard: Shard) -> Fingerprint:
        """Of the data of a shard."""
        if self._data.per_seed:
            first = self._data.seeds.index(shard.seeds[0])
            return fingerprint(self._data.part(slice(first, first + len(shard.seeds))))
        if self._shared is None:
            self._shared = fingerprint(self._data)
        return self._shared

    def heard(self, shard: Shard, attempt: str) -> tuple[int, Beat] | None:
        """The last sign of life of an attempt."""
        files = self._place.files(shard)
        return None if files is None else files.heard(attempt)

    def done(self, shard: Shard, result: Result, kept: bool) -> None:
        """Take a result; the first one counts."""
        if shard in self.results and not self.results[shard].interrupted:
            return
        self._take(shard, result)
        files = self._place.files(shard)
        if files is not None and not kept and not result.interrupted:
            files.keep(result, self.digest(shard))
        last = self._finished == len(self._shards)
        if last or time.monotonic() - self._told > OFTEN:
            self.tell(self._running)

    def _take(self, shard: Shard, result: Result) -> None:
        self.results[shard] = result
        if not result.interrupted:
            self._finished, self._runs = self._finished + 1, self._runs + _runs(shard)

    def lacks(self) -> None:
        """Send all from now on."""
        self._packed = self._whole

    def tell(self, running: dict[Shard, int]) -> None:
        """Tell the callback how far it is, by the mean over all runs."""
        self._running = running
        if self._callback is None:
            return
        self._told, steps = time.monotonic(), self._budget.total
        under_way = sum(
            _runs(shard) * step for shard, step in running.items() if shard not in self.results
        )
        mean = (self._runs * steps + under_way) // self._total
        names, counts = tuple(self._signatures), (self._finished, len(self._shards))
        place = (mean, steps, 0, len(names), self._stage, self._budget.kind, counts)
        self._callback(Progress(names, *place))

    def ask_to_stop(self) -> None:
        """Ask shards to end; whoever waits for progress is told no more."""
        self._callback = None
        if self._place.folder is not None:
            ShardFiles(self._place.folder, "").ask_to_stop(self._place.session)


def _runs(shard: Shard) -> int:
    return len(shard.strategies) * len(shard.seeds)
