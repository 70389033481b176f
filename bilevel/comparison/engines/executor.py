"""An executor of the user's own as an engine."""

import contextlib
import multiprocessing
import platform
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

from bilevel.comparison.engines.alone import alone
from bilevel.comparison.engines.base import AbstractEngine, Beat, Future
from bilevel.errors import ArgumentError


class Executor(AbstractEngine):
    """Anything with `submit(function, *args)`, such as those of `concurrent.futures`.

    A `ProcessPoolExecutor` that a killed worker broke is made anew, with as many workers. Threads
    compute one shard at a time, since settings of torch belong to the process.

    Args:
        executor: it stays the user's, who shuts it down.

    Raises:
        ArgumentError: its processes are forked.
    """

    def __init__(self, executor: Any) -> None:
        self.name, self._executor, self._made = type(executor).__name__, executor, False
        self.workers = getattr(executor, "_max_workers", None) or self.workers
        if isinstance(executor, ProcessPoolExecutor):
            self.window, self.same_machine = self.workers, True
            context = getattr(executor, "_mp_context", None)
            if context is not None and context.get_start_method() == "fork":
                raise ArgumentError(
                    "`engine` forks its processes, which threads of torch do not survive: make it "
                    'with `mp_context=multiprocessing.get_context("spawn")`, or pass '
                    f'engine="processes:{self.workers}".'
                )

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future:
        """Have a function called by the executor."""
        if isinstance(self._executor, ThreadPoolExecutor):
            return self._executor.submit(alone, function, *args)
        return self._executor.submit(function, *args)  # type: ignore[no-any-return]

    def renew(self, error: BaseException) -> bool:
        """Make a pool of processes anew."""
        old = self._executor
        if not isinstance(error, BrokenExecutor) or not isinstance(old, ProcessPoolExecutor):
            return False
        old.shutdown(wait=False, cancel_futures=True)
        held = vars(old)
        self._executor, self._made = (
            ProcessPoolExecutor(
                self.workers,
                held.get("_mp_context"),
                initializer=held.get("_initializer"),
                initargs=held.get("_initargs", ()),
                max_tasks_per_child=held.get("_max_tasks_per_child"),
            ),
            True,
        )
        return True

    def stop(self, future: Any, beat: Beat | None) -> None:
        """Cancel it; if it is running in a process of this one, kill that."""
        with contextlib.suppress(Exception):  # of whatever the executor is
            if future.cancel():
                return
        here = beat is not None and beat.host == platform.node()
        for process in multiprocessing.active_children():
            if here and beat is not None and process.pid == beat.process:
                process.kill()

    def close(self) -> None:
        """Shut down the pool that was made anew, if one was."""
        if self._made:
            self._executor.shutdown(wait=True, cancel_futures=True)
