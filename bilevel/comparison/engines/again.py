"""What a job of submitit computes: a function that is queued again when its time is over."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

from bilevel.core.optional import extra


class Again:
    """A function that submitit queues again when the time of its job is over."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any) -> Any:
        """Call the function."""
        return self.function(*args)

    def checkpoint(self, *args: Any) -> Any:
        """What the next job does: the same, which goes on from what was kept."""
        return submitit_needed().helpers.DelayedSubmission(self, *args)


def submitit_needed() -> ModuleType:
    """The package.

    Raises:
        MissingPackageError: it is not installed; names the extra.
    """
    return extra("submitit", "slurm", "An engine of Slurm")
