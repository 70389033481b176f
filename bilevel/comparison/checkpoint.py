"""A comparison on disk while it is trained, so that an interruption costs seconds."""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bilevel import trees
from bilevel.comparison.kept import DESCRIPTION, check_link, is_new, sweep
from bilevel.core import parts
from bilevel.data.groups import ROWS_AT_ONCE
from bilevel.data.training_data import TrainingData
from bilevel.errors import ArgumentError, ResultsError
from bilevel.storage.folder import HeldFolder, plain, write_json
from bilevel.storage.reading import read_json
from bilevel.storage.schema import ANYTHING, NATURAL, Schema
from bilevel.storage.tensors import REMEDY, check_kinds, read_tensors, under, write_tensors
from bilevel.training.state import TrainingState
from bilevel.training.training import Training

OBJECTIVES = {"objective", "body_objective"}
"""Of the first record: what tells problems apart."""
SCHEMA: Schema = {"recorded": [NATURAL], "comparison": str, "training": str}
SECONDS = 10.0
"""At most this much work is lost; saving more often would slow small trainings."""


class KeptTrainings:
    """Files of trainings in a folder.

    One file for each group of strategies that are trained together: its records and where it
    stands. Files are replaced as a whole, so that one is complete whatever happens.

    Args:
        folder: where they are.
        digest: of what they belong to; they know it.
    """

    def __init__(self, folder: Path, digest: str) -> None:
        self.folder, self.digest = folder, digest
        self._saved = time.monotonic()

    def restore(self, name: str, training: Training) -> None:
        """Put a training where it stood, if it was kept.

        Raises:
            ResultsError: the file is damaged, or of another training; it is named, and the others
                stay as they are.
        """
        path = self.folder / f"{name}.safetensors"
        if not os.path.lexists(path):
            return
        try:
            check_link(path)
            tensors, content = read_tensors(path)
            if content.get("comparison") != self.digest or content.get("training") != name:
                raise ResultsError(f"{path} belongs to another comparison or training.")
            state, recorded = (
                TrainingState.unpack(path, tensors, content, SCHEMA),
                content["recorded"],
            )
            records = under("record.", tensors)
            shape = len(recorded), len(training.data.seeds)
            check_kinds(path, tensors, {"record.*": f"float64 {shape}"})
            if recorded[:1] != [0] or recorded != sorted({*recorded}) or recorded[-1] > state.step:
                raise ResultsError(f"{path} is malformed: no records at {recorded}. {REMEDY}")
        except ResultsError as error:
            raise ResultsError(
                f"{error} Delete it to train its strategies anew; what the other files of "
                f"{self.folder} hold is kept."
            ) from error
        names = self._check_start(path, training, records)
        # a file holds its tensors in the order of the alphabet, a history in that of the records
        ordered = {name: records[name] for name in names}
        try:
            training.restore(state, recorded, ordered)
        except ArgumentError as error:
            raise ResultsError(f"{path} holds another training. {error}") from error

    def keep(
        self, name: str, training: Training, *, now: bool = False, finished: bool = False
    ) -> None:
        """Save a training if `now`, or if the last time is long ago.

        One that cannot be gone on from is saved when it is `finished`, its records alone.

        Raises:
            UnwritableError: it cannot be written.
        """
        if not training.resumable and not finished:
            return
        if training.resumable and not now and time.monotonic() - self._saved < SECONDS:
            return
        self.describe()
        state = training.state
        if not training.resumable:
            state = state._replace(strategy=())
        tensors, content = state.pack()
        records = {f"record.{key}": values for key, values in training.history().items()}
        content |= {"recorded": training.recorded, "comparison": self.digest, "training": name}
        write_tensors(self.folder / f"{name}.safetensors", tensors | records, content)
        self._saved = time.monotonic()

    def describe(self) -> None:
        """Say what the folder holds, where nothing else does; it has something to keep now."""

    @staticmethod
    def _check_start(path: Path, training: Training, records: Mapping[str, Tensor]) -> list[str]:
        """Options of a problem are known to nobody, but most of them show in the first record.

        Returns the names of the records, in their order.
        """
        cohort = training.cohorts[0]
        made = cohort.state.strategy
        fresh = cohort.recorder.record(made.body, cohort.head(), respond=False)
        if fresh.keys() != records.keys():
            raise ResultsError(
                f"{path} holds a training with other records: "
                f"{', '.join(sorted(fresh.keys() ^ records.keys()))} in one of them only. Make the "
                "problem with the options that it had then, with the version of bilevel that "
                "trained it, or name another folder."
            )
        for name in OBJECTIVES & fresh.keys():
            now = fresh[name].cpu()
            kept = records[name][0, : len(now)]
            # equal on one machine; another one may round differently
            if not torch.allclose(now, kept, rtol=1e-3, atol=0, equal_nan=True):
                raise ResultsError(
                    f"{path} holds a training that started elsewhere. Make the problem with the "
                    "options that it had then, or name another folder."
                )
        return list(fresh)


class Checkpoint(KeptTrainings):
    """A folder in which the trainings of one comparison are kept.

    Args:
        folder: empty, or of the same comparison.
        description: everything the numbers depend on.
        settings: anything else, written into a folder that is empty.

    Raises:
        ResultsError: the folder holds another comparison, or none.
    """

    def __init__(
        self,
        folder: HeldFolder,
        description: Mapping[str, Any],
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        sweep(folder.path)
        self._new: dict[str, Any] | None = None
        if is_new(folder.path):  # described once there is something to keep
            self._new = {"comparison": plain(description), "settings": settings or {}}
        stored = (self._new or read_description(folder.path))["comparison"]
        found, asked = _spelled(stored), _spelled(plain(description))
        different = sorted(
            key for key in found.keys() | asked.keys() if found.get(key) != asked.get(key)
        )
        if different:
            raise ResultsError(
                f"{folder.path} holds a comparison that differs in {', '.join(different)}. Ask for "
                "the same one, or name another folder."
            )
        super().__init__(folder.path, digest_of(stored))

    def describe(self) -> None:
        """Say what the folder holds."""
        if self._new is not None:
            write_json(self.folder / DESCRIPTION, self._new)
            self._new = None


def digest_of(description: Any) -> str:
    """What tells one description, as JSON has it, from another."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def digest(data: TrainingData) -> str:
    """What tells one data set from another."""
    found = hashlib.sha256()
    for place, leaf in trees.named_leaves(data.groups):
        found.update(f"{place} {tuple(leaf.shape)} {leaf.dtype}".encode())
        for some in torch.split(leaf, ROWS_AT_ONCE):  # they may come from a file
            found.update(some.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _spelled(description: Mapping[str, Any]) -> dict[str, str]:
    """Every entry as text, with parts of the library as this version spells them."""
    texts = {key: json.dumps(value, sort_keys=True) for key, value in description.items()}
    return {key: parts.without_modules(text) for key, text in texts.items()}


def read_description(folder: Path) -> dict[str, Any]:
    """What a checkpoint says it is: "comparison", and "settings" as they were given.

    Raises:
        ResultsError: It is none.
    """
    path = folder / DESCRIPTION
    for place in (folder, path):
        check_link(place)
    if not path.is_file():
        raise ResultsError(f"{folder} holds no comparison to go on from: there is no {path}.")
    schema = {"comparison": ANYTHING, "settings": ANYTHING}
    return read_json(path, schema, "Put back a copy of it, or name another folder.")
