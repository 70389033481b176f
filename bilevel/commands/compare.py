"""`bilevel compare`."""

import dataclasses
import datetime
import shlex
import sys
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

import tyro

from bilevel.commands.display import displayed
from bilevel.commands.ending import how_to_go_on, say, told_to_end
from bilevel.commands.exit_codes import FAILED, OK, SIGNAL
from bilevel.commands.first_example import PROBLEM, filled, numbers, spelled
from bilevel.commands.options import options_of, set_threads
from bilevel.errors import (
    AllRunsFailedError,
    ArgumentError,
    EngineError,
    ResultsError,
    ResultsExistError,
    UnwritableError,
)

if TYPE_CHECKING:
    from bilevel.comparison.result import Comparison
    from bilevel.storage.folder import HeldFolder
    from bilevel.tables.model import Model


@dataclasses.dataclass(frozen=True)
class Compare:
    """Compare strategies on a problem, print the result and write a report."""

    problem: tyro.conf.Positional[str] = ""
    """A name from `bilevel problems`; without one, a first example: friedman1 with a ridge."""
    csv: Path | None = None
    """A file of your own instead of a problem: columns of numbers, with --target."""
    target: str = ""
    """The column of --csv to predict from the others."""
    body_lr: float | None = None
    """alpha, the slow rate: 5e-4 unless the problem has its own, 5e-3 in the first example."""
    head_lr: float | None = None
    """beta, the fast rate, above alpha: 5e-3, or the problem's; 1e-2 in the first example."""
    seeds: int | None = None
    """How many seeds, each a pair for the statistics: 20 by default, 10 in the first example."""
    steps: int | None = None
    """Body steps of every strategy: 1,500, or the problem's; 600 in the first example."""
    batch_size: int = 64
    """Rows per step; 0 means all rows."""
    strategies: tuple[str, ...] = ()
    """Names from `bilevel strategies`, or of a problem's own; the first six, or all of those."""
    order: Literal["alternating", "simultaneous"] = "alternating"
    """Whether the head's gradient is taken at the new body or at the old one."""
    optimizer: Literal["rmsprop", "adam", "adamw", "sgd"] = "rmsprop"
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
    explain: bool = False
    """Look why, too: heads and curvatures along the training, in a section of the report."""
    output: Path | None = None
    """A new folder for the results; results/PROBLEM-TIME by default."""
    threads: int = 1
    """Threads of torch; one is fastest for small problems."""
    engine: str = ""
    """Who trains: processes:4, dask:tcp://host:8786 or slurm:PARTITION,time=60,mem=8, say."""
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
        from bilevel.comparison.kept import PARTIAL
        from bilevel.storage.folder import located, reserve

        if self.resume is not None:
            partial = located(self.resume)
            return self.run_in(partial if partial.name.strip(".") else partial.resolve())
        whole, now = filled(self), datetime.datetime.now()
        folder = located(self.output or Path("results") / f"{whole.name}-{now:%Y%m%d-%H%M%S}")
        reserve(folder)
        partial = folder.with_name(folder.name + PARTIAL)
        return dataclasses.replace(whole, output=folder).run_in(partial)

    def run_in(self, partial: Path) -> int:
        """Train in the folder `partial`, which is gone when the report is written.

        Whatever ends it before, what was kept stays there, and how to go on is said.
        """
        from bilevel.storage.folder import held, remove_empty

        if self.resume is not None and not partial.is_dir():
            return self.go_on(partial)
        with told_to_end() as told:
            try:
                with held(partial):  # before torch is imported: who is refused knows it at once
                    code = self.go_on(partial)
                remove_empty(partial)
                return code
            except AllRunsFailedError:
                remove_empty(partial)
                raise
            except KeyboardInterrupt:
                nothing = "bilevel: interrupted before anything was recorded"
                how = how_to_go_on(partial)
                say(f"Interrupted. {how}" if how else nothing, sys.stderr)
                return SIGNAL + told[-1]
            except (UnwritableError, EngineError) as error:
                say(f"bilevel: {error}\n{how_to_go_on(partial)}".rstrip(), sys.stderr)
                return FAILED

    def go_on(self, partial: Path) -> int:
        """Train what is left of the comparison, or all that was asked for; the exit code."""
        from bilevel.comparison.kept import finished_report, is_new
        from bilevel.comparison.result import Comparison

        if self.resume is None:
            if is_new(partial):
                return self.finish(partial)
            raise ResultsExistError(
                f"{partial}, where this comparison would be kept, exists already. Name another "
                f"--output. {how_to_go_on(partial)}".rstrip()
            )
        report = finished_report(partial)
        if report is None:
            return resumed(self, partial).finish(partial)
        say(f"{partial} is finished: nothing is left to train.", sys.stderr)
        return ended(Comparison.load(report), report, partial)

    def finish(self, partial: Path) -> int:
        """Train, write the report and remove what was kept; Ctrl-C if that ended the training."""
        from bilevel.comparison import kept
        from bilevel.storage.folder import HeldFolder, reserve

        assert self.output is not None
        output = reserve(self.output)
        try:
            comparison = self.compare(HeldFolder(partial))
        except AllRunsFailedError:
            kept.clear(partial)  # going on would not help
            raise
        if was_interrupted(comparison):
            try:
                page = kept.report(partial, comparison.report)
            finally:
                say(comparison.table())
            say(f"\nReport: {page}")
            raise KeyboardInterrupt
        model = self.model(comparison)
        try:  # first: what is printed may be lost
            kept.finish(partial, output, comparison.history)
            comparison.report(output)
            said = said_of(model, output)
        except ResultsExistError as error:  # somebody made it meanwhile
            say(comparison.table())
            raise UnwritableError(str(error)) from error
        except BaseException:
            say(comparison.table())
            raise
        return ended(comparison, output, partial, said)

    def model(self, comparison: "Comparison") -> "Model | str":
        """What predicts new rows of a table, or why there is none; empty for other problems."""
        if self.csv is None and self.name != "table":
            return ""
        from bilevel.commands.asked import model_of

        return model_of(self, comparison)

    @property
    def name(self) -> str:
        """What the report calls the problem."""
        return self.csv.stem if self.csv is not None else self.problem

    def options(self) -> dict[str, Any]:
        """The options of the problem; a file of one's own is the problem `table`."""
        _, options = options_of(self.problem, self.csv, self.target, self.set)
        if self.data_dir is not None:
            if "data_dir" in options:
                raise ArgumentError("--data-dir and --set data_dir=... contradict: leave out one.")
            options["data_dir"] = str(self.data_dir)
        return options

    def compare(self, partial: "HeldFolder") -> "Comparison":
        """The comparison itself, kept in the folder `partial` while it is trained."""
        import torch

        import bilevel
        from bilevel.commands.asked import engine_used, problem_of, strategies_of

        set_threads(self.threads)
        options = self.options()
        problem = problem_of(self, options)
        _, _, seeds, steps = numbers(self, problem.usual)
        if self.explain:
            from bilevel.analysis import why

            why.check_explainable(problem)
        strategies = strategies_of(self, problem)
        with displayed() as show, engine_used(self.engine, self.threads) as engine:
            here = engine is None or engine.same_machine
            if here and (room := problem.room(seeds * len(strategies))):
                say(room, sys.stderr)
            found = bilevel.compare(
                problem,
                strategies,
                seeds=seeds,
                steps=steps,
                batch_size=self.batch_size or None,
                every=self.every,
                budget=self.budget,
                sampling=self.sampling,
                tune=self.tune or None,
                max_runs_at_once=self.max_runs_at_once,
                checkpoint=partial,
                engine=engine,
                name=self.name,
                compile=self.compile,
                device=self.device,
                dtype=getattr(torch, self.dtype),
                settings={
                    "command": command_line(partial.path, self),
                    "options": options,
                    "arguments": as_plain(self),
                },
                callback=show,
            )
        if not self.explain or was_interrupted(found):
            return found
        from bilevel.analysis import why

        return why.explain(found, problem, strategies)


def was_interrupted(comparison: "Comparison") -> bool:
    """Whether Ctrl-C ended the training."""
    codes = {code for run in comparison.status.values() for code in run}
    return "INTERRUPTED" in codes or "not_trained" in comparison.settings


def command_line(partial: Path, command: Compare) -> str:
    """The command that was typed, or that left the folder `partial`: it makes all of it again."""
    from bilevel.comparison.checkpoint import read_description
    from bilevel.comparison.kept import DESCRIPTION

    if (partial / DESCRIPTION).is_file():
        return str(read_description(partial)["settings"]["command"])
    first = command.problem == PROBLEM and PROBLEM not in sys.argv
    return shlex.join(spelled(command) if first else ["bilevel", *sys.argv[1:]])


def as_plain(command: Compare) -> dict[str, Any]:
    """The arguments as JSON holds them."""
    return {
        key: str(value) if isinstance(value, Path) else value
        for key, value in dataclasses.asdict(command).items()
    }


def resumed(command: Compare, partial: Path) -> Compare:
    """The interrupted command that left the folder; output and engine may be asked anew."""
    from bilevel.comparison.checkpoint import read_description
    from bilevel.comparison.kept import DESCRIPTION, PARTIAL
    from bilevel.storage.reading import REMEDY
    from bilevel.storage.schema import ANYTHING, check

    asked = {key for key, value in as_plain(command).items() if value != as_plain(Compare())[key]}
    if further := asked - {"resume", "output", "engine"}:
        raise ArgumentError(
            f"--resume goes on with what was asked for then: leave out {', '.join(sorted(further))}"
            ". Only --output and --engine may be named anew."
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
    beside = partial.with_name(partial.name.removesuffix(PARTIAL))  # wherever it was moved
    output = command.output or (beside if beside != partial else then.output)
    return dataclasses.replace(then, output=output, engine=command.engine or then.engine)


def _stored(hint: Any) -> Any:
    """The schema of an argument as `as_plain` leaves it: paths are texts, and tuples lists."""
    if get_origin(hint) is tuple:
        return [get_args(hint)[0]]
    kinds = {Path: str, NoneType: None, int: range(10**9)}  # more would be prepared for hours
    return tuple(kinds.get(kind, kind) for kind in get_args(hint) or (hint,))


def said_of(model: "Model | str", output: Path) -> str:
    """Keep the model in the results folder; what is printed of it."""
    from bilevel.tables.model_file import FILE

    if isinstance(model, str):
        return model
    path = model.save(output / FILE)
    return f"Model:  {path}, {model.about['said']}\n        bilevel predict {output} NEW.csv"


def ended(comparison: "Comparison", report: Path, partial: Path, more: str = "") -> int:
    """Show what was found, and remove what was kept on the way; 1 if a run failed."""
    from bilevel.comparison.kept import clear
    from bilevel.core.status import Status

    say(f"{comparison.table()}\n\nReport: {report / 'report.html'}\n{more}".rstrip())
    if left := clear(partial, report):
        say(f"{partial} stays, for it holds {', '.join(left)}.", sys.stderr)
    failed = [
        name
        for name, codes in comparison.status.items()
        if any(Status[code].failed for code in codes)
    ]
    if failed:
        say(f"bilevel: runs failed, so the exit code is {FAILED}: {', '.join(failed)}", sys.stderr)
    return FAILED if failed else OK
