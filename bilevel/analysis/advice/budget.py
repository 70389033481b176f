"""What an advice cost."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Spent(NamedTuple):
    """What a part of an advice cost.

    Attributes:
        run_steps: steps of single runs.
        seconds: CPU seconds of the process.
    """

    run_steps: int
    seconds: float


class Clock:
    """Counts what every part of the work costs.

    Args:
        callback: told of every part when it begins.
    """

    def __init__(self, callback: Callable[[str], object] | None = None) -> None:
        self.callback = callback
        self.budget: dict[str, Spent] = {}

    @contextmanager
    def counted(self, part: str) -> Iterator[list[int]]:
        """Count a block's seconds, and the run-steps that it appends to the list."""
        if self.callback is not None:
            self.callback(part)
        began, steps = time.process_time(), list[int]()
        yield steps
        self.budget[part] = Spent(sum(steps), time.process_time() - began)
