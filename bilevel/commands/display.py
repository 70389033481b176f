"""Progress on a terminal and elsewhere."""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bilevel.comparison.side_by_side import Progress


class Display:
    """Progress: a bar on a terminal, one line for each finished training elsewhere."""

    def __enter__(self) -> "Display":
        """Start the bar, if there is a terminal."""
        from rich.console import Console
        from rich.progress import Progress as Bar

        console = Console(stderr=True)
        self.bar = Bar(console=console, transient=True) if console.is_terminal else None
        self.task: Any = None
        if self.bar is not None:
            self.bar.start()
            self.task = self.bar.add_task("training", total=None)
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.stop()

    def show(self, progress: "Progress") -> None:
        """Show where the comparison stands."""
        group = progress.strategies
        several = "trials" if progress.stage == "tuning" else "strategies"
        what = f"{len(group)} {several} together" if len(group) > 1 else group[0]
        if self.bar is not None:
            self.bar.update(
                self.task,
                description=what,
                completed=progress.done * progress.steps + progress.step * len(group),
                total=progress.total * progress.steps,
            )
        elif progress.step == progress.steps:
            unit = "steps" if progress.unit == "steps" else "gradient evaluations"
            named = what if progress.stage == "tuning" else ", ".join(group)
            verb = "tuned" if progress.stage == "tuning" else "trained"
            print(f"{verb} {named}: {progress.steps} {unit}", file=sys.stderr)
