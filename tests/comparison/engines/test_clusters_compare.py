"""Comparisons on Dask and through submitit give the numbers of one process, whatever is lost.

All of it, with both problems, and each fault once more:
python -m pytest -m slow -n 0 tests/comparison/engines/test_clusters_compare.py
"""

import dataclasses
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
import submitit
from dask_cluster import dask_cluster
from small_problems import Smooth
from troubled import OPTIONS, PAIR, Troubled
from worker_tasks import wait_for

import bilevel
from bilevel import compare
from bilevel.comparison.engines.slurm import Slurm

SECONDS = 240
ELSEWHERE = ("shards",)
"""Settings that say where something was computed."""


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return compare(Troubled(tmp_path_factory.mktemp("one")), PAIR, **OPTIONS)


def assert_same(found, expected):
    assert found.status == expected.status
    for name, table in expected.history.items():
        assert found.history[name].keys() == table.keys()
        for metric, values in table.items():
            same = found.history[name][metric].tobytes() == values.tobytes()
            assert same, (name, metric)  # runs are computed in the same groups


def test_a_comparison_on_dask_is_that_of_one_process(client, cluster, tmp_path):
    """Rates are searched there, too; workers see the folder, or send values back."""
    options = OPTIONS | {"steps": 4, "tune": bilevel.Tuning((0.5, 2.0), seeds=2)}
    expected = compare(Smooth(), PAIR, **options)
    client.wait_for_workers(2)
    for engine, folder in ((client.get_executor(), None), (f"dask:{cluster.scheduler_address}", 1)):
        kept = None if folder is None else tmp_path / "kept"
        found = compare(Smooth(), PAIR, engine=engine, checkpoint=kept, **options)
        assert_same(found, expected)
        assert_same_report(found, expected, tmp_path)
    assert client.status == "running"


def test_a_comparison_through_submitit_is_that_of_one_process(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    options = OPTIONS | {"steps": 4}
    one = {"exact": PAIR["exact"]}
    expected = compare(Smooth(), one, **options)
    executor = submitit.LocalExecutor(tmp_path / "jobs" / "%j")
    engine = Slurm(executor, workers=1)
    found = compare(Smooth(), one, engine=engine, **options)
    engine.close()
    assert_same(found, expected)
    assert_same_report(found, expected, tmp_path)


def assert_same_report(found, expected, folder):
    """All that is written is the same but for times, and for where shards were computed."""
    pages = []
    for number, comparison in enumerate((found, expected)):
        same = dataclasses.replace(
            comparison,
            seconds_per_step=dict.fromkeys(comparison.strategies, 1.0),
            settings={k: v for k, v in comparison.settings.items() if k not in ELSEWHERE},
            environment={},
        )
        out = folder / f"report-{number}-{uuid.uuid4().hex}"
        same.report(out)
        pages.append({path.name: path.read_text() for path in out.iterdir()})
    assert pages[0].keys() == pages[1].keys()
    for name, text in pages[0].items():
        assert text == pages[1][name], name


SLOW = [pytest.param(trouble, marks=pytest.mark.slow) for trouble in ("raise", "stop")]


@pytest.mark.parametrize("trouble", ["kill", *SLOW])
def test_a_shard_goes_on_from_its_checkpoint_after(trouble, engine, expected, tmp_path):
    """A worker killed in the middle, a task that raises, and a node that never answers."""
    engine.timeout = 3.0 if trouble == "stop" else 60.0
    problem = Troubled(tmp_path / "noted", trouble)
    Path(problem.folder).mkdir()
    found = compare(problem, PAIR, engine=engine, checkpoint=tmp_path / "kept", **OPTIONS)
    assert_same(found, expected)
    assert len(list(Path(problem.folder).glob("trouble-*"))) == 1


@pytest.mark.slow
def test_a_scheduler_that_is_started_anew_goes_on(expected, tmp_path):
    """Its workers end with it; what they had kept is gone on from."""
    problem = Troubled(tmp_path / "noted", "slow", times=99, late=10)
    Path(problem.folder).mkdir()
    with dask_cluster(tmp_path) as commands:
        schedulers = [commands.scheduler()]
        commands.worker()
        wait_for(commands.answers)
        wait_for(lambda: commands.workers() == 1)

        def restart(progress):
            if progress.step > 2 and len(schedulers) == 1:
                schedulers[0].kill()
                schedulers[0].wait()
                schedulers.append(commands.scheduler())
                commands.worker()

        found = compare(
            problem, PAIR, engine=f"dask:{commands.address}", checkpoint=tmp_path / "kept",
            callback=restart, **OPTIONS,
        )  # fmt: skip
    assert len(schedulers) == 2
    assert_same(found, expected)


SUBMITTING = """
import sys
from bilevel import compare
from troubled import OPTIONS, PAIR, Troubled
problem = Troubled(sys.argv[3], "slow", times=99, late=10)
compare(problem, PAIR, engine=sys.argv[1], checkpoint=sys.argv[2], **OPTIONS)
"""


def test_who_submitted_is_killed_and_another_engine_goes_on(engine, expected, tmp_path):
    kept, noted = tmp_path / "kept", tmp_path / "noted"
    noted.mkdir()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", SUBMITTING, engine.name, str(kept), str(noted)]
    process = subprocess.Popen(command, env=environment)
    try:
        results = wait_for(lambda: list(kept.glob("shards/*/result*")), SECONDS)
    finally:
        process.kill()
        process.wait()
    before = {path: path.stat().st_mtime_ns for path in results}
    found = compare(
        Troubled(tmp_path), PAIR, engine="processes:1", checkpoint=kept, **OPTIONS
    )  # the problem is the same to all who look
    assert_same(found, expected)
    assert {path: path.stat().st_mtime_ns for path in results} == before
