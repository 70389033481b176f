"""What workers are sent of a stage, once for all of its shards."""

import contextlib
import functools
import hashlib
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle  # type: ignore[import-untyped]
import torch

from bilevel import trees
from bilevel.comparison.budget import Budget
from bilevel.comparison.kept import SHARDS
from bilevel.comparison.side_by_side import Options, SideBySide
from bilevel.data.training_data import TrainingData
from bilevel.errors import DataError, EngineError, IncompatibleError
from bilevel.problem import registry
from bilevel.problem.base import StackelbergProblem
from bilevel.storage.environment import PACKAGES, version
from bilevel.storage.folder import write_whole, writing
from bilevel.strategies import AbstractStrategy

LARGE = 2**20
"""Bytes of a job that are not sent with each shard, where workers see the folder."""
LOOKED_AT = 2**20
"""Numbers of a leaf of the data that tell it from others."""
NEAR = 1e-5
"""Relative; standardised data may differ by rounding from processor to processor."""
Fingerprint = tuple[tuple[str, tuple[int, ...], str, float, float], ...]
"""Of every leaf: its place, shape, type, mean and mean of squares."""


class ByName(NamedTuple):
    """A registered problem, which every worker makes itself."""

    name: str
    options: Mapping[str, Any]

    def made(self) -> StackelbergProblem:
        """The problem."""
        return registry.load_problem(self.name, **self.options)  # type: ignore[no-any-return]


class Job(NamedTuple):
    """A stage of a comparison.

    Attributes:
        problem: itself, or how it is made.
        strategies: by name, as they were given.
        seeds: of the stage.
        options: how they are trained.
        stage: its name.
        budget: how far, and where to record.
        dtype: of the training.
        device: where it is computed.
        surroundings: settings of torch that change numbers.
    """

    problem: StackelbergProblem | ByName
    strategies: dict[str, AbstractStrategy]
    seeds: list[int]
    options: Options
    stage: str
    budget: Budget
    dtype: torch.dtype
    device: torch.device | str
    surroundings: dict[str, Any]

    @classmethod
    def of(
        cls, side_by_side: SideBySide, budget: Budget, problem: StackelbergProblem | ByName
    ) -> "Job":
        """The job of a stage, of whose problem is known how it is sent."""
        data = side_by_side.data
        return cls(
            problem,
            dict(side_by_side.strategies),
            data.seeds,
            side_by_side.options._replace(callback=None, here=True),
            side_by_side.stage,
            budget,
            data.dtype,
            data.device,
            surroundings(),
        )


def sent(problem: StackelbergProblem) -> StackelbergProblem | ByName:
    """How a problem is sent: by its registered name and options if it is as they make it.

    One that was changed since, or is not registered, is sent as it is, with what it holds.
    """
    origin = registry.origin(problem)
    if origin is not None:
        with contextlib.suppress(Exception):  # of a factory, or of pickling
            made = ByName(*origin)
            if _digest(made.made()) == _digest(problem):
                return made
    return problem


def _digest(value: object) -> str:
    """Of a pickle, which is not held in memory."""
    found = hashlib.sha256()

    class File:
        def write(self, some: Any) -> int:
            found.update(some)
            return memoryview(some).nbytes

    cloudpickle.Pickler(File()).dump(value)
    return found.hexdigest()


def surroundings() -> dict[str, Any]:
    """Settings of torch, beside its threads, that change numbers."""
    return {
        "dtype": torch.get_default_dtype(),
        "precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


@contextlib.contextmanager
def surrounded(settings: Mapping[str, Any], threads: int) -> Iterator[None]:
    """Compute with these settings, and so many threads."""

    def put(settings: Mapping[str, Any]) -> None:
        torch.set_default_dtype(settings["dtype"])
        torch.set_float32_matmul_precision(settings["precision"])
        torch.use_deterministic_algorithms(settings["deterministic"])

    before, count = surroundings(), torch.get_num_threads()
    if threads != count:
        torch.set_num_threads(threads)
    if settings != before:
        put(settings)
    try:
        yield
    finally:
        if settings != before:
            put(before)
        if threads != count:
            torch.set_num_threads(count)


class Packed(NamedTuple):
    """A job on its way.

    Attributes:
        digest: SHA-256 of its pickle.
        content: the pickle; None: it is in a file of the comparison's folder.
        versions: of what has to be the same where it is unpacked.
    """

    digest: str
    content: bytes | None
    versions: dict[str, str | None]

    @classmethod
    def of(cls, job: Job) -> "Packed":
        """A job with all that it holds."""
        try:
            content: bytes = cloudpickle.dumps(job)
        except Exception as error:  # of whatever the user's objects are
            raise IncompatibleError(
                "`engine` sends the problem and the strategies to other processes, and these "
                f"cannot be pickled: {type(error).__name__}: {error}. Leave out of them what "
                "belongs to this process, such as locks, open files and generators."
            ) from error
        return cls(hashlib.sha256(content).hexdigest(), content, versions())

    def beside(self, folder: Path) -> "Packed":
        """The same without its content, if that is large: it is in a file of the folder then."""
        assert self.content is not None
        if len(self.content) <= LARGE:
            return self
        with writing(folder / SHARDS):
            (folder / SHARDS).mkdir(parents=True, exist_ok=True)
            for old in (folder / SHARDS).glob("job-*"):  # of an earlier process, or stage
                if old != self._file(folder):
                    old.unlink(missing_ok=True)
        write_whole(self._file(folder), self.content)
        return self._replace(content=None)

    def _file(self, folder: Path) -> Path:
        return folder / SHARDS / f"job-{self.digest}"

    def unpacked(self, folder: Path | None) -> "Unpacked | None":
        """The job, which a worker keeps for its next shard; None: its content is not here.

        Raises:
            EngineError: versions differ.
        """
        here = versions()
        if different := [
            f"{name} {here.get(name)} there and {asked} here"
            for name, asked in self.versions.items()
            if here.get(name) != asked
        ]:
            raise EngineError(
                f"A worker has other versions than this process: {', '.join(different)}. Let the "
                "workers run in the same environment."
            )
        place = _kept(self.digest)
        if not place:
            content = self.content
            if content is None and folder is not None:
                with contextlib.suppress(OSError):
                    content = self._file(folder).read_bytes()
            # a file that is not what was asked for may run anything
            if content is None or hashlib.sha256(content).hexdigest() != self.digest:
                return None
            place.append(Unpacked(cloudpickle.loads(content)))
        return place[0]


@functools.lru_cache(maxsize=2)
def _kept(digest: str) -> list["Unpacked"]:
    """Where a job is kept, of the last ones."""
    return []


class Unpacked:
    """A job where it is computed, with its problem and data.

    Args:
        job: what was sent.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self._data: TrainingData | None = None

    @functools.cached_property
    def problem(self) -> StackelbergProblem:
        """The problem, made once."""
        problem = self.job.problem
        return problem.made() if isinstance(problem, ByName) else problem

    def data(self, seeds: list[int]) -> TrainingData:
        """The data of some of the seeds, which follow one another in the job."""
        job, problem = self.job, self.problem
        if problem.redraws_data:  # those of other seeds are not needed
            return TrainingData(problem, seeds, job.dtype, job.device, experienced=True)
        if self._data is None:
            kind = job.seeds, job.dtype, job.device
            self._data = TrainingData(problem, *kind, experienced=True)
        first = job.seeds.index(seeds[0])
        return self._data.part(slice(first, first + len(seeds)))

    def side_by_side(
        self, strategies: tuple[str, ...], seeds: list[int], options: Options
    ) -> SideBySide:
        """Some of the strategies on some of the seeds."""
        some = {name: self.job.strategies[name] for name in strategies}
        return SideBySide(some, self.data(seeds), options, self.job.stage)


@functools.cache
def versions() -> dict[str, str | None]:
    """What numbers, and pickles, depend on."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"python": python, **{name: version(name) for name in PACKAGES}}


def fingerprint(data: TrainingData) -> Fingerprint:
    """What tells data from others, but not from the same ones rounded by another processor."""
    found = []
    for place, leaf in trees.named_leaves(data.groups):
        some = leaf[: max(1, LOOKED_AT * len(leaf) // max(1, leaf.numel()))].double()
        moments = (float(some.mean()), float(some.square().mean())) if some.numel() else (0.0, 0.0)
        found.append((place, tuple(leaf.shape), str(leaf.dtype), *moments))
    return tuple(found)


def check_data(here: Fingerprint, there: Fingerprint) -> None:
    """Raise unless a worker has the data of who asked it.

    Raises:
        DataError: it has not.
    """
    same = [one[:3] for one in here] == [one[:3] for one in there] and all(
        abs(a - b) <= NEAR * max(1.0, abs(b))
        for one, other in zip(here, there, strict=True)
        for a, b in zip(one[3:], other[3:], strict=True)
    )
    if not same:
        raise DataError(
            "The problem has other data on a worker than in the process that asked it. Its files "
            "must be the same on all of them, and `data` must draw from the seed only."
        )
