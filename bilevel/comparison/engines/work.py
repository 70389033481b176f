"""What a worker does: it computes a shard, and says how far it is."""

import contextlib
import os
import platform
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bilevel.comparison.checkpoint import KeptTrainings
from bilevel.comparison.engines.answers import Answer, Result, Trouble
from bilevel.comparison.engines.base import Beat
from bilevel.comparison.engines.files import ShardFiles
from bilevel.comparison.engines.jobs import (
    Fingerprint,
    Packed,
    Unpacked,
    check_data,
    fingerprint,
    surrounded,
)
from bilevel.comparison.engines.processor import processor
from bilevel.comparison.kept import CUT
from bilevel.comparison.side_by_side import Progress, SideBySide
from bilevel.comparison.timing import seconds_per_step
from bilevel.core.graph import ordinary
from bilevel.errors import BilevelError, NotEnoughMemoryError, ResultsError, UnwritableError
from bilevel.storage.reading import read_json
from bilevel.storage.tensors import read_tensors
from bilevel.training.training import Training

EVERY = 5.0
"""Seconds between signs of life, at most."""
SELDOM = 0.5
"""Seconds between them, at least."""


class Task(NamedTuple):
    """A shard to compute.

    Attributes:
        packed: the job of its stage.
        folder: of the comparison; "" if there is none.
        seal: what is written there; a folder without it is another one.
        name: of the shard's folder.
        digest: of what the shard's files belong to.
        strategies: to train.
        seeds: of the runs.
        data: what they look like.
        attempt: a name for this one.
        session: a name for who asks.
        threads: of torch.
        fewer: into how many parts of its runs the memory is divided, which was too small before.
    """

    packed: Packed
    folder: str
    seal: str
    name: str
    digest: str
    strategies: tuple[str, ...]
    seeds: tuple[int, ...]
    data: Fingerprint
    attempt: str
    session: str
    threads: int
    fewer: int = 1


class SupersededError(Exception):
    """The shard was given to somebody else meanwhile."""


@ordinary()
def compute(task: Task) -> Answer:
    """The result of a shard, or what went wrong; nothing is raised."""
    kept = False
    try:
        kept = _sees(task.folder, task.seal)
        folder = Path(task.folder) if kept else None
        files = None if folder is None else ShardFiles(folder, task.name)
        if files is not None and (found := files.result(task.digest)) is not None:
            return Answer(found, kept)  # by somebody who was not waited for any more
        if files is not None and not files.claimed_by(task.attempt):
            raise SupersededError
        with _pulse(task, files) as pulse:
            unpacked = task.packed.unpacked(folder)
            if unpacked is None:
                return Answer(None, kept, lacks=True)
            with surrounded(unpacked.job.surroundings, task.threads):
                result = _trained(task, unpacked, files, pulse)
        if files is not None and not result.interrupted:
            if not files.claimed_by(task.attempt):
                raise SupersededError
            files.keep(result, task.digest)
        return Answer(result, kept)
    except KeyboardInterrupt:  # before anything was recorded
        return Answer(Result({}, {}, {}, {}), kept)
    except BaseException as error:
        return Answer(None, kept, trouble(error))


def time_steps(task: Task) -> dict[str, float]:
    """Seconds of a step of each strategy, on all of the seeds."""
    unpacked = task.packed.unpacked(Path(task.folder))
    if unpacked is None:
        return {}
    with surrounded(unpacked.job.surroundings, task.threads):
        job = unpacked.job
        options = job.options._replace(here=False)  # a few steps fill no memory
        whole = unpacked.side_by_side(tuple(job.strategies), job.seeds, options)
        data = whole.data.part(slice(len(task.seeds)))
        return seconds_per_step(task.strategies, whole, data)


def _sees(folder: str, seal: str) -> bool:
    """Whether the folder of the comparison is here, and can be written to."""
    if not folder or not os.access(folder, os.W_OK):
        return False
    with contextlib.suppress(BilevelError):
        return bool(read_json(Path(folder) / CUT)["seal"] == seal)
    return False


class _Pulse:
    """Signs of life of a shard, at records and in between.

    Args:
        task: the shard.
        files: where they are given; None: nowhere.
    """

    def __init__(self, task: Task, files: ShardFiles | None) -> None:
        self._task, self._files = task, files
        self._step, self._count, self._said = 0, 0, 0.0
        self.over, self._lock = threading.Event(), threading.Lock()

    def say(self) -> None:
        """Give one."""
        if self._files is not None:
            with self._lock:
                self._count += 1
                self._said = time.monotonic()
                beat = Beat(platform.node(), os.getpid(), self._step)
                self._files.say(beat, self._task.attempt, self._count)

    def recorded(self, progress: Progress) -> None:
        """Note how far the shard is, and end it if nobody waits for it."""
        self._step = progress.place[0] // progress.total
        if self._files is None or time.monotonic() - self._said < SELDOM:
            return
        self.say()
        if self._files.gone or not self._files.claimed_by(self._task.attempt):
            raise SupersededError
        if self._files.told_to_stop(self._task.session):
            raise KeyboardInterrupt

    def beat(self) -> None:
        """Give signs until it is over."""
        while not self.over.wait(EVERY):
            self.say()


@contextlib.contextmanager
def _pulse(task: Task, files: ShardFiles | None) -> Iterator[_Pulse]:
    pulse = _Pulse(task, files)
    if files is None:
        yield pulse
        return
    pulse.say()
    thread = threading.Thread(target=pulse.beat, daemon=True)
    thread.start()
    try:
        yield pulse
    finally:
        pulse.over.set()
        thread.join()


class _Kept(KeptTrainings):
    """The checkpoint of a shard, whose folder somebody may have deleted."""

    def __init__(self, task: Task, files: ShardFiles) -> None:
        super().__init__(files.folder, task.digest)
        self._task, self._files = task, files

    def restore(self, name: str, training: Training) -> None:
        """A file of a shard of this name that was cut otherwise is of no use."""
        path = self.folder / f"{name}.safetensors"
        with contextlib.suppress(ResultsError, OSError):
            if path.is_file() and read_tensors(path)[1].get("comparison") != self.digest:
                path.unlink()
        super().restore(name, training)

    def describe(self) -> None:
        """Make the folder again if it is gone, but not that of the whole comparison."""
        if self._files.gone:
            raise SupersededError
        if not self.folder.is_dir():
            self._files.claim(self._task.attempt)


def _trained(task: Task, unpacked: Unpacked, files: ShardFiles | None, pulse: _Pulse) -> Result:
    """What comes of the runs of a shard, from where they stood."""
    options = unpacked.job.options._replace(callback=pulse.recorded)
    seeds, runs = list(task.seeds), len(task.strategies) * len(task.seeds)
    if task.fewer > 1:
        fewer = max(1, runs // task.fewer)
        options = options._replace(max_runs_at_once=min(options.max_runs_at_once or runs, fewer))
    made: SideBySide = unpacked.side_by_side(task.strategies, seeds, options)
    check_data(fingerprint(made.data), task.data)
    found = made.train(unpacked.job.budget, None if files is None else _Kept(task, files))
    heads = {
        name: made.trainings[names].head_status()[runs]
        for name, (names, runs) in made.places.items()
    }
    return Result(found.history, found.status, heads, processor(str(unpacked.job.device)))


def trouble(error: BaseException) -> Trouble:
    """What went wrong, as it can be sent."""
    passing = isinstance(error, NotEnoughMemoryError | UnwritableError)
    return Trouble(
        type(error).__name__,
        str(error),
        "".join(traceback.format_exception(error)[-4:]),
        isinstance(error, BilevelError) and not passing,
        isinstance(error, NotEnoughMemoryError | MemoryError),
    )
