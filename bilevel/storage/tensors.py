"""Tensors with their description in one file: safetensors, with a checksum over all of it.

No pickle: reading a file runs nothing that is in it.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bilevel.errors import ResultsError
from bilevel.storage.folder import write_whole
from bilevel.storage.reading import parsed
from bilevel.storage.schema import ANYTHING, Schema, check

REMEDY = "Put back a copy of the file, or train anew."


def write_tensors(path: Path, tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> None:
    """Write a file that `read_tensors` gives back, bit for bit.

    One that was there stays whole until then, see `write_whole`. `content` is what JSON can hold.
    """
    own = {  # of their own: the format has no word for tensors that share memory
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    text = json.dumps(content, sort_keys=True)
    metadata = {"content": text, "sha256": _digest(own, text)}
    write_whole(path, safetensors.torch.save(own, metadata))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on the CPU, and the content that `write_tensors` wrote.

    Raises:
        ResultsError: If it is missing, cut off, changed or of another kind; names the file.
    """
    if not path.is_file():
        raise ResultsError(f"There is no file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            text = metadata.get("content", "")
            whole = metadata.get("sha256") == _digest(tensors, text)
    # safetensors has types that torch does not; nobody says what comes of them
    except (SafetensorError, OSError, RuntimeError, TypeError, ValueError, LookupError,
            MemoryError) as error:  # fmt: skip
        raise ResultsError(f"{path} is damaged: it was cut off or changed ({error}).") from error
    if not whole:
        raise ResultsError(f"{path} is damaged: its checksum does not fit what it holds.")
    return tensors, parsed(text, path, ANYTHING, REMEDY)


def check_kinds(path: Path, tensors: Mapping[str, Tensor], kinds: Schema) -> None:
    """Raise unless the tensors of a file are of kinds such as "float64 (3, 2)", by their names."""
    found = {name: f"{x.dtype} {tuple(x.shape)}"[6:] for name, x in tensors.items()}
    check(found, {**kinds, "*": str}, path, REMEDY)


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    """SHA-256 of the text and of the tensors as they are written."""
    return hashlib.sha256(text.encode() + safetensors.torch.save(dict(tensors))).hexdigest()


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, by the rest of their names."""
    return {k.removeprefix(prefix): x for k, x in tensors.items() if k.startswith(prefix)}
