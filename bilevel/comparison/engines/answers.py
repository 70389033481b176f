"""What a shard sends back, and keeps in its folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bilevel.core.status import Status
from bilevel.errors import ResultsError
from bilevel.storage.schema import Schema, check
from bilevel.storage.tensors import REMEDY, check_kinds, read_tensors, write_tensors

History = dict[str, dict[str, NDArray[np.float64]]]
STATUSES: Schema = {"*": [tuple(Status.__members__)]}
PROCESSOR: Schema = {"kind": str, "bits": str}
SCHEMA: Schema = {"shard": str, "strategies": [str], "metrics": [str], "status": STATUSES,
                  "heads": STATUSES, "processor": PROCESSOR}  # fmt: skip


class Result(NamedTuple):
    """What became of the runs of a shard.

    Attributes:
        history: name -> metric -> (T, R), as far as they came.
        status: name -> R names of `Status` members.
        heads: the same of the heads.
        processor: "kind", what people call the processor, and "bits", which tells those that round
            differently.
    """

    history: History
    status: dict[str, list[str]]
    heads: dict[str, list[str]]
    processor: dict[str, str]

    @property
    def interrupted(self) -> bool:
        """Whether its runs did not come to their end."""
        codes = {code for codes in self.status.values() for code in codes}
        return not self.history or Status.INTERRUPTED.name in codes


class Trouble(NamedTuple):
    """Why there is no result.

    Attributes:
        kind: name of the exception.
        text: what it says.
        where: the end of its traceback.
        final: whether it would come again: an error of the library about arguments, data or files.
        memory: whether memory ran out.
    """

    kind: str
    text: str
    where: str
    final: bool
    memory: bool


class Answer(NamedTuple):
    """What a worker sends back.

    Attributes:
        result: None if there is none.
        kept: whether the worker keeps files where they were asked for.
        trouble: why there is no result.
        lacks: whether there is none because the content of the job was not where it said.
    """

    result: Result | None
    kept: bool = False
    trouble: Trouble | None = None
    lacks: bool = False


def write_result(path: Path, result: Result, shard: str) -> None:
    """Keep the result of the shard with that digest."""
    metrics = list(dict.fromkeys(name for table in result.history.values() for name in table))
    tensors = {
        f"{i}.{metric}": torch.from_numpy(values)
        for i, table in enumerate(result.history.values())
        for metric, values in table.items()
    }
    content: Mapping[str, Any] = {
        "shard": shard, "strategies": list(result.history), "metrics": metrics,
        "status": result.status, "heads": result.heads, "processor": result.processor,
    }  # fmt: skip
    write_tensors(path, tensors, content)


def read_result(path: Path, shard: str) -> Result | None:
    """The result of the shard with that digest; None where it is not there, or of another one.

    Raises:
        ResultsError: the file is damaged.
    """
    if not path.is_file():
        return None
    tensors, content = read_tensors(path)
    check(content, SCHEMA, path, REMEDY)
    names = content["strategies"]
    check_kinds(path, {k: x.flatten()[:0] for k, x in tensors.items()}, {"*": "float64 (0,)"})
    for key in ("status", "heads"):
        if set(content[key]) != set(names):
            raise ResultsError(f"{path} is malformed: `{key}` is not of {names}. {REMEDY}")
    history: History = {
        name: {
            metric: tensors[f"{i}.{metric}"].numpy()
            for metric in content["metrics"]
            if f"{i}.{metric}" in tensors
        }
        for i, name in enumerate(names)
    }
    for name, table in history.items():
        shapes = {values.shape for values in table.values()}
        if len(shapes) != 1 or next(iter(shapes))[1:] != (len(content["status"][name]),):
            raise ResultsError(f"{path} is malformed: {name!r} has records of {shapes}. {REMEDY}")
    if content["shard"] != shard:
        return None
    return Result(history, content["status"], content["heads"], content["processor"])
