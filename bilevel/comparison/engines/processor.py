"""What kind of processor computes here, and whether another one computes the same bits."""

import functools
import hashlib
import platform
from contextlib import suppress
from pathlib import Path

import torch

from bilevel.core.generators import normal


@functools.cache
def processor(device: str) -> dict[str, str]:
    """The kind of processor, and a digest of what it makes of numbers.

    The digest is of a fixed set of operations in both floating types, those that trainings consist
    of: products and solutions of systems, exponentials and the like, and sums. Processors with
    equal digests may be expected to make the same numbers of a training; with others these differ
    by rounding.

    Args:
        device: where trainings are computed.
    """
    place = torch.device(device)
    if place.type == "cpu":
        kind = f"{_model()} ({torch.backends.cpu.get_cpu_capability()})"
    elif place.type == "cuda":
        kind = torch.cuda.get_device_name(place)
    else:
        kind = place.type
    found = hashlib.sha256()
    for dtype in (torch.float32, torch.float64):
        with suppress(RuntimeError, TypeError):  # there are devices without float64
            for made in _operations(dtype, place):
                found.update(made.cpu().contiguous().numpy().tobytes())
    return {"kind": kind, "bits": found.hexdigest()[:16]}


def _operations(dtype: torch.dtype, device: torch.device) -> list[torch.Tensor]:
    x = normal("processor", 3, 37, 29).to(dtype=dtype, device=device)
    gram = x.mT @ x + torch.eye(29, dtype=dtype, device=device)
    factor = torch.linalg.cholesky(gram)
    solved = torch.cholesky_solve(x.mT, factor)
    return [gram, factor, solved, x.tanh(), x.exp(), x.sigmoid(), x.sin(), x.square().mean((1, 2))]


def _model() -> str:
    """The name of the processor."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
