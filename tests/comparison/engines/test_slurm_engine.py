"""Jobs by submitit: on this machine, and by commands that do what those of Slurm do."""

import os
import signal
import subprocess
import sys
import time

import pretend_slurm
import pytest
import submitit
from worker_tasks import wait_for

from bilevel.comparison.engines import slurm, watched
from bilevel.comparison.engines.named import engine_of
from bilevel.comparison.engines.slurm import Slurm
from bilevel.comparison.engines.watched import LostJobError
from bilevel.errors import ArgumentError, EngineError, MissingPackageError

SECONDS = 60


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Jobs are submitted from this folder, and find what the tests find."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    monkeypatch.setattr(watched, "LOOK", 0.05)
    return tmp_path


@pytest.fixture
def cluster(here, monkeypatch):
    """The commands of Slurm."""
    commands = pretend_slurm.installed(here / "commands")
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(watched, "ASK", 0.2)
    monkeypatch.setattr(watched, "GRACE", 0.5)
    return commands


def jobs_of(folder):
    return list(folder.glob("bilevel-jobs-*"))


def test_local_jobs_compute_and_leave_nothing(here):
    engine = engine_of("local:2")
    assert (engine.name, engine.workers, engine.window) == ("local:2", 2, 2)
    futures = [engine.submit(os.getpid), engine.submit(max, 3, 4)]
    assert futures[0].result(SECONDS) != os.getpid()
    assert futures[1].result(SECONDS) == 4
    assert len(jobs_of(here)) == 1
    engine.close()
    assert not jobs_of(here)


def test_what_became_of_local_jobs_that_were_lost_is_said(here):
    engine = Slurm(submitit.LocalExecutor(here / "mine" / "%j"), workers=2)
    assert engine.name == "submitit:local"
    killed = engine.submit(signal.raise_signal, signal.SIGKILL)
    failed = engine.submit(os.listdir, "/no/such/folder")
    hangs = engine.submit(time.sleep, 300)  # it ends, if a cancel comes before it can hear it
    error = failed.exception(SECONDS)
    assert isinstance(error, LostJobError)
    words = engine.last_words(error, None)
    assert "failed: FileNotFoundError" in words
    assert "'/no/such/folder'" in words
    words = engine.last_words(killed.exception(SECONDS), None)
    assert "left no result: FINISHED. What it wrote is in" in words
    assert str(here / "mine") in words
    engine.stop(hangs, None)
    assert hangs.cancelled()
    engine.close()
    assert (here / "mine").is_dir()  # it is the user's


def test_jobs_of_slurm_are_asked_for_as_it_was_typed(cluster, here):
    engine = engine_of("slurm:short,time=90,mem=1.5,jobs=3,account=us,gpus=1")
    assert (engine.workers, engine.window, engine.timeout) == (3, None, None)
    engine.threads = 2
    assert engine.submit(max, 3, 4).result(SECONDS) == 4
    asked = (cluster / "jobs" / "1.sh").read_text()
    for line in ("partition=short", "time=90", "mem=1536MB", "account=us", "gpus-per-node=1",
                 "cpus-per-task=2", "job-name=bilevel"):  # fmt: skip
        assert f"#SBATCH --{line}\n" in asked
    engine.close()
    assert not jobs_of(here)


def test_a_partition_that_is_not_there_is_named_and_a_busy_controller_waited_for(
    cluster, monkeypatch
):
    engine = engine_of("slurm:nosuch")
    with pytest.raises(EngineError, match="takes no job: invalid partition specified: nosuch"):
        engine.submit(max, 3, 4)
    engine.close()
    monkeypatch.setattr(slurm, "PAUSE", 0.1)
    (cluster / "busy").touch()
    engine = engine_of("slurm:short")
    assert engine.submit(max, 3, 4).result(SECONDS) == 4
    engine.close()


def test_a_job_that_is_killed_is_lost_also_without_accounting(cluster, here):
    engine = engine_of("slurm:short")
    killed = engine.submit(signal.raise_signal, signal.SIGKILL)
    error = killed.exception(SECONDS)
    assert "its job 1 left no result: FAILED. What it wrote is in" in str(error)
    (cluster / "down").touch()  # who does not answer is asked again
    gone = engine.submit(signal.raise_signal, signal.SIGKILL)
    wait_for(lambda: (cluster / "jobs" / "2.state").read_text() == "FAILED")
    with pytest.raises(TimeoutError):
        gone.result(1.5)
    (cluster / "jobs" / "2.state").unlink()
    (cluster / "down").unlink()
    assert "its job 2 left no result: gone from the queue" in str(gone.exception(SECONDS))
    engine.close()
    assert jobs_of(here)  # with the logs of jobs that were lost


def test_queued_jobs_are_cancelled_and_said_to_wait(cluster):
    (cluster / "held").touch()
    engine = engine_of("slurm:short")
    future = engine.submit(max, 3, 4)
    with pytest.raises(TimeoutError):
        future.result(0.1)
    assert "job 1 is PENDING, its files are in" in engine.last_words(TimeoutError(), None)
    engine.stop(future, None)
    assert future.cancelled()
    assert (cluster / "jobs" / "1.state").read_text() == "CANCELLED"
    engine.close()


def test_a_job_whose_state_is_not_told_is_waited_for(cluster, here):
    engine = engine_of("slurm:short")
    waits = f"touch {here}/seen; for i in $(seq 600); do test -e {here}/go && exit; sleep 0.1; done"
    future = engine.submit(subprocess.call, ["sh", "-c", waits])
    wait_for((here / "seen").exists)
    (cluster / "jobs" / "1.state").write_text("")
    with pytest.raises(TimeoutError):
        future.result(1.5)
    assert "job 1 is UNKNOWN, its files are in" in engine.last_words(TimeoutError(), None)
    (here / "go").touch()
    assert future.result(SECONDS) == 0
    engine.close()


def test_a_job_that_has_to_make_room_goes_on_when_it_is_its_turn_again(cluster, here):
    """As when its time is over: submitit has it queued again, with the same shard."""
    engine = engine_of("slurm:short")
    seen = here / "seen"
    first = f"echo >> {seen}; test $(wc -l < {seen}) -gt 1 || sleep 60"  # the first time it waits
    future = engine.submit(subprocess.call, ["sh", "-c", first])
    wait_for(lambda: seen.exists())
    (child,) = wait_for(lambda: len(found := _children_of_job(cluster)) == 1 and found)
    os.kill(child, signal.SIGUSR2)
    assert future.result(SECONDS) == 0
    assert len(seen.read_text().splitlines()) == 2
    engine.close()


def _children_of_job(cluster):
    """The process of the job, which replaced srun."""
    shell = (cluster / "jobs" / "1.pid").read_text()
    return [int(one) for one in subprocess.run(
        ["ps", "-o", "pid=", "--ppid", shell], capture_output=True, text=True
    ).stdout.split()]  # fmt: skip


def test_a_limit_of_jobs_is_waited_for_while_one_is_under_way(here, monkeypatch):
    monkeypatch.setattr(slurm, "PAUSE", 0.1)
    monkeypatch.setattr(slurm, "PATIENCE", 1.0)
    executor = submitit.LocalExecutor(here / "mine" / "%j")
    engine, submit, tried = Slurm(executor, workers=1), executor.submit, []
    first = engine.submit(time.sleep, 3)

    def limited(*given):
        tried.append(first.done())
        if not first.done():
            raise RuntimeError("sbatch: error: AssocMaxSubmitJobLimit")
        return submit(*given)

    monkeypatch.setattr(executor, "submit", limited)
    assert engine.submit(max, 3, 4).result(SECONDS) == 4
    assert tried.count(False) >= 2
    monkeypatch.setattr(executor, "submit", submit_nothing)
    with pytest.raises(EngineError, match="takes no job: AssocMaxSubmitJobLimit"):
        engine.submit(max, 3, 4)
    engine.close()


def submit_nothing(*given):
    raise RuntimeError("sbatch: error: AssocMaxSubmitJobLimit")


def test_a_job_that_seems_lost_is_cancelled_and_others_are_watched_on(cluster, monkeypatch):
    (cluster / "held").touch()
    engine = engine_of("slurm:short")
    lost = engine.submit(max, 3, 4)
    (cluster / "jobs" / "1.state").write_text("PREEMPTED")
    assert "left no result: PREEMPTED" in str(lost.exception(SECONDS))
    assert (cluster / "jobs" / "1.state").read_text() == "CANCELLED"
    settle, broken = engine._jobs._settle, []

    def odd(future, job):
        if not broken:
            broken.append(job)
            raise ValueError
        settle(future, job)

    monkeypatch.setattr(engine._jobs, "_settle", odd)
    (cluster / "held").unlink()
    assert engine.submit(max, 3, 4).result(SECONDS) == 4
    assert broken
    engine.close()


def test_the_debug_executor_is_refused(here):
    with pytest.raises(ArgumentError, match="debug executor"):
        engine_of(submitit.AutoExecutor(here / "mine", cluster="debug"))


def test_without_slurm_or_the_extra_it_is_said(here, monkeypatch):
    monkeypatch.setenv("PATH", str(here))
    with pytest.raises(EngineError, match="There is no Slurm here: the commands sbatch and srun"):
        engine_of("slurm:short")
    monkeypatch.setitem(sys.modules, "submitit", None)
    for name in ("slurm:short", "local:2"):
        with pytest.raises(MissingPackageError, match=r'pip install "bilevel\[slurm\]"'):
            engine_of(name)
    assert not jobs_of(here)
