"""How far a training, or a pass over many rows, got: on a terminal, or for programs."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from bilevel.core.checks import check_flag, check_function
from bilevel.core.optional import extra

RowCallback = Callable[[int, int], object]
"""Called as `report(done, total)`, in rows, after each chunk of a pass."""
WANTED = "`progress=True`"
Show = Callable[[str, int, int], None]
"""Called as `show(what, done, total)`."""
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
    console, rich = extra("rich.console", "", WANTED), extra("rich.progress", "", WANTED)
    with rich.Progress(console=console.Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        passes = 1

        def show(done: int, total: int) -> None:
            nonlocal passes
            name = what if passes == 1 else f"{what}, pass {passes}"
            bar.update(task, description=name, completed=done, total=total)
            passes += done == total

        yield show


@contextmanager
def training_shown(progress: bool, unit: str = "steps") -> Iterator[Show | None]:
    """What to call with the place of a training while the block runs; None: nothing.

    A bar on a terminal and in a notebook, with the steps, the time that is left and the time that
    went by; elsewhere the line that it ends with.

    Args:
        progress: whether to show anything.
        unit: of what is counted.

    Raises:
        ArgumentError: `progress` is no bool.
        MissingPackageError: rich is not installed.
    """
    check_flag(progress, "progress")
    if not progress:
        yield None
        return
    rich = extra("rich.progress", "", WANTED)
    console = extra("rich.console", "", WANTED).Console(stderr=True)
    columns = (
        rich.TextColumn("{task.description}", markup=False),
        rich.BarColumn(),
        rich.TextColumn("{task.completed:,.0f} of {task.total:,.0f} " + unit),
        rich.TextColumn("ETA"),
        rich.TimeRemainingColumn(elapsed_when_finished=False),
        rich.TimeElapsedColumn(),
    )
    with rich.Progress(*columns, console=console, transient=console.is_terminal) as bar:
        tasks: list[Any] = []

        def show(what: str, done: int, total: int) -> None:
            if not tasks:
                tasks.append(bar.add_task(what, total=total))
            bar.update(tasks[0], description=what, completed=done, total=total)

        yield show
