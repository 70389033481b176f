"""`bilevel compare`."""

import ast
import dataclasses
import datetime
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

import tyro

from bilevel.commands.display import displayed
from bilevel.commands.exit_codes import FAILED, INTERRUPTED, OK
from bilevel.errors import AllRunsFailedError, ArgumentError, BilevelError, ResultsError
from bilevel.problem import registry

if TYPE_CHECKING:
    from bilevel.comparison.result import Comparison

PARTIAL = ".partial"
"""What the folder of a comparison is called, after its name, until it is finished."""


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
    seeds: int = 20
    """How many seeds; each is a pair for the statistics."""
    steps: int = 1500
    """Body steps of every strategy."""
    batch_size: int = 64
    """Rows per step; 0 means all rows."""
    strategies: tuple[str, ...] = ()
    """Names from `bilevel strategies`, or of a problem's own; the first six, or all of those."""
    order: Literal["alternating", "simultaneous"] = "alternating"
    """Whether the head's gradient is taken at the new body or at the old one."""
    optimizer: Literal["rmsprop", "adam", "sgd"] = "rmsprop"
    """The optimiser of both levels."""
    set: tuple[str, ...] = ()
    """Options of the problem as key=value, such as width=128 ridge=1e-3."""
    data_dir: Path | None = None
    """A folder with the files of an image data set; other places are searched too."""
    every: int | None = None
    """Steps between records; about 50 records by default."""
    budget: Literal["steps", "gradients"] = "steps"
    """What is equal for all; with gradients, --steps counts gradient evaluations."""
    sampling: Literal["iid", "epochs", "sequential"] = "iid"
    """Rows with replacement, in epochs without, or in the order of the data."""
    tune: tuple[float, ...] = ()
    """Factors to search every strategy's rates with, such as 0.1 0.3 1 3 10."""
    clip: float | None = None
    """The largest norm of a gradient of a run, for body and head each; none by default."""
    max_runs_at_once: int | None = None
    """Bounds memory; more runs take turns."""
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

    resume: Path | None = None
    """A folder NAME.partial that an interrupted comparison left: go on with it."""

    def run(self) -> int:
        """Train, print, write."""
        from bilevel.storage.folder import reserve

        if self.resume is not None:
            return resumed(self, self.resume).run_in(self.resume)
        now = datetime.datetime.now()
        folder = self.output or Path("results") / f"{self.name}-{now:%Y%m%d-%H%M%S}"
        partial = folder.with_name(folder.name + PARTIAL)
        reserve(folder)
        reserve(partial)
        return dataclasses.replace(self, output=folder).run_in(partial)

    def run_in(self, partial: Path) -> int:
        """Train in the folder `partial`, which is gone when the report is written."""
        from bilevel.comparison.checkpoint import trained_files
        from bilevel.core.status import Status
        from bilevel.storage.folder import reserve

        assert self.output is not None
        reserve(self.output)
        try:
            with terminated_as_interrupted():
                comparison = self.compare(partial)
        except AllRunsFailedError:
            shutil.rmtree(partial)  # going on would not help
            raise
        except (BilevelError, KeyboardInterrupt) as error:
            kept = trained_files(partial)
            if not kept:
                shutil.rmtree(partial, ignore_errors=True)
            if not kept or isinstance(error, BilevelError):
                raise
            print(f"Interrupted. {go_on(partial)}", file=sys.stderr)
            return INTERRUPTED
        codes = {code for run in comparison.status.values() for code in run}
        interrupted = "INTERRUPTED" in codes or "not_trained" in comparison.settings
        folder = partial / "report" if interrupted else self.output
        if interrupted:
            shutil.rmtree(folder, ignore_errors=True)  # of an earlier interruption
        try:  # the report first: a closed pipe, as of `| head`, must not cost it
            page = comparison.report(folder)
            if not interrupted:
                shutil.rmtree(partial)
        finally:
            print(comparison.table())
        print(f"\nReport: {page}")
        if interrupted:
            print(f"Interrupted. {go_on(partial)}", file=sys.stderr)
            return INTERRUPTED
        return FAILED if any(Status[code].failed for code in codes) else OK

    @property
    def name(self) -> str:
        """What the report calls the problem."""
        return self.csv.stem if self.csv is not None else self.problem or "diabetes"

    def options(self) -> dict[str, Any]:
        """The options of the problem; a file of one's own is the problem `table`."""
        options = dict(parse_option(option) for option in self.set)
        if self.data_dir is not None:
            if "data_dir" in options:
                raise ArgumentError("--data-dir and --set data_dir=... contradict: leave out one.")
            options["data_dir"] = str(self.data_dir)
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

    def compare(self, partial: Path | None = None) -> "Comparison":
        """The comparison itself, kept in the folder `partial` while it is trained."""
        import torch

        import bilevel
        from bilevel.core.checks import check_instance
        from bilevel.strategies.presets import by_name

        set_threads(self.threads)
        options = self.options()
        problem = registry.make("table" if self.csv else self.name, **options)
        optimizers = {"rmsprop": bilevel.RMSProp, "adam": bilevel.Adam, "sgd": bilevel.SGD}
        optimizer = optimizers[self.optimizer]()
        if self.clip is not None:
            optimizer = bilevel.Clipped(self.clip, optimizer)
        check_instance(
            problem, bilevel.StackelbergProblem, "problem", "an instance of your problem"
        )
        strategies = problem.strategies(self.body_lr, self.head_lr)
        if strategies is None:
            strategies = bilevel.preset_strategies(
                self.body_lr,
                self.head_lr,
                order=self.order,
                optimizer=optimizer,
                names=self.strategies or None,
            )
        else:
            asked = self.strategies or tuple(strategies)
            strategies = by_name(strategies, asked, f"strategy of {self.name}")
        with displayed() as show:
            return bilevel.compare(
                problem,
                strategies,
                seeds=self.seeds,
                steps=self.steps,
                batch_size=self.batch_size or None,
                every=self.every,
                budget=self.budget,
                sampling=self.sampling,
                tune=self.tune or None,
                max_runs_at_once=self.max_runs_at_once,
                checkpoint=partial,
                name=self.name,
                compile=self.compile,
                device=self.device,
                dtype=getattr(torch, self.dtype),
                settings={
                    "command": command_line(partial),
                    "options": options,
                    "arguments": as_plain(self),
                },
                callback=show,
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

    if not 1 <= threads <= 1024:
        raise ArgumentError(f"`threads` must be from 1 to 1024, got {threads}.")
    torch.set_num_threads(threads)


def command_line(partial: Path | None = None) -> str:
    """The command that was typed, or that left the folder `partial`: it makes all of it again."""
    from bilevel.comparison.checkpoint import DESCRIPTION, read_description

    if partial is not None and (partial / DESCRIPTION).is_file():
        return str(read_description(partial)["settings"]["command"])
    return shlex.join(["bilevel", *sys.argv[1:]])


def as_plain(command: Compare) -> dict[str, Any]:
    """The arguments as JSON holds them."""
    return {
        key: str(value) if isinstance(value, Path) else value
        for key, value in dataclasses.asdict(command).items()
    }


def resumed(command: Compare, partial: Path) -> Compare:
    """The interrupted command that left the folder `partial`; only its output may be asked anew."""
    from bilevel.comparison.checkpoint import DESCRIPTION, read_description
    from bilevel.storage.reading import REMEDY
    from bilevel.storage.schema import ANYTHING, check

    asked = {key for key, value in as_plain(command).items() if value != as_plain(Compare())[key]}
    if further := asked - {"resume", "output"}:
        raise ArgumentError(
            f"--resume goes on with what was asked for then: leave out {', '.join(sorted(further))}"
            ". Only --output may be named anew."
        )
    settings = read_description(partial)["settings"]
    found = settings.get("arguments")
    if not isinstance(found, dict) or set(found) != set(as_plain(command)):
        raise ResultsError(
            f"{partial} was not made by this version of `bilevel compare`. In Python, pass it as "
            "`compare(..., checkpoint=folder)` with the same arguments."
        )
    hints = {name: _stored(hint) for name, hint in get_type_hints(Compare).items()}
    schema = {"command": str, "options": ANYTHING, "arguments": hints, "*": object}
    check(settings, schema, partial / DESCRIPTION, REMEDY)
    paths = {
        key: Path(found[key]) for key in ("csv", "data_dir", "output") if found[key] is not None
    }
    lists = {key: tuple(value) for key, value in found.items() if isinstance(value, list)}
    then = Compare(**{**found, **paths, **lists})
    return dataclasses.replace(then, output=command.output or then.output)


def _stored(hint: Any) -> Any:
    """The schema of an argument as `as_plain` leaves it: paths are texts, and tuples lists."""
    if get_origin(hint) is tuple:
        return [get_args(hint)[0]]
    kinds = {Path: str, NoneType: None, int: range(10**9)}  # more would be prepared for hours
    return tuple(kinds.get(kind, kind) for kind in get_args(hint) or (hint,))


def go_on(partial: Path) -> str:
    """How to go on with an interrupted comparison."""
    return f"To go on: {shlex.join(['bilevel', 'compare', '--resume', str(partial)])}"


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends a training like Ctrl-C: what there is is kept."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not in the main thread, which alone receives signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
