"""Workers of a Dask cluster as an engine."""

import contextlib
import json
import os
import pickle
import re
import threading
import time
import uuid
import warnings
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from pathlib import Path
from types import ModuleType
from typing import Any

from bilevel.comparison.engines.alone import Call
from bilevel.comparison.engines.base import AbstractEngine, Beat
from bilevel.comparison.engines.within import within
from bilevel.core.checks import check_positive_integer
from bilevel.core.optional import extra
from bilevel.errors import ArgumentError, EngineError, counted, spell

ADDRESS = re.compile(r"([a-z]+://)?([\w.-]+|\[[\da-fA-F:]+\]):(\d{1,5})")
SCHEMES = ("tcp", "tls", "ucx", "ws", "wss")
CONNECT = 10.0
"""Seconds within which a scheduler has to answer."""
PATIENCE = 300.0
"""Seconds within which a scheduler that is gone has to be back."""
ANSWER = 10.0
"""Seconds within which a worker, or a scheduler that is there, answers a question."""


class Dask(AbstractEngine):
    """Workers of a Dask cluster: each process of a worker computes one shard at a time.

    Dask gives the task of a worker that died to another one, by itself. A scheduler that is gone is
    waited for; what was submitted to it is submitted again to the one that is there then.

    Args:
        client: a `dask.distributed.Client`, its `get_executor()`, a cluster such as `LocalCluster`,
            or the address of a scheduler. A client stays the user's, who closes it.
        threads: of torch in every worker.

    Raises:
        MissingPackageError: dask.distributed is not installed; names the extra.
        EngineError: nobody answers at the address.
        ArgumentError: the client is asynchronous.
    """

    breaks = False  # it was the scheduler

    def __init__(self, client: Any, *, threads: int = 1) -> None:
        check_positive_integer(threads, "`threads`")
        distributed, self._options = _distributed(), {}
        if isinstance(client, distributed.cfexecutor.ClientExecutor):
            self._options = dict(client._kwargs)
            client = client._client
        self._own = not isinstance(client, distributed.Client)
        if isinstance(client, str):
            client = connected(client)
        elif self._own:
            client = distributed.Client(client, set_as_default=False)
        if client.asynchronous:
            raise ArgumentError(
                "`engine` is an asynchronous client of Dask: make it without `asynchronous=True`."
            )
        self._client, self._address = client, client.scheduler.address
        self._security = client.security
        self.name, self.threads = f"dask:{self._address}", threads
        processes = client.nthreads()
        self.workers = len(processes) or self.workers
        self._theirs: dict[Future[Any], Any] = {}
        if not processes:
            warnings.warn(
                f"No worker has joined the Dask scheduler at {self._address} yet: shards wait "
                f"until one does. Start some: dask worker {self._address} --nthreads 1",
                stacklevel=2,
            )

    @classmethod
    def named(cls, rest: str) -> "Dask":
        """The engine "dask:REST".

        Raises:
            ArgumentError: what follows the colon is no address.
            MissingPackageError: dask.distributed is not installed; names the extra.
            EngineError: nobody answers there.
        """
        return cls(address(rest))

    def submit(self, function: Callable[..., Any], /, *args: Any) -> "Future[Any]":
        """Have a function called by a worker."""
        mine: Future[Any] = Future()
        # a key of its own: a shard that failed would be the same task, which has failed already
        key = f"bilevel-shard-{uuid.uuid4().hex}"
        content = Call(function, *args).pickled()
        theirs = self._client.submit(pickle.loads, content, key=key, **self._options)
        self._theirs[mine] = theirs
        theirs.add_done_callback(lambda _: self._settle(mine))
        return mine

    def _settle(self, mine: "Future[Any]") -> None:
        """Hand on what became of a task; called in a thread of Dask."""
        theirs = self._theirs.get(mine)
        if theirs is None:
            return
        try:
            # what a worker has computed is lost with it, and then computed again
            found, error = theirs.result(timeout=PATIENCE), None
        except BaseException as raised:
            found, error = None, raised
        if self._theirs.pop(mine, None) is None or not mine.set_running_or_notify_cancel():
            return
        if error is None:
            mine.set_result(found)
        elif isinstance(error, CancelledError):  # a future of ours was not cancelled
            mine.set_exception(ConnectionError(str(error)))
        else:
            mine.set_exception(error)

    def renew(self, error: BaseException) -> bool:
        """Wait for a scheduler that is gone, and connect to it again.

        Raises:
            EngineError: it does not come back.
        """
        if self._client.status == "running" and "scheduler-connection-lost" not in str(error):
            return False
        until = time.monotonic() + PATIENCE
        while self._client.status != "running":
            if time.monotonic() > until:
                raise EngineError(
                    f"The Dask scheduler at {self._address} is gone, and was not back within "
                    f"{PATIENCE:.0f} seconds. What is finished is kept: go on when it is there, "
                    "or on another engine."
                ) from error
            time.sleep(0.1)
            if self._client.status == "closed":
                with contextlib.suppress(EngineError):
                    self._client, self._own = connected(self._address, self._security), True
        self._theirs.clear()
        return True

    def waits(self, future: Any, beat: Beat | None) -> bool:
        """Whether Dask holds a task back, or gave it to another process than that of the sign."""
        with contextlib.suppress(Exception):
            place = self._place(future)
            if place is None or beat is None:
                return True
            processes = within(
                ANSWER, self._client.run, os.getpid, workers=[place], on_error="return"
            )
            return isinstance(processes.get(place), int) and processes[place] != beat.process
        return False

    def _place(self, future: "Future[Any]") -> str | None:
        """The address of the worker that a task was given to."""
        theirs = self._theirs.get(future)
        given = within(ANSWER, self._client.processing)
        places = [place for place, keys in given.items() if theirs and theirs.key in keys]
        return places[0] if places else None

    def stop(self, future: Any, beat: Beat | None) -> None:
        """Cancel a task; the worker of one that is being computed is started anew by its nanny."""
        place = None
        with contextlib.suppress(Exception):  # who does not answer now has to cancel it later
            place = None if beat is None else self._place(future)
        with contextlib.suppress(Exception):
            theirs = self._theirs.pop(future, None)
            future.cancel()
            if theirs is not None:
                theirs.cancel()
            if place is not None:
                threading.Thread(target=_restart, args=(self._client, place)).start()

    def last_words(self, error: BaseException, beat: Beat | None) -> str:
        """What Dask says of a worker that died, and the nannies of a memory that was too small."""
        said = super().last_words(error, beat)
        if isinstance(error, TimeoutError):
            with contextlib.suppress(Exception):
                given = within(ANSWER, self._client.processing)
                busy = sum(map(bool, given.values()))
                if not given:
                    return f"no worker has joined the scheduler at {self._address}"
                return f"{counted(len(given), 'worker')} of Dask, {busy} with something to do"
        if not isinstance(error, _distributed().KilledWorker):
            return said
        logs: dict[str, Any] = {}
        with contextlib.suppress(Exception):
            logs = within(ANSWER, self._client.get_worker_logs, n=100, nanny=True)
        memory = sorted(
            f"{place}: {line}"
            for place, lines in logs.items()
            for _, line in lines
            if "memory budget" in line
        )
        return f"{said} {' '.join(memory[-1:])}".rstrip()

    def versions(self, packages: list[str]) -> dict[str, dict[str, str | None]]:
        """Versions of packages on the scheduler and on every worker, without a task."""
        found = within(ANSWER, self._client.get_versions, packages=packages)
        places = {"scheduler": found["scheduler"], **found["workers"]}
        return {place: dict(each["packages"]) for place, each in places.items() if each}

    def close(self) -> None:
        """Close the client, if it is ours."""
        if self._own:
            self._client.close(timeout=ANSWER)


def address(rest: str) -> str:
    """The address of a scheduler, as it was typed or as a scheduler file says.

    Raises:
        ArgumentError: it is none; says how one is written.
    """
    form = (
        "dask:tcp://host:8786, or dask:FILE.json with what `dask scheduler --scheduler-file "
        "FILE.json` wrote"
    )
    path = Path(rest)
    if rest.endswith(".json"):
        try:
            rest = str(json.loads(path.read_text(encoding="utf-8"))["address"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArgumentError(
                f"`engine` names {path}, which is no file of a Dask scheduler: {error!r}."
            ) from error
    found = ADDRESS.fullmatch(rest)
    if found is None or not 1 <= int(found[3]) <= 65535:
        port = "" if re.search(r":\d+$", rest) or not rest else ": the port is missing"
        raise ArgumentError(
            f"`engine` of Dask is written {form}; got {spell('dask:' + rest)}{port}."
        )
    scheme = (found[1] or "tcp://").removesuffix("://")
    if scheme not in SCHEMES:
        raise ArgumentError(
            f"`engine` of Dask is written {form}; {scheme}:// is no way to reach a scheduler (the "
            "page of its dashboard has another port than the scheduler)."
        )
    return f"{scheme}://{found[2]}:{found[3]}"


def connected(place: str, security: Any = None) -> Any:
    """A client of the scheduler at an address.

    Raises:
        EngineError: nobody answers there.
    """
    distributed = _distributed()
    try:
        return distributed.Client(
            place, timeout=CONNECT, set_as_default=False, security=security, name="bilevel"
        )
    except (OSError, TimeoutError, ValueError, RuntimeError) as error:
        raise EngineError(
            f"No Dask scheduler answers at {place} within {CONNECT:.0f} seconds. Is it running "
            "(`dask scheduler` prints its address when it starts), can this machine reach it, and "
            f"are the versions of dask alike? {type(error).__name__}: {error}"
        ) from error


def _restart(client: Any, place: str) -> None:
    with contextlib.suppress(Exception):
        client.restart_workers([place], timeout=ANSWER, raise_for_error=False)


def _distributed() -> ModuleType:
    return extra("distributed", "dask", "An engine of Dask")
