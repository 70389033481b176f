"""Attempts at shards that were submitted and are not over, and which of them is over next."""

import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bilevel.comparison.engines.base import Beat, Future
from bilevel.comparison.engines.shards import Shard

POLL = 0.01
"""Seconds between looks at futures that say only when asked that they are done."""


@dataclass(eq=False)
class Flight:
    """An attempt at a shard.

    Attributes:
        shard: which one.
        attempt: its name.
        future: of the engine.
        heard: when it last gave a sign of life, or was submitted.
        count: the number of that sign.
        beat: what it said.
    """

    shard: Shard
    attempt: str
    future: Future
    heard: float
    count: int = -1
    beat: Beat | None = None


class Flights:
    """All attempts that are under way."""

    def __init__(self) -> None:
        self._flights: dict[int, Flight] = {}
        self._tickets = itertools.count()
        self._landed: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._polled: set[int] = set()

    def __len__(self) -> int:
        return len(self._flights)

    def __iter__(self) -> Iterator[Flight]:
        return iter(list(self._flights.values()))

    def add(self, shard: Shard, attempt: str, future: Any) -> None:
        """Wait for one more."""
        ticket = next(self._tickets)
        self._flights[ticket] = Flight(shard, attempt, future, time.monotonic())
        if hasattr(future, "add_done_callback"):
            future.add_done_callback(lambda _: self._landed.put(ticket))
        elif hasattr(future, "done"):
            self._polled.add(ticket)
        else:
            threading.Thread(target=self._watch, args=(future, ticket), daemon=True).start()

    def _watch(self, future: Future, ticket: int) -> None:
        """Wait for a future that can do nothing else."""
        with contextlib.suppress(BaseException):
            future.result()
        self._landed.put(ticket)

    def give_up(self, flights: list[Flight]) -> None:
        """Wait for some no more, whatever becomes of them."""
        gone = set(flights)
        self._flights = {
            ticket: flight for ticket, flight in self._flights.items() if flight not in gone
        }

    def next_over(self, seconds: float) -> Flight | None:
        """One that is over, which is none of them any more; None: none was for so long."""
        until = time.monotonic() + seconds
        while True:
            self._polled &= self._flights.keys()
            for ticket in self._polled:
                if self._flights[ticket].future.done():  # type: ignore[attr-defined]
                    self._landed.put(ticket)
            left = max(0.0, until - time.monotonic())
            try:
                ticket = self._landed.get(timeout=min(left, POLL) if self._polled else left)
            except queue.Empty:
                if left == 0.0:
                    return None
                continue
            flight = self._flights.pop(ticket, None)
            if flight is not None:
                return flight


def has_result(future: Any) -> bool:
    """Whether a future is done, with a result; False where it cannot be asked."""
    if not hasattr(future, "done") or not future.done():
        return False
    try:
        future.result()
    except KeyboardInterrupt:
        raise
    except BaseException:  # of whatever the engine is
        return False
    return True
