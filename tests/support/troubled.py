"""A problem whose workers get into trouble, and what counts how often its features are computed."""

import os
import resource
import signal
import time
from pathlib import Path

import torch
from small_problems import Smooth

import bilevel
from bilevel.comparison import checkpoint

OPTIONS = {"seeds": 4, "steps": 12, "every": 2, "batch_size": 6, "dtype": torch.float64,
           "max_runs_at_once": 2}  # fmt: skip
PAIR = {"two": bilevel.TwoTimescale(0.005, 0.05), "exact": bilevel.BestResponse(0.005)}
LATE = 60
"""Calls of the features in a process by which some records are made, and others are not."""


class Troubled(Smooth):
    """At the call with number `late` in a process other than this one, `trouble` comes.

    Args:
        folder: where it is noted which processes came there, and how often features were computed.
        trouble: "kill", "raise", "memory", "stop" (the process stands still) or "".
        times: in how many processes, or how often in one that goes on.
        attributes: of `Smooth`.
    """

    def __init__(self, folder, trouble="", times=1, late=LATE, **attributes):
        super().__init__(**attributes)
        self.folder, self.trouble, self.times, self.late = str(folder), trouble, times, late
        self.own = os.getpid()

    def data(self, seed=None):
        checkpoint.SECONDS = -1.0  # in the worker
        return super().data(seed)

    def features(self, body, inputs):
        if os.getpid() != self.own:
            self.note()
        return super().features(body, inputs)

    def note(self):
        log = Path(self.folder) / f"calls-{os.getpid()}"
        with log.open("a") as file:
            file.write(".")
        came = len(list(Path(self.folder).glob("trouble-*")))
        if log.stat().st_size % self.late or came >= self.times:
            return
        if self.trouble:
            try:  # two processes may come here at once
                (Path(self.folder) / f"trouble-{came}").touch(exist_ok=False)
            except FileExistsError:
                return
        if self.trouble == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.trouble == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        if self.trouble == "raise":
            raise ValueError("this seed is unlucky")
        if self.trouble == "memory":
            before = resource.getrlimit(resource.RLIMIT_AS)
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            room = pages * resource.getpagesize() + 2**26
            resource.setrlimit(resource.RLIMIT_AS, (room, before[1]))
            try:
                torch.ones(2**28, dtype=torch.float64)
            finally:
                resource.setrlimit(resource.RLIMIT_AS, before)
        if self.trouble == "slow":
            time.sleep(0.3)


def calls(folder):
    """How often features were computed, by process."""
    return {path.name: path.stat().st_size for path in Path(folder).glob("calls-*")}
