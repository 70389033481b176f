"""Progress on a terminal and elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bilevel.commands.ending import Lossy, say

if TYPE_CHECKING:
    from bilevel.comparison.side_by_side import Progress

LINES = 20
"""As many tell of the shards of a stage where there is no terminal."""


@contextmanager
def displayed() -> Iterator[Callable[["Progress"], None]]:
    """What shows progress: a bar on a terminal, one line for each finished training elsewhere."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    console = Console(file=Lossy(sys.stderr))  # type: ignore[arg-type]  # it writes and flushes
    if not console.is_terminal:
        said: list[tuple[str, int]] = []

        def tell(progress: "Progress") -> None:
            if progress.shards is None:
                _print(progress)
                return
            finished, total = progress.shards
            place = progress.stage, LINES * finished // max(1, total)
            if finished and place not in said:
                said.append(place)
                verb = "tuned" if progress.stage == "tuning" else "trained"
                say(f"{verb} {finished:,} of {total:,} shards", sys.stderr)

        yield tell
        return
    with Bar(console=console, transient=True) as bar:
        task = bar.add_task("training", total=None)

        def show(progress: "Progress") -> None:
            done, total = progress.place
            timed = done == total and progress.stage != "tuning"  # that follows the last step
            what = "timing steps" if timed else progress.what
            bar.update(task, description=what, completed=done, total=total)

        yield show


def _print(progress: "Progress") -> None:
    if progress.step == progress.steps:
        tuned = progress.stage == "tuning"
        named = progress.what if tuned else ", ".join(progress.strategies)
        unit = "steps" if progress.unit == "steps" else "gradient evaluations"
        verb = "tuned" if tuned else "trained"
        say(f"{verb} {named}: {progress.steps} {unit}", sys.stderr)
