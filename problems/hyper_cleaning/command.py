"""`bilevel hyper-cleaning`: all ways of cleaning side by side, over seeds, with honest baselines.

Each number of clean rows and each seed is written as it is found; the same command with the same
folder goes on where it was interrupted.
"""

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from bilevel.commands.options import set_threads
from bilevel.core.checks import check_positive_integer
from bilevel.errors import ArgumentError, ResultsError
from bilevel.storage.folder import reserve
from problems.hyper_cleaning.experiment import Result, experiment
from problems.hyper_cleaning.picture import picture
from problems.hyper_cleaning.rows import DATA, reader
from problems.hyper_cleaning.table import Line, lines_of, printed, verdicts

RUNS = "runs.csv"
NAMES = [field.name for field in dataclasses.fields(Result)]


@dataclasses.dataclass(frozen=True)
class Cleaning:
    """Compare ways to train on rows of which half have a wrong label, and a few are clean."""

    data: tyro.conf.Positional[str] = "digits"
    """digits, fashion-mnist or mnist."""
    clean: tuple[int, ...] = (100, 500)
    """How many clean rows: several numbers, one table each."""
    seeds: int = 5
    """How many draws of all rows."""
    rows: int = 0
    """Training rows; 0: 800 of digits, 5,000 of the others."""
    noise: float = 0.5
    """Share of them with a wrong label."""
    output: Path = Path("results/hyper-cleaning")
    """A new folder, or one of this command with the same settings, to go on with."""
    threads: int = 1
    """Threads of torch."""

    def run(self) -> int:
        """Measure what is missing, print the tables, write them and a picture."""
        check_positive_integer(self.seeds, "`--seeds`")
        if self.seeds < 2:
            raise ArgumentError(
                f"--seeds must be at least 2 for standard errors, got {self.seeds}."
            )
        readers = {
            n: reader(self.data, self.rows, n, self.noise) for n in dict.fromkeys(self.clean)
        }
        set_threads(self.threads)
        file = self._file()
        found = read(file)
        for clean, draw in readers.items():
            for seed in range(self.seeds):
                if not any((run.clean, run.seed) == (clean, seed) for run in found):
                    print(f"{self.data}, {clean:,} clean rows, seed {seed} ...", flush=True)
                    found += experiment(draw(seed), self.data, seed)
                    self._keep(file, found)
        runs = [run for run in found if run.clean in readers and run.seed < self.seeds]
        tables = {clean: lines_of([run for run in runs if run.clean == clean]) for clean in readers}
        for clean, lines in tables.items():
            print(f"\n{DATA[self.data].title}, {clean:,} clean rows, {self.seeds} seeds")
            print("\n".join([*printed(lines), *verdicts(lines)]))
        write(self.output / "table.csv", tables)
        picture(tables, self.output / "accuracy.svg", DATA[self.data].title)
        print(f"\n{self.output}: {RUNS}, table.csv, accuracy.svg")
        return 0

    def _file(self) -> Path:
        """The file of the runs, made if there is none."""
        file = self.output / RUNS
        if file.is_file():
            with file.open() as stream:
                if stream.readline() != self._told:
                    raise ResultsError(
                        f"{self.output} holds runs of other settings. Choose another --output."
                    )
            return file
        reserve(self.output)
        self.output.mkdir(parents=True)
        self._keep(file, [])
        return file

    @property
    def _told(self) -> str:
        """The settings, for the first line of the file."""
        return f"# {self.data} rows={self.rows} noise={self.noise}\n"

    def _keep(self, file: Path, runs: Sequence[Result]) -> None:
        """Write all runs, in one piece: who is interrupted leaves the file as it was."""
        beside = file.with_suffix(".new")
        with beside.open("w", newline="") as stream:
            stream.write(self._told)
            writer = csv.writer(stream)
            writer.writerow(NAMES)
            writer.writerows(dataclasses.astuple(run) for run in runs)
        beside.replace(file)


def read(file: Path) -> list[Result]:
    """The runs that are there."""
    with file.open(newline="") as stream:
        stream.readline()
        kinds = {field.name: field.type for field in dataclasses.fields(Result)}
        return [
            Result(**{name: kinds[name](row[name]) for name in NAMES})  # type: ignore[operator]
            for row in csv.DictReader(stream)
        ]


def write(file: Path, tables: dict[int, list[Line]]) -> None:
    """The tables as one CSV file."""
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["clean", *(field.name for field in dataclasses.fields(Line))])
        for clean, lines in tables.items():
            writer.writerows([clean, *dataclasses.astuple(line)] for line in lines)


def main(arguments: Sequence[str]) -> int:
    """The command."""
    command: Cleaning = tyro.cli(
        Annotated[Cleaning, tyro.conf.OmitArgPrefixes],
        prog="bilevel hyper-cleaning",
        args=list(arguments),
    )
    return command.run()
