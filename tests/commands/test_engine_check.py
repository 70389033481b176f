"""`bilevel doctor --engine` and `bilevel compare --engine`: what is said of engines."""

import os
import sys
from concurrent.futures import Future

import pytest
from command_line import run
from dask_cluster import dask_cluster
from rich.progress import Progress as Bar
from worker_tasks import wait_for

from bilevel.commands import engine_check
from bilevel.commands.display import displayed
from bilevel.comparison.engines import dask, named
from bilevel.comparison.engines.base import AbstractEngine
from bilevel.comparison.side_by_side import Progress

FAKE = {"bilevel": "0.0.9", "torch": "2.0.0"}


class Given(AbstractEngine):
    """Computes at once, or never."""

    name, workers = "given", 1

    def __init__(self, answers=True, **changes):
        self.answers, self.changes, self.stopped, self.closed = answers, changes, [], False

    def submit(self, function, /, *args):
        future = Future()
        if self.answers:
            future.set_result(function(*args) | self.changes)
        return future

    def stop(self, future, beat):
        self.stopped.append(future)

    def close(self):
        self.closed = True


@pytest.fixture
def given(monkeypatch):
    """Makes the engine that is meant by any name."""

    def make(**options):
        engine = Given(**options)
        monkeypatch.setattr(named, "engine_of", lambda text: engine)
        return engine

    return make


def test_what_came_back_is_said(given, capsys):
    engine = given()
    assert run("doctor", "--engine", "given:1") == 0
    said = capsys.readouterr().out
    assert engine.closed
    assert "engine           given\njob              came back after " in said
    assert f", process {os.getpid()}\n" in said
    assert "from its closed form\nversions         all as here\nAll is well.\n" in said


def test_other_versions_and_another_processor_are_named(given, capsys):
    versions = engine_check.here() | {"torch": "2.0.0", "scipy": None}
    given(versions=versions, processor={"kind": "Other", "bits": "0"}, off=0.1)
    assert run("doctor", "--engine", "given:1") == 1
    said = capsys.readouterr().out
    assert f"torch 2.0.0 there, {engine_check.here()['torch']} here" in said
    assert f"scipy is missing there, {engine_check.here()['scipy']} here" in said
    assert "Other, " in said
    assert "rounds otherwise than the one here: " in said
    assert "off by 1.0e-01 from its closed form" in said
    assert said.endswith("Something is wrong: see above.\n")


def test_it_never_hangs(given, capsys):
    engine = given(answers=False)
    assert run("doctor", "--engine", "given:1", "--timeout", "0.2") == 1
    assert "failed: nothing came back within 0.2 seconds (--timeout)" in capsys.readouterr().out
    assert len(engine.stopped) == 1
    assert engine.closed
    assert run("doctor", "--engine", "given:1", "--timeout", "0") == 2
    assert "--timeout must be a number of seconds above 0" in capsys.readouterr().err


def test_a_wrong_address_and_a_missing_extra_are_named(capsys, monkeypatch):
    monkeypatch.setattr(dask, "CONNECT", 0.3)
    assert run("doctor", "--engine", "dask:tcp://127.0.0.1:9") == 1
    assert "No Dask scheduler answers at tcp://127.0.0.1:9" in capsys.readouterr().out
    for command in (["doctor"], ["compare", "friedman1"]):
        assert run(*command, "--engine", "dsk:tcp://127.0.0.1:9") == 2
        assert "There is no engine 'dsk'. Did you mean 'dask'?" in capsys.readouterr().err
        with monkeypatch.context() as missing:
            missing.setitem(sys.modules, "distributed", None)
            assert run(*command, "--engine", "dask:tcp://127.0.0.1:9") == 2
        assert 'pip install "bilevel[dask]"' in capsys.readouterr().err


def test_workers_of_dask_with_other_versions_are_named(tmp_path, capsys):
    """Two packages seem to be other ones there; then a worker that has no bilevel at all."""
    for name, version in FAKE.items():
        folder = tmp_path / "other" / f"{name}-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}")
    none = tmp_path / "none" / "bilevel"
    none.mkdir(parents=True)
    (none / "__init__.py").write_text("raise ModuleNotFoundError('No module named bilevel')")
    with dask_cluster(tmp_path) as commands:
        commands.scheduler()
        wait_for(commands.answers)
        paths = commands.environment["PYTHONPATH"]
        for there in ("other", "none"):
            found = {"PYTHONPATH": f"{tmp_path / there}{os.pathsep}{paths}"}
            worker = commands.worker(found)
            wait_for(lambda: commands.workers() == 1)
            assert run("doctor", "--engine", f"dask:{commands.address}") == 1
            said = capsys.readouterr().out
            if there == "other":
                assert "came back after" in said
                for name, version in FAKE.items():
                    assert f"{name} {version} on tcp://127.0.0.1:" in said
            else:
                assert "failed: ModuleNotFoundError: No module named bilevel" in said
            assert commands.workers() == 1  # it is still there
            worker.terminate()
            wait_for(lambda: commands.workers() == 0)


def test_shards_are_told_of_in_few_lines_where_there_is_no_terminal(capsys):
    with displayed() as show:
        for finished in range(101):
            for _ in range(2):
                show(Progress(("a", "b"), finished, 100, 0, 2, shards=(finished, 100)))
        show(Progress(("a",), 0, 100, 0, 1, "tuning", shards=(1, 3)))
    said = capsys.readouterr().err.splitlines()
    assert said[:2] == ["trained 1 of 100 shards", "trained 5 of 100 shards"]
    assert said[-2:] == ["trained 100 of 100 shards", "tuned 1 of 3 shards"]
    assert len(said) == 22


def test_on_a_terminal_the_bar_says_what_follows_the_last_step(monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    told = []
    monkeypatch.setattr(Bar, "update", lambda self, task, **to: told.append(to))
    with displayed() as show:
        show(Progress(("a",), 5, 5, 0, 1, "tuning"))
        show(Progress(("a", "b"), 0, 10, 0, 2))
        show(Progress(("a", "b"), 10, 10, 0, 2))
    assert [to["description"] for to in told] == ["a", "2 strategies together", "timing steps"]
    assert [to["completed"] for to in told] == [5, 0, 20]
