"""Workers of Dask: what they are given, what became of it, and everything that may be lost."""

import asyncio
import os
import signal
import sys

import pytest
from dask_cluster import dask_cluster
from distributed import Client
from worker_tasks import fails, killed, killed_first, noted, processes, wait_for

from bilevel.comparison.engines import dask
from bilevel.comparison.engines.base import Beat
from bilevel.comparison.engines.dask import Dask
from bilevel.comparison.engines.named import engine_of
from bilevel.errors import ArgumentError, EngineError, MissingPackageError

SECONDS = 240


def test_what_people_have_is_an_engine(client, cluster):
    for given in (
        client,
        client.get_executor(retries=1),
        cluster,
        f"dask:{client.scheduler.address}",
    ):
        engine = engine_of(given)
        assert isinstance(engine, Dask)
        assert (engine.workers, engine.window) == (2, None)
        assert engine.name == f"dask:{client.scheduler.address}"
        assert engine.submit(max, 3, 4).result(SECONDS) == 4
        engine.close()
    assert client.status == "running"  # it is the user's


def test_every_shard_is_a_task_of_its_own_and_says_what_it_raised(engine, tmp_path):
    futures = [engine.submit(noted, str(tmp_path / "seen")) for _ in range(5)]
    found = {future.result(SECONDS) for future in futures}
    assert len(processes(tmp_path / "seen")) == 5
    assert found == set(processes(tmp_path / "seen"))
    error = engine.submit(fails).exception(SECONDS)
    assert (type(error), str(error)) == (ValueError, "said by the task")
    assert engine.renew(error) is False
    assert engine.last_words(error, None) == "ValueError: said by the task"


def test_the_shard_of_a_worker_that_is_killed_is_computed_by_another_one(engine, tmp_path):
    found = engine.submit(killed_first, str(tmp_path / "seen")).result(SECONDS)
    first, second = processes(tmp_path / "seen")
    assert first != second == found


def test_a_shard_that_kills_its_workers_is_reported(engine, cluster, monkeypatch, tmp_path):
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 1)
    error = engine.submit(killed, str(tmp_path / "seen")).exception(SECONDS)
    assert len(processes(tmp_path / "seen")) == 2
    words = engine.last_words(error, None)
    assert "on 2 different workers, but all those workers died" in words
    assert engine.renew(error) is False


def test_a_worker_that_hangs_is_started_anew(engine, tmp_path):
    path = tmp_path / "seen"
    future = engine.submit(noted, str(path), 600)
    (process,) = wait_for(lambda: processes(path))
    beat = Beat("here", process, 0)
    assert engine.waits(future, beat) is False  # it is computed where the sign came from
    assert engine.waits(future, Beat("here", 1, 0)) is True  # that process is gone
    engine.stop(future, beat)
    assert future.cancelled()
    wait_for(lambda: not _alive(process))
    assert engine.submit(max, 1, 2).result(SECONDS) == 2


def test_a_worker_that_never_answers_has_timed_out(engine, monkeypatch, tmp_path):
    monkeypatch.setattr(dask, "ANSWER", 0.5)
    path = tmp_path / "seen"
    future = engine.submit(noted, str(path), 600)
    (process,) = wait_for(lambda: processes(path))
    os.kill(process, signal.SIGSTOP)
    assert engine.waits(future, Beat("here", process, 0)) is False
    engine.stop(future, Beat("here", process, 0))
    wait_for(lambda: not _alive(process))


def test_what_is_queued_has_not_timed_out(engine, tmp_path):
    running = [engine.submit(noted, str(tmp_path / f"{i}"), 600) for i in range(2)]
    wait_for(lambda: all(processes(tmp_path / f"{i}") for i in range(2)))
    queued = engine.submit(noted, str(tmp_path / "queued"))
    assert engine.waits(queued, None) is True
    words = engine.last_words(TimeoutError(), None)
    assert words == "2 workers of Dask, 2 with something to do"
    engine.stop(queued, None)
    for i, future in enumerate(running):
        engine.stop(future, Beat("here", processes(tmp_path / f"{i}")[0], 0))
    assert engine.submit(max, 1, 2).result(SECONDS) == 2
    assert not processes(tmp_path / "queued")


def test_a_scheduler_that_is_started_anew_is_waited_for(tmp_path, monkeypatch):
    with dask_cluster(tmp_path) as commands:
        scheduler = commands.scheduler()
        wait_for(commands.answers)
        with pytest.warns(UserWarning, match="No worker has joined the Dask scheduler at tcp"):
            engine = engine_of(f"dask:{commands.address}")
        commands.worker()
        lost = engine.submit(noted, str(tmp_path / "seen"), 3)
        wait_for(lambda: processes(tmp_path / "seen"))
        scheduler.kill()
        error = lost.exception(SECONDS)
        assert isinstance(error, ConnectionError)
        assert "scheduler-connection-lost" in str(error)
        scheduler.wait()
        commands.scheduler()
        commands.worker()
        assert engine.renew(error) is True
        assert engine.submit(max, 3, 4).result(SECONDS) == 4
        for patience in ("PATIENCE", "CONNECT", "ANSWER"):
            monkeypatch.setattr(dask, patience, 0.3)
        commands.end()
        error = engine.submit(max, 3, 4).exception(SECONDS)
        with pytest.raises(EngineError, match=r"is gone, and was not back within 0 seconds"):
            engine.renew(error)
        engine.close()


def test_wrong_addresses_are_named(monkeypatch):
    monkeypatch.setattr(dask, "CONNECT", 0.3)
    with pytest.raises(EngineError, match=r"No Dask scheduler answers at tcp://127.0.0.1:9 within"):
        engine_of("dask:tcp://127.0.0.1:9")


def test_an_asynchronous_client_is_refused(cluster):
    async def ask():
        options = {"asynchronous": True, "set_as_default": False}
        async with Client(cluster.scheduler_address, **options) as client:
            with pytest.raises(ArgumentError, match="asynchronous client of Dask"):
                Dask(client)

    asyncio.run(ask())


def test_without_the_extra_its_name_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingPackageError, match=r'pip install "bilevel\[dask\]"'):
        engine_of("dask:tcp://127.0.0.1:9")


def _alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_task_is_cancelled_though_the_scheduler_does_not_say_where_it_is(engine, monkeypatch):
    future = engine.submit(max, 3, 4)

    def unknown(self, future):
        raise TimeoutError

    monkeypatch.setattr(Dask, "_place", unknown)
    engine.stop(future, Beat("host", 1, 0))
    assert future.cancelled() or future.done()
    assert future not in engine._theirs
