"""`bilevel td-areas`: areas under the learning curves of linear methods, judged by a stated rule.

Every method follows the same trajectories with h = 0, eta = 1 and the step sizes that are best for
it. The area is the mean of RMSPBE after the steps 1, 101, 201, ...; what is compared are ratios of
mean areas to that of TDRC. The reference values are means over 5 seeds of an independent
implementation of Ghiassian et al. (2020), figure 1. A ratio is reproduced when it lies within 15 %
of the reference, or the reference inside our own 95 % interval; on Baird's star, where TD(0)
diverges, the order alone counts. The order is reproduced when no pair of methods is clearly the
other way round.
"""

import csv
import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import Tensor

from bilevel import SingleLoop
from bilevel.commands.options import set_threads
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.assembly import Assembly
from bilevel.errors import ArgumentError, unknown_name
from bilevel.storage.folder import reserve
from problems.mspbe import exact, methods
from problems.mspbe.baird import baird
from problems.mspbe.boyan import boyan
from problems.mspbe.linear import LinearEvaluation
from problems.mspbe.process import MarkovRewardProcess
from problems.mspbe.random_walk import random_walk
from problems.mspbe.sources import Known

EVERY, NEAR, RESAMPLES, DIVERGED = 100, 0.15, 9999, 100.0
NAMES = ("TD", "TDRC", "TDC", "GTD2")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One problem of the experiment.

    Attributes:
        make: the process.
        steps: of every run.
        rates: step sizes of TD, TDRC, TDC and GTD2.
        references: areas of TD, TDC and GTD2 relative to TDRC; infinite where TD diverges.
        order_only: whether the order of the methods is all that counts.
    """

    make: Callable[[], MarkovRewardProcess]
    steps: int
    rates: tuple[float, float, float, float]
    references: tuple[float, float, float]
    order_only: bool = False


SETTINGS = {
    "tabular": Setting(
        lambda: random_walk(features="tabular"),
        3000,
        (1 / 32, 1 / 32, 1 / 16, 1 / 32),
        (0.965, 1.18, 1.46),
    ),
    "dependent": Setting(
        lambda: random_walk(features="dependent"),
        3000,
        (1 / 32, 1 / 32, 1 / 16, 1 / 16),
        (0.98, 1.11, 1.17),
    ),
    "inverted": Setting(
        lambda: random_walk(features="inverted"),
        3000,
        (1 / 8, 1 / 8, 1 / 8, 1 / 8),
        (1.06, 1.03, 1.30),
    ),
    "boyan": Setting(boyan, 10_000, (1 / 16, 1 / 16, 1 / 2, 1 / 2), (1.02, 1.38, 1.31)),
    "baird": Setting(
        baird,
        20_000,
        (1 / 256, 1 / 64, 1 / 256, 1 / 256),
        (math.inf, 1.59, 1.83),
        order_only=True,
    ),
}


@dataclasses.dataclass(frozen=True)
class Ratio:
    """The area of a method relative to that of TDRC, beside its reference."""

    problem: str
    method: str
    reference: float
    ratio: float
    low: float
    high: float
    area: float
    order_only: bool = False

    @property
    def reproduced(self) -> bool:
        """The rule of the module, for a ratio alone."""
        if self.reference == math.inf or self.order_only:
            return True
        near = abs(self.ratio / self.reference - 1) <= NEAR
        return near or self.low <= self.reference <= self.high


@dataclasses.dataclass(frozen=True)
class Areas:
    """Compare TD, GTD2, TDC and TDRC by sampled areas on five small problems."""

    problems: tyro.conf.Positional[tuple[str, ...]] = tuple(SETTINGS)
    """Which of tabular, dependent, inverted, boyan, baird."""
    seeds: int = 30
    """How many seeds."""
    output: Path = Path("results/td-areas")
    """A new folder for the table."""
    threads: int = 1
    """Threads of torch."""

    def run(self) -> int:
        """Train, print the table, write it; 1 if something is not reproduced."""
        for name in self.problems:
            if name not in SETTINGS:
                raise unknown_name("problem of this experiment", name, SETTINGS)
        if self.seeds < 2:
            raise ArgumentError(f"--seeds must be at least 2 for intervals, got {self.seeds}.")
        reserve(self.output)
        set_threads(self.threads)
        rows: list[Ratio] = []
        orders = []
        print(HEADING)
        for name in dict.fromkeys(self.problems):
            found = areas(SETTINGS[name], self.seeds)
            rows += (made := ratios(name, found))
            print_ratios(made)
            clear, tied = misplaced(name, found)
            print(f"{'':10} order of the methods: {order_in_words(clear, tied)}")
            orders.append(not clear)
        self.output.mkdir(parents=True)
        write(self.output / "areas.csv", rows)
        print(f"\nTable: {self.output / 'areas.csv'}")
        return 0 if all(orders) and all(row.reproduced for row in rows) else 1


def areas(setting: Setting, seeds: int) -> dict[str, NDArray[np.float64]]:
    """The area of every method for each seed, (R,)."""
    made = dict(zip(NAMES, setting.rates, strict=True))
    strategies = {
        "TD": methods.td(made["TD"]),
        "TDRC": methods.tdrc(made["TDRC"]),
        "TDC": methods.tdc(made["TDC"]),
        "GTD2": methods.gtd2(made["GTD2"]),
    }
    process = setting.make()
    problem = LinearEvaluation(Known(process, "markovian", setting.steps))
    data = TrainingData(problem, range(seeds), torch.float64, "cpu")
    curves = {
        name: learning_curve(problem, strategy, data, setting.steps).numpy()
        for name, strategy in strategies.items()
    }
    return {
        name: np.where(np.isfinite(curve), curve, math.inf).mean(0)
        for name, curve in curves.items()
    }


def learning_curve(
    problem: LinearEvaluation, strategy: SingleLoop, data: TrainingData, steps: int
) -> Tensor:
    """RMSPBE after the steps 1, 101, 201, ..., (T, R).

    The loop of `solve` without its records on all rows, which would take most of the time here.
    """
    made = Assembly.of(data, 1, "sequential")
    assert isinstance(problem.source, Known)
    process = problem.source.process
    found = exact.moments(process.inputs, process.model, process.discount)
    metric = exact.inverse(found.c, hermitian=True)
    strategy = strategy.fitted(problem)
    state = strategy.init(made.oracles, made.body, made.head, made.sampler.rows(0))
    curve = []
    with torch.no_grad():
        for k in range(steps):
            state = strategy.step(made.oracles, state, made.sampler.rows(k), k)
            if k % EVERY == 0:
                residual = found.b - state.head @ found.a.mT
                curve.append(((residual @ metric) * residual).sum(1).clamp(min=0).sqrt())
    return torch.stack(curve)


def ratios(problem: str, found: dict[str, NDArray[np.float64]]) -> list[Ratio]:
    """Mean areas over that of TDRC, with percentile bootstrap intervals over the seeds."""
    setting, rows = SETTINGS[problem], []
    for name, reference in zip(("TD", "TDC", "GTD2"), setting.references, strict=True):
        low, ratio, high = relative(found[name], found["TDRC"])
        mean = float(found[name].mean())
        rows.append(Ratio(problem, name, reference, ratio, low, high, mean, setting.order_only))
    return rows


def misplaced(problem: str, found: dict[str, NDArray[np.float64]]) -> tuple[list[str], list[str]]:
    """Pairs of methods whose areas stand the other way round than in the reference.

    Args:
        problem: its name.
        found: the areas, (R,) by method.

    Returns:
        The pairs for which that is clear, and those that are tied: the 95 % interval of the ratio
        of their mean areas, by a bootstrap over the seeds, holds 1.
    """
    references = dict(zip(("TD", "TDC", "GTD2"), SETTINGS[problem].references, strict=True))
    order = sorted({**references, "TDRC": 1.0}.items(), key=lambda item: item[1])
    clear: list[str] = []
    tied: list[str] = []
    for (first, low), (second, high) in itertools.combinations(order, 2):
        _, ratio, most = relative(found[second], found[first])
        if high == math.inf:
            if first == "TDRC" and not ratio > DIVERGED:
                clear.append(f"{second} does not diverge")
        elif ratio < 1 and low < high:
            (clear if most < 1 else tied).append(f"{first} and {second}")
    return clear, tied


def relative(area: NDArray[np.float64], base: NDArray[np.float64]) -> tuple[float, float, float]:
    """The ratio of two mean areas between the ends of its 95 % interval."""
    drawn = np.random.default_rng(0).integers(len(base), size=(RESAMPLES, len(base)))
    with np.errstate(over="ignore", invalid="ignore"):
        resampled = area[drawn].mean(1) / base[drawn].mean(1)
        low, high = np.nanquantile(resampled, [0.025, 0.975])
        return float(low), float(area.mean() / base.mean()), float(high)


HEADING = (
    f"{'problem':10} {'method':6} {'reference':>9} {'ours':>9}  {'95 % interval':>17}  reproduced"
)


def print_ratios(rows: Sequence[Ratio]) -> None:
    """A table for people."""
    for row in rows:
        ours = f"{row.ratio:9.3f}" if row.ratio < DIVERGED else f"{row.ratio:9.2e}"
        between = f"{row.low:.3f} to {row.high:.3f}" if row.ratio < DIVERGED else "diverges"
        verdict = ("yes" if row.reproduced else "NO") if not row.order_only else "order"
        print(
            f"{row.problem:10} {row.method:6} {row.reference:9.3f} {ours}  {between:>17}  {verdict}"
        )


def order_in_words(clear: Sequence[str], tied: Sequence[str]) -> str:
    """Whether the methods rank as in the reference."""
    if clear:
        return f"NOT as in the reference: {', '.join(clear)}"
    return "as in the reference" + (f"; {', '.join(tied)} are tied" if tied else "")


def write(file: Path, rows: Sequence[Ratio]) -> None:
    """The table as CSV."""
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        names = [field.name for field in dataclasses.fields(Ratio)]
        writer.writerow([*names, "reproduced"])
        writer.writerows([*dataclasses.astuple(row), row.reproduced] for row in rows)


def main(arguments: Sequence[str]) -> int:
    """The command."""
    command: Areas = tyro.cli(
        Annotated[Areas, tyro.conf.OmitArgPrefixes],
        prog="bilevel td-areas",
        args=list(arguments),
    )
    return command.run()
