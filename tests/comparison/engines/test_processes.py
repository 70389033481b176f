"""Processes that are killed, run out of memory, fail or stand still; and who asked them, too.

What takes longer (a shard that kills every process, pools that break):
python -m pytest -n 0 -m slow tests/comparison/engines/test_processes.py
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from troubled import OPTIONS, PAIR, Troubled, calls

from bilevel import compare
from bilevel.comparison import kept
from bilevel.comparison.engines.processes import Processes
from bilevel.errors import ArgumentError, EngineError, ResultsInUseError

SECONDS = 240


class Noting(Processes):
    """Notes what is submitted, and what had a result by then."""

    def __init__(self, workers):
        super().__init__(workers)
        self.seen, self.folder, self.twice = [], None, []

    def submit(self, function, /, *args):
        if function.__name__ == "compute":
            self.seen.append(args[0].name)
            if (self.folder / kept.SHARDS / args[0].name / kept.RESULT).exists():
                self.twice.append(args[0].name)
        return super().submit(function, *args)


@pytest.fixture(scope="module")
def two():
    """Two processes, which several tests use: each takes seconds to start."""
    engine = Noting(2)
    yield engine
    engine.close()


@pytest.fixture
def engine(two, tmp_path):
    two.seen, two.twice, two.folder, two.timeout = [], [], tmp_path / "kept", 300.0
    return two


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield compare(Troubled(tmp_path_factory.mktemp("whole")), PAIR, **OPTIONS)
    torch.set_num_threads(before)


def assert_same(found, whole):
    """Bit for bit: a shard holds what one process computes together."""
    assert found.status == whole.status
    for name, table in whole.history.items():
        for metric, values in table.items():
            np.testing.assert_array_equal(found.history[name][metric], values)


def test_a_process_that_is_killed_is_replaced_at_once():
    """Its pool would take the next shard with it, or that shard would wait for another one."""
    engine = Processes(2)
    for future in [engine.submit(os.getpid) for _ in range(2)]:
        future.result(SECONDS)
    hangs, long = engine.submit(time.sleep, 300), engine.submit(time.sleep, 300)
    engine.stop(hangs, None)
    assert engine.submit(max, 3, 4).result(SECONDS) == 4
    assert not long.done()
    engine.close()
    assert long.done()


def test_ctrl_c_while_a_process_starts_leaves_none_behind(monkeypatch):
    submit = ProcessPoolExecutor.submit

    def pressed(self, *given):
        future = submit(self, *given)
        signal.raise_signal(signal.SIGINT)
        return future

    monkeypatch.setattr(ProcessPoolExecutor, "submit", pressed)
    engine = Processes(1)
    before = set(multiprocessing.active_children())
    with pytest.raises(KeyboardInterrupt):
        engine.submit(time.sleep, 300)
    (process,) = set(multiprocessing.active_children()) - before
    engine.close()
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("trouble", ["kill", "memory", "raise", "stop"])
def test_trouble_in_the_middle_of_a_shard_costs_that_shard_a_part_of_its_steps(
    trouble, engine, whole, tmp_path
):
    problem = Troubled(tmp_path, trouble)
    if trouble == "stop":
        for future in [engine.submit(time.sleep, 0.5) for _ in range(2)]:
            future.result()  # both have started
        engine.timeout = 12.0
    found = compare(problem, PAIR, engine=engine, checkpoint=engine.folder, **OPTIONS)
    assert_same(found, whole)
    assert len(list(tmp_path.glob("trouble-*"))) == 1
    submitted = Counter(engine.seen)
    assert sorted(submitted.values()) == [1, 1, 1, 2]
    assert engine.twice == []
    # nothing was begun again from its start: in all, less than a shard more than was needed
    alone = sum(calls(tmp_path).values())
    assert alone > 0
    assert kept.clear(engine.folder) == []


def test_a_shard_that_always_fails_is_reported_and_the_others_are_kept(engine, whole, tmp_path):
    problem = Troubled(tmp_path, "raise", times=10**6, late=7)
    with pytest.raises(EngineError) as raised:
        compare(problem, PAIR, engine=engine, checkpoint=engine.folder, **OPTIONS)
    assert "failed 4 times on processes:2" in str(raised.value)
    assert "ValueError: this seed is unlucky" in str(raised.value)
    problem = Troubled(tmp_path)
    found = compare(problem, PAIR, engine=engine, checkpoint=engine.folder, **OPTIONS)
    assert_same(found, whole)
    assert engine.twice == []


SCRIPT = """
import sys

import bilevel
import torch
from troubled import OPTIONS, PAIR, Troubled


class OfTheScript(Troubled):
    'No other process can import it, and there is no `if __name__ == "__main__"` here.'


print("begins", flush=True)
slow = OfTheScript(sys.argv[1], "slow", times=10**6, late=10)
bilevel.compare(slow, PAIR, engine="processes:2", checkpoint=sys.argv[2], **OPTIONS)
print("ends", flush=True)
"""


def begun(process, folder, count):
    """Wait until some shards have results, and one is being computed."""
    for _ in range(1200):
        done = len(list(folder.rglob(kept.RESULT)))
        beats = list(folder.rglob(kept.BEAT))
        if done >= count and beats:
            return {int(str(path).rpartition("-")[2]) for path in folder.parent.glob("calls-*")}
        assert process.poll() is None
        time.sleep(0.05)
    raise AssertionError("nothing came of it")


def gone(number):
    for _ in range(2400):
        try:
            os.kill(number, 0)
            if Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.05)
    return False


def test_who_asked_is_killed_and_another_engine_goes_on(engine, whole, tmp_path):
    """A script without guards, whose class nobody can import, is killed by SIGKILL."""
    script, folder = tmp_path / "script.py", tmp_path / "kept"
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(script), str(tmp_path), str(folder)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        workers = begun(process, folder, 1)
        with pytest.raises(ResultsInUseError, match="in use by process"):
            compare(Troubled(tmp_path), PAIR, engine=engine, checkpoint=folder, **OPTIONS)
        process.kill()
        said, _ = process.communicate()
    assert said == "begins\n"  # once: workers do not run the script
    assert len(workers) == 2
    assert all(map(gone, workers))
    done = {path.parent.name: path.stat().st_mtime_ns for path in folder.rglob(kept.RESULT)}

    class OfTheScript(Troubled):
        pass

    OfTheScript.__qualname__ = "OfTheScript"
    found = compare(OfTheScript(tmp_path), PAIR, engine=engine, checkpoint=folder, **OPTIONS)
    assert_same(found, whole)
    assert set(engine.seen) == {f"training-{i}" for i in range(4)} - set(done)
    after = {path.parent.name: path.stat().st_mtime_ns for path in folder.rglob(kept.RESULT)}
    assert after.items() >= done.items()


def test_forked_processes_are_refused():
    context = multiprocessing.get_context("fork")
    with (
        ProcessPoolExecutor(1, context) as executor,
        pytest.raises(ArgumentError, match=r'"spawn"\)`, or pass engine="processes:1"'),
    ):
        compare(Troubled("."), PAIR, engine=executor, **OPTIONS)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_pool_of_ones_own_is_made_anew(workers, whole, tmp_path):
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context) as executor:
        found = compare(
            Troubled(tmp_path, "kill", times=2), PAIR, engine=executor,
            checkpoint=tmp_path / "kept", **OPTIONS,
        )  # fmt: skip
    assert_same(found, whole)
    assert len(list(tmp_path.glob("trouble-*"))) == 2


@pytest.mark.slow
def test_a_shard_that_kills_every_process_is_reported(engine, tmp_path):
    problem = Troubled(tmp_path, "kill", times=10**6, late=5)
    with pytest.raises(EngineError, match="its process was killed by SIGKILL, as the system kills"):
        compare(problem, PAIR, engine=engine, checkpoint=engine.folder, **OPTIONS)


@pytest.mark.slow
def test_ctrl_c_lets_shards_come_to_their_next_record(tmp_path, whole):
    script, folder = tmp_path / "script.py", tmp_path / "kept"
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(script), str(tmp_path), str(folder)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        workers = begun(process, folder, 1)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers, too
        said, _ = process.communicate(timeout=240)
    assert process.returncode == 0
    assert said == "begins\nends\n"
    assert all(map(gone, workers))
    assert len(list(folder.rglob(kept.RESULT))) < 4
