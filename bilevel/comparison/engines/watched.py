"""Jobs of submitit that are watched until they end."""

import contextlib
import re
import subprocess
import threading
import time
from concurrent.futures import Future
from typing import Any

LOOK = 0.2
"""Seconds between two looks at the files of jobs."""
ASK = 10.0
"""Seconds between two questions to Slurm, which answers all users."""
GRACE = 15.0
"""Seconds within which the result of a job that ended is seen here, across a network."""
OVER = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "PREEMPTED", "REVOKED", "TIMEOUT",
}  # fmt: skip
"""States of jobs of Slurm that have ended; all others may go on."""
UNKNOWN = "gone from the queue"
ERROR = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit)\b")
"""How the last line of a traceback begins."""
LINES = 12
"""Of a log that are shown."""


class LostJobError(RuntimeError):
    """A job ended and left no result: its state, and the end of what it wrote."""


class Jobs:
    """Watches jobs in a thread, which ends when there is nothing to watch.

    Attributes:
        lost: whether some job left no result.
    """

    def __init__(self) -> None:
        self.lost = False
        self._jobs: dict[Future[Any], Any] = {}
        self._ended: dict[Future[Any], float] = {}
        self._states: dict[str, str] = {}
        self._asked = -ASK
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def watch(self, job: Any) -> "Future[Any]":
        """A future of what the job returns, or of a `LostJobError`."""
        future: Future[Any] = Future()
        with self._lock:
            self._jobs[future] = job
            if self._thread is None:
                self._asked = time.monotonic()
                self._thread = threading.Thread(target=self._look, daemon=True)
                self._thread.start()
        return future

    def cancel(self, future: "Future[Any]") -> None:
        """Cancel a job, be it queued or running; whatever is in the way is not said."""
        with self._lock:
            job = self._jobs.get(future)
            future.cancel()
        if job is not None:
            with contextlib.suppress(Exception):
                job.cancel(check=False)

    @property
    def under_way(self) -> bool:
        """Whether there is a job that is not known to have ended."""
        return bool(self._jobs)

    def states(self) -> str:
        """Where the jobs are that are watched, as far as it is known."""
        jobs = list(self._jobs.values())
        self._ask(jobs)
        known = (
            f"job {job.job_id} is {self._states.get(job.job_id) or job.state}, its files are in "
            f"{job.paths.folder}"
            for job in jobs
        )
        return "; ".join(known)

    def close(self) -> None:
        """Cancel all jobs, and wait until they are known to have ended."""
        for future in list(self._jobs):
            self.cancel(future)
        if (thread := self._thread) is not None:
            thread.join(GRACE)

    def _look(self) -> None:
        """Settle the futures of jobs that ended, until there is none left."""
        while True:
            with self._lock:
                if not self._jobs:
                    self._thread = None
                    return
                jobs = dict(self._jobs)
            if time.monotonic() - self._asked >= ASK:
                self._ask(list(jobs.values()))
            for future, job in jobs.items():
                # of a file system that is not there for a while, or of somebody's executor
                with contextlib.suppress(Exception):
                    self._settle(future, job)
            time.sleep(LOOK)

    def _ask(self, jobs: list[Any]) -> None:
        """Learn from Slurm which jobs are still there; accounting need not be switched on."""
        asked = [job.job_id for job in jobs if _of_slurm(job)]
        if not asked:
            return
        self._asked = time.monotonic()
        jobs_of = f"--jobs={','.join(asked)}"
        command = ["squeue", "--noheader", "--states=all", "--format=%i %T", jobs_of]
        try:
            said = subprocess.run(command, capture_output=True, text=True, timeout=60)
        except (OSError, ValueError, subprocess.SubprocessError):  # ValueError: it is no text
            return
        if said.returncode and "invalid job id" not in said.stderr.lower():
            return  # nobody answers: what was known stays
        lines = (line.strip().partition(" ") for line in said.stdout.splitlines())
        found = {job: state.strip() for job, _, state in lines}  # without a state it is there
        self._states |= {job: found.get(job, UNKNOWN) for job in asked}

    def _settle(self, future: "Future[Any]", job: Any) -> None:
        """Give a future its result, if its job has ended."""
        slurm = _of_slurm(job)
        result = job.paths.result_pickle
        if slurm:
            with contextlib.suppress(OSError):  # networks tell of new files when a folder changes
                job.paths.folder.chmod(job.paths.folder.stat().st_mode)
            state = self._states.get(job.job_id, "")
            over = state in OVER or state == UNKNOWN
        else:
            over, state = job.done(), job.state
        if not (result.exists() if slurm else over and result.exists()):
            since = self._ended.setdefault(future, time.monotonic()) if over else None
            if since is None:
                self._ended.pop(future, None)  # it was queued again
                return
            if time.monotonic() - since < (GRACE if slurm else 0):
                return
            said = ""
            if slurm and not future.cancelled():  # it may be queued again, beside its successor
                with contextlib.suppress(Exception):
                    job.cancel(check=False)
            with contextlib.suppress(OSError, ValueError):
                said = job.stderr() or job.stdout() or ""
            self._lose(future, job, f"its job {job.job_id} left no result: {state}", said)
            return
        try:
            found = job.result()
        except Exception as error:  # the function's own, as a text, or a file that is damaged
            self._lose(future, job, f"its job {job.job_id} failed: {_said(error)}", "")
        else:
            self._forget(future)
            if future.set_running_or_notify_cancel():
                future.set_result(found)

    def _lose(self, future: "Future[Any]", job: Any, why: str, log: str) -> None:
        self._forget(future)
        if not future.set_running_or_notify_cancel():
            return
        self.lost = True
        end = "\n".join(log.strip().splitlines()[-LINES:])
        last = f", and ends with\n{end}" if end else ""
        future.set_exception(LostJobError(f"{why}. What it wrote is in {job.paths.folder}{last}"))

    def _forget(self, future: "Future[Any]") -> None:
        with self._lock:
            self._jobs.pop(future, None)
            self._ended.pop(future, None)


def _of_slurm(job: Any) -> bool:
    return type(job).__name__ == "SlurmJob"


def _said(error: BaseException) -> str:
    """The last line of a traceback that came as a text."""
    lines = [line for line in str(error).splitlines() if ERROR.match(line)]
    return lines[-1] if lines else f"{type(error).__name__}: {error}"
