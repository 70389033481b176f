"""`bilevel advise`."""

import dataclasses
import sys
from pathlib import Path
from typing import Literal

import tyro

from bilevel.commands.ending import say
from bilevel.commands.exit_codes import OK
from bilevel.commands.options import options_of, set_threads
from bilevel.errors import ArgumentError
from bilevel.problem import registry


@dataclasses.dataclass(frozen=True)
class Advise:
    """Should the head learn at another rate than the body, and at which? Judged on unseen seeds."""

    problem: tyro.conf.Positional[str] = ""
    """A name from `bilevel problems`."""
    csv: Path | None = None
    """A file of your own instead of a problem: columns of numbers, with --target."""
    target: str = ""
    """The column of --csv to predict from the others."""
    steps: int = 400
    """Steps of every training: as many as you will make."""
    batch_size: int = 64
    """Rows per step; 0 means all rows."""
    optimizer: Literal["rmsprop", "adam", "adamw", "sgd"] = "rmsprop"
    """The optimiser of both levels."""
    order: Literal["alternating", "simultaneous"] = "alternating"
    """Whether the head's gradient is taken at the new body or, as loops of torch do, at the old."""
    seeds: int = 5
    """How many seeds choose rates."""
    held_out: int = 20
    """How many other seeds judge them."""
    set: tuple[str, ...] = ()
    """Options of the problem as key=value, such as width=128 ridge=1e-3."""
    figure: Path | None = None
    """A file for the map of all rates that were tried: .svg, .pdf or .png."""
    threads: int = 1
    """Threads of torch; one is fastest for small problems."""
    device: str = "cpu"
    """cpu, cuda, ..."""

    def run(self) -> int:
        """Print the advice."""
        if self.figure is not None and self.figure.suffix not in (".svg", ".pdf", ".png"):
            raise ArgumentError(f"--figure must end in .svg, .pdf or .png, got {self.figure}.")
        name, options = options_of(self.problem, self.csv, self.target, self.set)
        if not name:
            raise ArgumentError("Name a problem of `bilevel problems`, or give --csv and --target.")

        import bilevel
        from bilevel.storage.folder import located

        figure = None if self.figure is None else located(self.figure)
        if figure is not None and not figure.parent.is_dir():  # said before minutes of work
            raise ArgumentError(f"--figure names a file in {figure.parent}, which is no folder.")
        set_threads(self.threads)
        optimizers = {"rmsprop": bilevel.RMSProp, "adam": bilevel.Adam, "adamw": bilevel.AdamW,
                      "sgd": bilevel.SGD}  # fmt: skip
        advice = bilevel.advise(
            registry.load_problem(name, **options),
            optimizer=optimizers[self.optimizer](),
            steps=self.steps,
            batch_size=self.batch_size or None,
            seeds=self.seeds,
            held_out_seeds=self.held_out,
            order=self.order,
            device=self.device,
            callback=lambda part: say(f"{part} ...", sys.stderr),
        )
        say(str(advice))
        if figure is not None:
            from bilevel.report.svg import to_svg

            drawn = advice.figure()
            if figure.suffix == ".svg":
                figure.write_text(to_svg(drawn), encoding="utf-8")  # the same for the same numbers
            else:
                drawn.savefig(figure, dpi=200)
        return OK
