"""Jobs of a Slurm cluster as an engine, or those of submitit's other executors."""

import re
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from bilevel.comparison.engines.again import Again, submitit_needed
from bilevel.comparison.engines.base import AbstractEngine, Beat
from bilevel.comparison.engines.options import Option, options_of
from bilevel.comparison.engines.watched import Jobs, LostJobError
from bilevel.core.checks import check_positive_integer
from bilevel.errors import ArgumentError, EngineError, spell

JOBS = 16
"""Into about twice as many jobs the work is cut, where nobody says how many nodes there are."""
MOST = 10_000
OPTIONS = {
    "time": Option(int, "minutes that a job may take; it is queued again and goes on after them"),
    "mem": Option(float, "GB of memory for each job"),
    "jobs": Option(int, "how many jobs may run at once"),
    "gpus": Option(int, "GPUs for each job"),
    "account": Option(str, "who pays"),
    "qos": Option(str, "quality of service"),
    "constraint": Option(str, "features of the nodes"),
}
FOREVER = 60 * 24 * 365
"""Minutes: on one machine nobody waits for the end of a job's time."""
BUSY = re.compile(r"timed out|unable to contact|temporarily|submit ?limit|maxsubmit", re.IGNORECASE)
"""What `sbatch` says when it may take the same job later."""
PAUSE = 5.0
"""Seconds until it is asked again, the first time."""
PATIENCE = 600.0
"""Seconds within which Slurm has to take a job."""


class Slurm(AbstractEngine):
    """Jobs of a Slurm cluster, one for each shard, by submitit.

    A job whose time is over, or that has to make room for another one, is queued again by submitit
    and goes on from its checkpoint. Slurm itself finds nodes that do not answer.

    Args:
        executor: of submitit, such as `submitit.AutoExecutor(folder)`, with its parameters set; its
            folder must be seen by all nodes.
        workers: how many jobs may run at once, as a guess.
        threads: of torch in every job.

    Raises:
        ArgumentError: it is submitit's debug executor.
        MissingPackageError: submitit is not installed; names the extra.
    """

    timeout = None

    def __init__(self, executor: Any, *, workers: int = JOBS, threads: int = 1) -> None:
        check_positive_integer(workers, "`workers`")
        check_positive_integer(threads, "`threads`")
        submitit_needed()
        cluster = getattr(executor, "cluster", executor.name())
        if cluster == "debug":
            raise ArgumentError(
                "`engine` is the debug executor of submitit, whose jobs leave no results: take "
                'engine="local:1".'
            )
        self.name = f"submitit:{cluster}"
        self.workers, self.threads, self._executor = workers, threads, executor
        self._made: Path | None = None
        self._jobs = Jobs()

    @classmethod
    def named(cls, rest: str) -> "Slurm":
        """The engine "slurm:REST".

        Raises:
            ArgumentError: what follows the colon is no partition with options.
            MissingPackageError: submitit is not installed; names the extra.
            EngineError: there is no Slurm here.
        """
        partition, _, more = rest.partition(",")
        form = "slurm:PARTITION or slurm:PARTITION,time=60,mem=8"
        if not re.fullmatch(r"[\w.+-]+", partition):
            raise ArgumentError(
                f"`engine` of Slurm is written {form}, where PARTITION is one of those that "
                f"`sinfo` lists; got {spell('slurm:' + rest)}."
            )
        asked = options_of(more, OPTIONS, form)
        submitit = submitit_needed()
        if shutil.which("sbatch") is None or shutil.which("srun") is None:
            raise EngineError(
                "There is no Slurm here: the commands sbatch and srun are not found. Run this "
                "where jobs are submitted from, such as a login node."
            )
        folder = _new_folder()
        executor = submitit.AutoExecutor(folder / "%j", cluster="slurm")
        executor.update_parameters(
            name="bilevel",
            timeout_min=asked.get("time", 60),
            slurm_partition=partition,
            mem_gb=asked.get("mem"),
            gpus_per_node=asked.get("gpus"),
            **{f"slurm_{key}": asked.get(key) for key in ("account", "qos", "constraint")},
        )
        engine = cls(executor, workers=asked.get("jobs", JOBS))
        engine.name, engine._made = f"slurm:{rest}", folder
        return engine

    @classmethod
    def local(cls, rest: str) -> "Slurm":
        """The engine "local:REST": what Slurm would be given, as processes of this machine.

        Raises:
            ArgumentError: what follows the colon is no number of jobs.
            MissingPackageError: submitit is not installed; names the extra.
        """
        if not rest.isascii() or not rest.isdigit() or not 1 <= int(rest[:9]) <= MOST:
            raise ArgumentError(
                "`engine` of submitit's local jobs is written such as local:2, with a number of "
                f"jobs at once, got {spell('local:' + rest)}."
            )
        submitit = submitit_needed()
        folder = _new_folder()
        executor = submitit.LocalExecutor(folder / "%j")
        executor.update_parameters(timeout_min=FOREVER)
        engine = cls(executor, workers=int(rest))
        engine.name, engine._made, engine.window = f"local:{rest}", folder, int(rest)
        return engine

    def submit(self, function: Callable[..., Any], /, *args: Any) -> "Future[Any]":
        """Have a function called by a job.

        Raises:
            EngineError: Slurm does not take it; says why.
        """
        if self._made is not None and self.threads > 1:
            self._executor.update_parameters(cpus_per_task=self.threads)
        until, pause = time.monotonic() + PATIENCE, PAUSE
        while True:
            try:
                job = self._executor.submit(Again(function), *args)
                return self._jobs.watch(job)
            except (RuntimeError, OSError) as error:  # submitit's are RuntimeErrors
                said = " ".join(str(error).replace("sbatch: error: ", "").split())
                if self._jobs.under_way:  # one that ends makes room
                    until = time.monotonic() + PATIENCE
                if not BUSY.search(said) or time.monotonic() > until:
                    raise EngineError(f"{self.name} takes no job: {said}") from error
            time.sleep(pause)
            pause = min(2 * pause, 60.0)

    def stop(self, future: Any, beat: Beat | None) -> None:
        """Cancel a job, be it queued or running."""
        self._jobs.cancel(future)

    def last_words(self, error: BaseException, beat: Beat | None) -> str:
        """What Slurm says of a job, and the end of what it wrote."""
        if isinstance(error, TimeoutError):
            return self._jobs.states()
        return str(error) if isinstance(error, LostJobError) else super().last_words(error, beat)

    def close(self) -> None:
        """Cancel what is left; remove the files of the jobs, but of those that were lost."""
        self._jobs.close()
        if self._made is not None and not self._jobs.lost:
            shutil.rmtree(self._made, ignore_errors=True)


def _new_folder() -> Path:
    """A folder for the files of jobs, here, where all nodes see it."""
    return Path(tempfile.mkdtemp(prefix="bilevel-jobs-", dir=Path.cwd()))
