"""Shards on their way to workers and back: until all are done, whatever becomes of the workers."""

import contextlib
import itertools
import time
from collections import Counter, deque
from collections.abc import Iterable
from typing import Protocol

from bilevel import errors
from bilevel.comparison.engines.answers import Answer, Result, Trouble
from bilevel.comparison.engines.base import AbstractEngine, Beat, Future
from bilevel.comparison.engines.flights import Flight, Flights, has_result
from bilevel.comparison.engines.shards import Shard
from bilevel.core.signals import uninterrupted
from bilevel.errors import BilevelError, EngineError, counted

AGAIN = 3
"""How often a shard is submitted again."""
TICK = 0.5
"""Seconds between looks at signs of life."""
LOOKED_AT = 200
"""Shards that are looked at each time: thousands may wait on a cluster."""
GRACE = 10.0
"""Seconds that shards are given to end after Ctrl-C."""
PAUSED = 10.0
"""Seconds without a look, as after Ctrl-Z: nobody was listened to."""
BREAKS = 10
"""How often an engine may break with no shard coming to its end in between."""
HOPELESS = 3
"""Shards that fail for good, before any comes to its end, and end all."""


class Work(Protocol):
    """What shards are for."""

    def submit(self, shard: Shard, attempt: str, fewer: int) -> Future:
        """Submit it, with a name for the attempt, in so many parts of the memory."""

    def heard(self, shard: Shard, attempt: str) -> tuple[int, Beat] | None:
        """The number of its last sign of life, and what it says."""

    def done(self, shard: Shard, result: Result, kept: bool) -> None:
        """Take a result, which the worker has `kept` in the folder, or not."""

    def lacks(self) -> None:
        """Workers do not see the folder: send what would lie there."""

    def tell(self, running: dict[Shard, int]) -> None:
        """Tell how far it is; the steps of the shards that are being computed."""

    def ask_to_stop(self) -> None:
        """Ask shards to end at their next record."""


class Dispatch:
    """Has shards computed by an engine.

    Args:
        engine: where.
        work: what for.
        shards: which.
        session: a name that begins those of attempts.
    """

    def __init__(
        self, engine: AbstractEngine, work: Work, shards: Iterable[Shard], session: str
    ) -> None:
        self._engine, self._work = engine, work
        self._attempts = (f"{session}-{i}" for i in itertools.count())
        self._waiting = deque(sorted(shards, key=lambda shard: -shard.weight))  # the long ones soon
        self._flights = Flights()
        self._lost: Counter[Shard] = Counter()
        self._fewer: Counter[Shard] = Counter()
        self._suspects: set[Shard] = set()
        self._failed: dict[Shard, str] = {}
        self._finished = self._breaks = 0
        self._ring: deque[Flight] = deque()
        self._beats, self._looked = False, 0.0

    def run(self) -> bool:
        """Until all are done; False if Ctrl-C ended it before.

        Raises:
            EngineError: shards failed four times, or the engine is gone. All others are done.
            BilevelError: what a shard raised that would raise it again, and so would others.
        """
        try:
            while self._waiting or self._flights:
                while (shard := self._next()) is not None:
                    self._launch(shard)
                self._wait()
        except KeyboardInterrupt:
            self._end()
            return False
        except BaseException:
            self._work.ask_to_stop()
            with contextlib.suppress(Exception):  # the first one is said
                self._collect()
            raise
        finally:
            self._give_up(list(self._flights))
        if self._failed:
            raise self._failure()
        return True

    def _next(self) -> Shard | None:
        """The next one to submit, if one may be submitted now."""
        window = self._engine.window
        if not self._waiting or (window is not None and len(self._flights) >= window):
            return None
        if self._suspects:
            if any(flight.shard in self._suspects for flight in self._flights):
                return None  # it is alone
            others = (i for i, shard in enumerate(self._waiting) if shard not in self._suspects)
            if (place := next(others, None)) is not None:
                shard = self._waiting[place]
                del self._waiting[place]
                return shard
            if self._flights:
                return None
        return self._waiting.popleft()

    def _launch(self, shard: Shard) -> None:
        attempt = next(self._attempts)
        try:
            future = self._work.submit(shard, attempt, 2 ** self._fewer[shard])
        except BilevelError:
            raise
        except Exception as error:  # of whatever the engine is
            self._waiting.appendleft(shard)
            self._broke(error)
            if not self._engine.renew(error):
                raise EngineError(
                    f"Nothing can be submitted to {self._engine.name}: "
                    f"{self._engine.last_words(error, None)}."
                ) from error
            others = self._void()
            self._suspects |= set(others if self._engine.breaks else [])
            return
        self._flights.add(shard, attempt, future)

    def _wait(self) -> None:
        """Take what is over; look at the others now and then."""
        flight = self._flights.next_over(TICK)
        while flight is not None:
            self._over(flight)
            while (shard := self._next()) is not None:  # workers should not wait
                self._launch(shard)
            flight = self._flights.next_over(0.0)
        if (since := time.monotonic() - self._looked) >= TICK:
            if self._looked and since > PAUSED:
                for flight in self._flights:
                    flight.heard += since
            self._looked = time.monotonic()
            self._look()
            self._tell()

    def _tell(self) -> None:
        self._work.tell({
            flight.shard: flight.beat.step
            for flight in self._flights
            if flight.beat is not None
        })  # fmt: skip

    def _over(self, flight: Flight) -> None:
        """What became of an attempt."""
        try:
            answer = flight.future.result()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # of whatever the engine is
            self._crashed(flight, error)
            return
        self._answered(flight.shard, answer)

    def _answered(self, shard: Shard, answer: Answer) -> None:
        self._suspects.discard(shard)
        if answer.lacks:
            self._work.lacks()
            self._waiting.appendleft(shard)
        elif answer.result is not None and answer.result.interrupted:
            self._take(shard, answer)
            raise KeyboardInterrupt  # it went to the worker
        elif answer.result is not None:
            self._finished, self._breaks = self._finished + 1, 0
            self._take(shard, answer)
        elif answer.trouble is not None:
            self._troubled(shard, answer.trouble)

    def _take(self, shard: Shard, answer: Answer) -> None:
        """What Ctrl-C broke off would be computed again."""
        if answer.result is not None:
            with uninterrupted():
                self._work.done(shard, answer.result, answer.kept)

    def _troubled(self, shard: Shard, trouble: Trouble) -> None:
        """An error inside of a shard: one of arguments ends all, others may be of a worker."""
        if trouble.final:
            kind = getattr(errors, trouble.kind, EngineError)
            raise kind(f"{trouble.text} (in shard {shard})")
        self._fewer[shard] += trouble.memory
        said = f"{trouble.kind}: {trouble.text}".rstrip(": ")
        self._count(shard, said, trouble.where)

    def _count(self, shard: Shard, words: str, where: str = "") -> None:
        """A shard was lost once more."""
        self._lost[shard] += 1
        if self._lost[shard] <= AGAIN:
            self._waiting.appendleft(shard)
            return
        self._failed[shard] = f"{words}\n{where}".rstrip()
        if len(self._failed) >= HOPELESS and not self._finished:
            raise self._failure()

    def _crashed(self, flight: Flight, error: BaseException) -> None:
        """A worker is lost, or all of them."""
        self._hear(flight)
        words = self._engine.last_words(error, flight.beat)
        if flight.beat is not None:
            words += f" (last heard at step {flight.beat.step:,})"
        if not self._engine.renew(error):
            self._suspects.discard(flight.shard)
            self._count(flight.shard, words)
            return
        self._broke(error)
        others = self._void()
        if not self._engine.breaks:
            self._waiting.appendleft(flight.shard)
        elif others:  # one of them did it, nobody knows which: each is tried alone
            self._suspects |= {flight.shard, *others}
            self._waiting.appendleft(flight.shard)
        else:
            self._suspects.discard(flight.shard)
            self._count(flight.shard, words)

    def _broke(self, error: BaseException) -> None:
        self._breaks += 1
        if self._breaks > BREAKS:
            raise EngineError(
                f"{self._engine.name} broke {counted(self._breaks, 'time')}, and no shard came to "
                f"its end in between: {self._engine.last_words(error, None)}."
            ) from error

    def _void(self) -> list[Shard]:
        """Submit again what was under way when an engine broke; those that were being computed."""
        lost = [flight for flight in self._flights if not has_result(flight.future)]
        self._flights.give_up(lost)
        self._waiting.extendleft(flight.shard for flight in lost)
        at_once = self._engine.window is not None
        return [flight.shard for flight in lost if at_once or flight.beat is not None]

    def _look(self) -> None:
        """Hear signs of life; give up those without."""
        now = time.monotonic()
        if not self._ring:
            self._ring.extend(self._flights)
        under_way, silent = set(self._flights), []
        for _ in range(min(LOOKED_AT, len(self._ring))):
            flight = self._ring.popleft()
            if flight not in under_way:
                continue
            if not self._hear(flight) and self._timed_out(flight, now):
                silent.append(flight)
        self._give_up(silent)
        for flight in silent:
            last = "" if flight.beat is None else f", the last at step {flight.beat.step:,}"
            self._suspects.discard(flight.shard)
            said_nothing = f"it gave no sign of life for {self._engine.timeout:g} seconds{last}"
            self._count(flight.shard, said_nothing)

    def _hear(self, flight: Flight) -> bool:
        """Whether it gave a sign of life since the last look."""
        said = self._work.heard(flight.shard, flight.attempt)
        if said is None or said[0] == flight.count:
            return False
        self._beats, flight.heard = True, time.monotonic()
        flight.count, flight.beat = said
        return True

    def _timed_out(self, flight: Flight, now: float) -> bool:
        """Whether it should have been heard since; who may wait for its turn need not."""
        limit, engine = self._engine.timeout, self._engine
        if limit is None or now - flight.heard <= limit:
            return False
        at_once = engine.window is not None and engine.window <= engine.workers
        if flight.beat is None and not (at_once and self._beats):
            return False
        if engine.waits(flight.future, flight.beat):
            flight.heard = now
            return False
        return True

    def _give_up(self, flights: list[Flight]) -> None:
        """Wait for some no more, and free their workers."""
        self._flights.give_up(flights)
        for flight in flights:
            self._engine.stop(flight.future, flight.beat)

    def _end(self) -> None:
        """After Ctrl-C: what waits is cancelled, what is computed may come to its next record."""
        self._work.ask_to_stop()
        until = time.monotonic() + GRACE
        with contextlib.suppress(KeyboardInterrupt):  # who cannot wait presses it again
            for flight in self._flights:
                self._hear(flight)
            self._give_up([flight for flight in self._flights if flight.beat is None])
            while self._flights and (left := until - time.monotonic()) > 0:
                self._collect(left)

    def _collect(self, seconds: float = 0.0) -> None:
        """Take the results that are there, whatever ended all."""
        flight = self._flights.next_over(seconds)
        while flight is not None:
            try:
                answer: Answer | None = flight.future.result()
            except KeyboardInterrupt:
                raise
            except BaseException:  # of whatever the engine is
                answer = None
            if answer is not None:
                self._take(flight.shard, answer)
            flight = self._flights.next_over(0.0)

    def _failure(self) -> EngineError:
        """What to say of shards that failed for good."""
        shard, words = next(iter(self._failed.items()))
        others = len(self._failed) - 1
        more = f" So did {counted(others, 'other shard')}." if others else ""
        return EngineError(
            f"Shard {shard} failed {AGAIN + 1} times on {self._engine.name}.{more} The last words "
            f"of its worker: {words}"
        )
