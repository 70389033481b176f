"""What may be held at once, and memory that ran out: said as such, not as what it broke off."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from bilevel.errors import NotEnoughMemoryError

P = ParamSpec("P")
Result = TypeVar("Result")
SIGNS = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED",
         "Storage size calculation overflowed")  # fmt: skip
"""What torch says where memory is short; its errors on a CPU are of no class of their own."""


def at_once(bytes_on_processor: int, device: torch.device | str) -> int:
    """Bytes that runs together may take: a quarter of what is free on a CUDA device, if more."""
    if torch.device(device).type != "cuda":
        return bytes_on_processor
    free, _ = torch.cuda.mem_get_info(device)
    return max(bytes_on_processor, free // 4)


def says_memory(function: Callable[P, Result]) -> Callable[P, Result]:
    """The function, which raises a `NotEnoughMemoryError` where the cause of an error is memory.

    Functions of a problem run inside: on its way an error may have been made one about shapes.
    """

    @functools.wraps(function)
    def call(*arguments: P.args, **options: P.kwargs) -> Result:
        try:
            return function(*arguments, **options)
        except Exception as error:
            cause: BaseException | None = error
            while cause is not None and not _short(cause):
                cause = cause.__cause__
            if cause is None or isinstance(error, NotEnoughMemoryError):
                raise
            said = str(cause).partition("\n")[0].rstrip(".") or type(cause).__name__
            raise NotEnoughMemoryError(
                f"Memory ran out: {said}. Compute fewer runs at once (`max_runs_at_once` of "
                "`solve` and `compare`) or fewer rows (`batch_size`; `chunk_rows` of a linear head "
                "problem bounds what all rows take), or in float32."
            ) from error

    return call


def _short(error: BaseException) -> bool:
    signs = isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)
    return signs or isinstance(error, MemoryError | torch.OutOfMemoryError)
