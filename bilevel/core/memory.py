"""Memory that ran out is said as such, and not as the error of whatever it broke off."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from bilevel.errors import NotEnoughMemoryError

P = ParamSpec("P")
Result = TypeVar("Result")
SIGNS = (
    "out of memory",
    "not enough memory",  # torch on Windows
    "can't allocate memory",
    "Storage size calculation overflowed",
    "ALLOC_FAILED",
)
"""What errors of torch say where memory is short, which are of no class of their own on a CPU."""


def says_memory(function: Callable[P, Result]) -> Callable[P, Result]:
    """The function, which raises a `NotEnoughMemoryError` where memory that ran out is the cause.

    Functions of a problem run inside of it: what fails there may have been given another name on
    its way, such as a `ProblemError` about shapes.
    """

    @functools.wraps(function)
    def call(*arguments: P.args, **options: P.kwargs) -> Result:
        try:
            return function(*arguments, **options)
        except Exception as error:
            short = None if isinstance(error, NotEnoughMemoryError) else _shortage(error)
            if short is None:
                raise
            said = str(short).partition("\n")[0].rstrip(".") or type(short).__name__
            raise NotEnoughMemoryError(
                f"Memory ran out: {said}. Compute fewer runs at once (`max_runs_at_once` of "
                "`solve` and `compare`) or fewer rows (`batch_size`; `chunk_rows` of a linear head "
                "problem bounds what all rows take), or in float32."
            ) from error

    return call


def _shortage(error: BaseException) -> BaseException | None:
    """The error of memory among an error and its causes."""
    found: BaseException | None = error
    while found is not None:
        kinds = isinstance(found, MemoryError | torch.OutOfMemoryError)
        if kinds or (isinstance(found, RuntimeError) and any(s in str(found) for s in SIGNS)):
            return found
        found = found.__cause__
    return None
