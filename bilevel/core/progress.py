"""How far a pass over many rows got: on a terminal, or for programs."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bilevel.core.checks import check_function

RowCallback = Callable[[int, int], object]
"""Called as `report(done, total)`, in rows, after each chunk of a pass."""
ShowProgress = bool | RowCallback
"""True: a bar, if standard error is a terminal; False: nothing; or a `RowCallback`."""


@contextmanager
def reported(progress: ShowProgress, what: str) -> Iterator[RowCallback | None]:
    """What to call after each chunk while the block runs; None: nothing.

    Args:
        progress: see `ShowProgress`. Several passes may follow one another; each counts from zero.
        what: one or two words for the bar.

    Raises:
        ArgumentError: `progress` is neither a bool nor callable.
    """
    if not isinstance(progress, bool):
        example = "progress(rows done, rows in all), or True or False"
        check_function(progress, "progress", example, 2)
        yield progress
        return
    if not progress or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        passes = 1

        def show(done: int, total: int) -> None:
            nonlocal passes
            name = what if passes == 1 else f"{what}, pass {passes}"
            bar.update(task, description=name, completed=done, total=total)
            passes += done == total

        yield show
