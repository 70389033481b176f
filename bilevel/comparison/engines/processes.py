"""Processes of this machine."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import Any

from bilevel.comparison.engines.base import AbstractEngine, Beat
from bilevel.core.checks import check_positive_integer
from bilevel.errors import ArgumentError, spell

MOST = 1024
SPAWN = multiprocessing.get_context("spawn")
"""Threads of torch do not survive a fork."""
STARTING = threading.Lock()
"""Held while a process is started, for which things are changed that belong to this one."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
PATIENCE = 5.0
"""Seconds that a process is given to end."""


class Processes(AbstractEngine):
    """Processes of this machine, each a pool of its own.

    A process that is killed breaks its whole pool: one that holds a single process takes no other
    shard with it, and says which shard it was. It is made anew when the next one is submitted.

    Args:
        workers: how many processes.
        threads: of torch in each.
    """

    def __init__(self, workers: int, threads: int = 1) -> None:
        check_positive_integer(workers, "`workers`")
        check_positive_integer(threads, "`threads`")
        self.name, self.workers, self.threads = f"processes:{workers}", workers, threads
        self.window, self.same_machine = workers, True
        self._slots = [_Slot(threads) for _ in range(workers)]

    @classmethod
    def named(cls, rest: str) -> "Processes":
        """The engine "processes:REST".

        Raises:
            ArgumentError: what follows the colon is no number of processes.
        """
        if not rest.isascii() or not rest.isdigit() or not 1 <= int(rest[:9]) <= MOST:
            raise ArgumentError(
                f"`engine` of processes is written such as processes:4, with a number from 1 to "
                f"{MOST:,}, got {spell('processes:' + rest)}."
            )
        return cls(int(rest))

    def submit(self, function: Callable[..., Any], /, *args: Any) -> "Future[Any]":
        """Have a function called in the process that has least to do."""
        slot = min(self._slots, key=lambda slot: slot.unfinished)
        return slot.submit(function, *args)

    def stop(self, future: Any, beat: Beat | None) -> None:
        """Kill the process that is busy with a future."""
        if not future.cancel():
            for slot in self._slots:
                slot.kill(future)

    def last_words(self, error: BaseException, beat: Beat | None) -> str:
        """How the process ended."""
        for slot in self._slots:
            if beat is not None and beat.process in slot.processes:
                return _how_it_ended(slot.processes[beat.process])
        return super().last_words(error, beat)

    def close(self) -> None:
        """End all processes, those that are busy too."""
        for slot in self._slots:
            slot.end()
        for slot in self._slots:
            slot.close()


class _Slot:
    """A pool of one process, and what it is busy with."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.processes: dict[int, Any] = {}
        self._pool: ProcessPoolExecutor | None = None
        self._process: Any = None
        self._futures: list[Future[Any]] = []
        self._buried: list[ProcessPoolExecutor] = []

    @property
    def unfinished(self) -> int:
        self._futures = [future for future in self._futures if not future.done()]
        return len(self._futures)

    def submit(self, function: Callable[..., Any], *args: Any) -> "Future[Any]":
        try:
            return self._submit(function, *args)
        except BrokenProcessPool:  # since the last time
            self._bury()
            return self._submit(function, *args)

    def _submit(self, function: Callable[..., Any], *args: Any) -> "Future[Any]":
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, SPAWN, initializer=_watch_parent)
        environment = dict.fromkeys(THREADS, str(self.threads))
        # Ctrl-C comes after it, when it is known what is to be ended
        with STARTING, _undisturbed(), _environment(environment):
            before = set(multiprocessing.active_children())
            future = self._pool.submit(function, *args)
            for process in set(multiprocessing.active_children()) - before:
                self._process = self.processes[process.pid or 0] = process
            self._futures.append(future)
        return future

    def _bury(self) -> None:
        """Forget a pool that is broken, and what it was busy with."""
        if self._pool is not None:
            self._buried.append(self._pool)
        self._pool, self._process, self._futures = None, None, []

    def kill(self, future: "Future[Any]") -> None:
        if future in self._futures and self._process is not None:
            self._process.kill()
            self._bury()  # its pool takes a while to see it, and would take the next shard with it

    def end(self) -> None:
        if self._pool is not None and self.unfinished and self._process is not None:
            self._process.kill()

    def close(self) -> None:
        self._bury()
        while self._buried:  # waited for: at its end Python would wake a pool that closes
            self._buried.pop().shutdown(wait=True, cancel_futures=True)


def _how_it_ended(process: Any) -> str:
    """What became of a process, in words."""
    code, until = process.exitcode, time.monotonic() + PATIENCE
    while code is None and time.monotonic() < until:
        time.sleep(0.01)  # its pool waits for it in a thread, and knows first
        code = process.exitcode
    if code is None or code >= 0:
        return f"its process ended with the exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    why = ", as the system kills where memory runs out" if name == "SIGKILL" else ""
    return f"its process was killed by {name}{why}"


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """A process that is started here does not run the script of the user, nor hear its Ctrl-C.

    Python has a process that it starts run the main script again, for what is pickled by the names
    in it. What we send needs none of that, and a script that calls `compare` outside of an
    `if __name__ == "__main__"` would go round in a circle.
    """
    main, quiet = sys.modules["__main__"], hasattr(signal, "pthread_sigmask")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if quiet else set()
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        if quiet:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Variables that processes which are started here find, before they import anything."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _watch_parent() -> None:
    """End with the process that this one works for: a pool would wait for it for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:

        def watch() -> None:
            connection.wait([parent.sentinel])
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()
