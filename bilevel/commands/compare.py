"""`bilevel compare`."""

import ast
import dataclasses
import datetime
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from bilevel import registry
from bilevel.commands.display import Display
from bilevel.commands.exit_codes import FAILED, OK
from bilevel.errors import ArgumentError, unknown_name

if TYPE_CHECKING:
    from bilevel.comparison import Comparison


@dataclasses.dataclass(frozen=True)
class Compare:
    """Compare strategies on a problem, print the result and write a report."""

    problem: tyro.conf.Positional[str] = ""
    """A name from `bilevel problems`; diabetes by default."""
    csv: Path | None = None
    """A file of your own instead of a problem: columns of numbers, with --target."""
    target: str = ""
    """The column of --csv to predict from the others."""
    body_lr: float = 5e-4
    """alpha, the slow rate."""
    head_lr: float = 5e-3
    """beta, the fast rate: above alpha."""
    seeds: int = 10
    """How many seeds; each is a pair for the statistics."""
    steps: int = 1500
    """Body steps of every strategy."""
    batch_size: int = 64
    """Rows per step, drawn i.i.d.; 0 means all rows."""
    strategies: tuple[str, ...] = ()
    """Names from `bilevel strategies`; all by default."""
    order: Literal["alternating", "simultaneous"] = "alternating"
    """Whether the head's gradient is taken at the new body or at the old one."""
    optimizer: Literal["rmsprop", "adam", "sgd"] = "rmsprop"
    """The optimiser of both levels."""
    set: tuple[str, ...] = ()
    """Options of the problem as key=value, such as width=128 ridge=1e-3."""
    every: int | None = None
    """Steps between records; about 50 records by default."""
    output: Path | None = None
    """A new folder for the results; results/PROBLEM-TIME by default."""
    threads: int = 1
    """Threads of torch; one is fastest for small problems."""
    compile: bool = False
    """Compile the training steps: worth it from about a million steps of all runs."""
    device: str = "cpu"
    """cpu, cuda, ..."""
    dtype: Literal["float32", "float64"] = "float32"
    """Floating type of the training; records are always computed in float64."""

    def run(self) -> int:
        """Train, print, write."""
        from bilevel.storage.folder import reserve

        now = datetime.datetime.now()
        folder = self.output or Path("results") / f"{self.name}-{now:%Y%m%d-%H%M%S}"
        reserve(folder)
        comparison = self.compare()
        try:  # the report first: a closed pipe, as of `| head`, must not cost it
            page = comparison.report(folder)
        finally:
            print(comparison.table())
        print(f"\nReport: {page}")
        codes = {code for run in comparison.status.values() for code in run}
        return FAILED if "DIVERGED" in codes else OK

    @property
    def name(self) -> str:
        """What the report calls the problem."""
        return self.csv.stem if self.csv is not None else self.problem or "diabetes"

    def options(self) -> dict[str, Any]:
        """The options of the problem; a file of one's own is the problem `table`."""
        options = dict(parse_option(option) for option in self.set)
        if self.csv is None:
            if self.target:
                raise ArgumentError("--target names a column of a file: give --csv FILE too.")
            return options
        if self.problem:
            raise ArgumentError(
                f"--csv takes the place of a problem: leave out either {self.problem!r} or --csv."
            )
        if not self.target:
            raise ArgumentError("--csv needs --target COLUMN, the column to predict.")
        for name in {"file", "target"} & set(options):
            raise ArgumentError(f"--set {name}=... contradicts --csv and --target: leave it out.")
        return {"file": str(self.csv), "target": self.target, **options}

    def compare(self) -> "Comparison":
        """The comparison itself."""
        import torch

        import bilevel

        set_threads(self.threads)
        options = self.options()
        problem = registry.make("table" if self.csv else self.name, **options)
        optimizers = {"rmsprop": bilevel.RMSProp, "adam": bilevel.Adam, "sgd": bilevel.SGD}
        presets = bilevel.preset_strategies(
            self.body_lr, self.head_lr, order=self.order, optimizer=optimizers[self.optimizer]()
        )
        for name in self.strategies:
            if name not in presets:
                raise unknown_name("strategy", name, presets)
        with Display() as display:
            return bilevel.compare(
                problem,
                {name: presets[name] for name in self.strategies or presets},
                self.seeds,
                steps=self.steps,
                batch_size=self.batch_size or None,
                every=self.every,
                name=self.name,
                compile=self.compile,
                device=self.device,
                dtype=getattr(torch, self.dtype),
                settings={"command": command_line(), "options": options},
                callback=display.show,
            )


def parse_option(text: str) -> tuple[str, Any]:
    """`width=128` as ("width", 128); values that are no Python literal stay strings."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ArgumentError(f"Options of a problem are written key=value, got {text!r}.")
    try:
        return key.strip(), ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key.strip(), value


def set_threads(threads: int) -> None:
    """How many threads torch uses from now on."""
    import torch

    if threads < 1:
        raise ArgumentError(f"`threads` must be at least 1, got {threads}.")
    torch.set_num_threads(threads)


def command_line() -> str:
    """The command that was typed."""
    return shlex.join(["bilevel", *sys.argv[1:]])
