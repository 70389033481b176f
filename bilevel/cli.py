"""The `bilevel` command. Thin: everything it does can be done from Python.

torch is imported inside of the commands that need it, so that `bilevel --help` is quick.
"""

import ast
import dataclasses
import datetime
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from bilevel import registry
from bilevel.errors import AllRunsFailedError, ArgumentError, BilevelError, unknown_name

if TYPE_CHECKING:
    from bilevel.comparing import Progress
    from bilevel.comparison import Comparison

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


@dataclasses.dataclass(frozen=True)
class Compare:
    """Compare strategies on a problem, print the result and write a report."""

    problem: tyro.conf.Positional[str] = "diabetes"
    """A name from `bilevel problems`."""
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
        folder = self.output or Path("results") / f"{self.problem}-{now:%Y%m%d-%H%M%S}"
        reserve(folder)
        comparison = self.compare()
        try:  # the report first: a closed pipe, as of `| head`, must not cost it
            page = comparison.report(folder)
        finally:
            print(comparison.table())
        print(f"\nReport: {page}")
        codes = {code for run in comparison.status.values() for code in run}
        return FAILED if "DIVERGED" in codes else OK

    def compare(self) -> "Comparison":
        """The comparison itself."""
        import torch

        import bilevel

        set_threads(self.threads)
        options = dict(parse_option(option) for option in self.set)
        problem = registry.make(self.problem, **options)
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
                name=self.problem,
                compile=self.compile,
                device=self.device,
                dtype=getattr(torch, self.dtype),
                settings={"command": command_line(), "options": options},
                callback=display.show,
            )


@dataclasses.dataclass(frozen=True)
class Problems:
    """List the problems with their options."""

    def run(self) -> int:
        """Print them."""
        for name in registry.names():
            factory = registry.load(name)
            print(f"{name:16} {registry.summary(factory)}")
            options = registry.options_of(factory)
            print(f"{'':16} " + " ".join(f"{key}={value}" for key, value in options.items()))
        return OK


@dataclasses.dataclass(frozen=True)
class Strategies:
    """List the strategies that `compare` knows by name."""

    body_lr: float = 5e-4
    """alpha, the slow rate."""
    head_lr: float = 5e-3
    """beta, the fast rate: above alpha."""

    def run(self) -> int:
        """Print them."""
        import bilevel

        for name, strategy in bilevel.preset_strategies(self.body_lr, self.head_lr).items():
            print(f"{name:16} {strategy}")
        return OK


@dataclasses.dataclass(frozen=True)
class Report:
    """Print the result in a folder that `compare` wrote; with --output, write its report anew."""

    folder: tyro.conf.Positional[Path]
    """A results folder."""
    output: Path | None = None
    """A new folder for the report; by default nothing is written."""

    def run(self) -> int:
        """Load, print, write."""
        from bilevel.comparison import Comparison

        comparison = Comparison.load(self.folder)
        print(comparison.table())
        page = self.folder / "report.html"
        if self.output is not None:
            page = comparison.report(self.output)
        print(f"\nReport: {page}")
        return OK


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Check the installation: versions, devices, registered problems, one gradient."""

    def run(self) -> int:
        """Print the findings; 1 if something is wrong."""
        import torch

        import bilevel
        from bilevel.storage.environment import environment

        found = environment(threads=torch.get_num_threads())
        for key, value in found.items():
            print(f"{key:16} {value}")
        print(f"{'cuda':16} {'available' if torch.cuda.is_available() else 'not available'}")
        healthy = True
        for name in registry.names():
            try:
                registry.make(name)
                print(f"{name:16} ok")
            except (BilevelError, ImportError) as error:
                healthy = False
                print(f"{name:16} {error}")
        problem = registry.make("scalar-product")
        body = torch.tensor(2.0, dtype=torch.float64)
        # Phi'(w) = -lambda w / (w^2 + lambda)^2 + mu w at w = 2, lambda = 1, mu = 0.1
        off = abs(float(bilevel.hypergradient(problem, body).body) - (-2 / 25 + 0.2))
        healthy &= off < 1e-12
        print(f"{'gradient':16} off by {off:.1e} from the closed form of Lemma 4.1")
        print("All is well." if healthy else "Something is wrong: see above.")
        return OK if healthy else FAILED


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
        what = f"{len(group)} strategies together" if len(group) > 1 else group[0]
        if self.bar is not None:
            self.bar.update(
                self.task,
                description=what,
                completed=progress.done * progress.steps + progress.step * len(group),
                total=progress.total * progress.steps,
            )
        elif progress.step == progress.steps:
            print(f"trained {', '.join(group)}: {progress.steps} steps", file=sys.stderr)


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
    import shlex

    return shlex.join(["bilevel", *sys.argv[1:]])


Command = (
    Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Problems, tyro.conf.subcommand("problems")]
    | Annotated[Strategies, tyro.conf.subcommand("strategies")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code is 0 (fine), 1 (a run failed) or 2 (wrong usage)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    extra = registry.names(registry.COMMANDS)
    try:
        if arguments and arguments[0] in extra:
            return int(registry.load(arguments[0], registry.COMMANDS)(arguments[1:]) or OK)
        if arguments[:1] == ["--version"]:
            print(f"bilevel {metadata.version('bilevel')}")
            return OK
        known = ("compare", "problems", "strategies", "report", "doctor", *extra)
        if arguments and not arguments[0].startswith("-") and arguments[0] not in known:
            raise unknown_name("command", arguments[0], known)
        description = "Compare training strategies for bilevel and Stackelberg problems."
        description += " --version prints the version."
        if extra:
            description += f" Commands of installed packages: {', '.join(extra)}."
        command = tyro.cli(
            Command,
            prog="bilevel",
            description=description,
            args=arguments,
            config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes),
        )
        return int(command.run())
    except AllRunsFailedError as error:
        print(f"bilevel: {error}", file=sys.stderr)
        return FAILED
    except BilevelError as error:
        print(f"bilevel: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("bilevel: interrupted before anything was recorded", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
