"""`bilevel degeneracy`: MSPBE goes down and the values get no better; objectives that help.

Random processes of 30 states, another one for each seed, expected updates, five tanh features. All
trainings begin at the same bodies; what they are judged by is MSVE, the value error, relative to
that of the LSTD head at the initial body.

- Algorithm 1 on MSPBE, with the schedules of theorem 3.6, and with a frozen body.
- A least-squares head on the true values (`Envelope`): features that help exist.
- The LSTD head with MSVE or MSBE on top, along the implicit gradient and along the direct one,
  which drops the implicit term.
"""

import csv
import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from numpy.typing import NDArray
from typing_extensions import override

import bilevel
from bilevel.commands.options import set_threads
from bilevel.data.rows import Rows
from bilevel.derivatives.oracles import Oracles
from bilevel.hypergradients.base import fine
from bilevel.report.svg import style, to_svg
from bilevel.storage.folder import reserve
from bilevel.trees import Tree
from problems.mspbe.neural import NeuralMSPBE
from problems.mspbe.random_process import random_process
from problems.mspbe.sources import Redrawn
from problems.mspbe.values import LeastSquaresValues, LSTDValues

RECORDS, ENOUGH = 40, 10.0
LEAST_SQUARES, ALGORITHM, FROZEN = "least squares", "Algorithm 1", "frozen body"


@dataclasses.dataclass(frozen=True, eq=False)
class DirectGradient(bilevel.AbstractHypergradient):
    r"""$\partial_w F$ at $\theta^*(w)$, without the implicit term: what is wrong where F is not g.

    Source: none; a control.
    """

    def check(
        self, problem: bilevel.StackelbergProblem, solver: bilevel.AbstractHeadSolver
    ) -> None:
        """Nothing is refused: it is there to be wrong."""

    @override
    def gradient(
        self, oracles: Oracles, body: Tree, answer: bilevel.Answer, rows: Rows, state: None
    ) -> bilevel.BodyGradient:
        return bilevel.BodyGradient(oracles.direct_gradient(body, answer.head, rows), fine(body))

    @property
    @override
    def cost(self) -> bilevel.Cost:
        return bilevel.Cost(gradients=1)


@dataclasses.dataclass(frozen=True)
class Row:
    """One training in numbers, medians over seeds.

    Attributes:
        training: its name.
        msve: at the end.
        msve_factor: MSVE of the LSTD head at the initial body, over that at the end.
        least_factor: the smallest of them over seeds.
        lstd_factor: the same for the LSTD head at the last body.
        mspbe: at the end.
        msbe_factor: MSBE of the LSTD head at the initial body, over that at the end.
    """

    training: str
    msve: float
    msve_factor: float
    least_factor: float
    lstd_factor: float
    mspbe: float
    msbe_factor: float


@dataclasses.dataclass(frozen=True)
class Degeneracy:
    """Show that MSPBE does not teach features, and what does: MSVE of several objectives."""

    seeds: int = 12
    """How many seeds, each with a process of its own."""
    steps: int = 4000
    """Body steps of every training."""
    output: Path = Path("results/degeneracy")
    """A new folder for the table and the figure."""
    threads: int = 1
    """Threads of torch."""

    def run(self) -> int:
        """Train, print, write; 1 if the least-squares head gains less than ten times."""
        reserve(self.output)
        set_threads(self.threads)
        histories: dict[str, dict[str, NDArray[np.float64]]] = {}
        for name, (problem, strategy) in self.trainings().items():
            solution = bilevel.solve(
                problem,
                strategy,
                steps=self.steps,
                batch_size=None,
                seeds=self.seeds,
                every=max(1, self.steps // RECORDS),
                dtype=torch.float64,
                throw=False,
            )
            histories[name] = {k: v.numpy() for k, v in solution.history.items()}
            print(f"{name}: done", flush=True)
        before = {k: histories["MSVE, implicit"][k][0] for k in ("test_lstd_msve", "test_msbe")}
        rows = [summary(name, history, before) for name, history in histories.items()]
        print_rows(rows)
        for upper, metric in itertools.product(("MSVE", "MSBE"), ("test_msve", "test_msbe")):
            ends = [histories[f"{upper}, {kind}"][metric][-1] for kind in ("implicit", "direct")]
            wins, judge = int((ends[0] < ends[1]).sum()), metric[5:].upper()
            print(f"{upper} on top: the implicit term wins {wins} of {self.seeds} by {judge}")
        self.write(rows, histories)
        gain = next(row for row in rows if row.training == LEAST_SQUARES).msve_factor
        return 0 if gain >= ENOUGH else 1

    def trainings(self) -> dict[str, tuple[bilevel.StackelbergProblem, bilevel.AbstractStrategy]]:
        """Problems and strategies by name."""
        source = Redrawn(lambda seed: random_process(seed=seed))
        mspbe, exact = NeuralMSPBE(source), bilevel.BestResponse(1e-3)
        direct = bilevel.BestResponse(1e-3, gradient=DirectGradient())
        alpha, beta = bilevel.Polynomial(0.1, 0.6), bilevel.Polynomial(0.5, 0.4)
        found: dict[str, tuple[bilevel.StackelbergProblem, bilevel.AbstractStrategy]] = {
            ALGORITHM: (mspbe, bilevel.SingleLoop(alpha, beta, beta.scaled(2.0))),
            FROZEN: (mspbe, bilevel.SingleLoop(0.0, beta, beta.scaled(2.0))),
            LEAST_SQUARES: (LeastSquaresValues(source), exact),
        }
        for name, upper in (("MSVE", "msve"), ("MSBE", "msbe")):
            problem = LSTDValues(upper, source)  # type: ignore[arg-type]
            found[f"{name}, implicit"] = (problem, exact)
            found[f"{name}, direct"] = (problem, direct)
        return found

    def write(
        self, rows: Sequence[Row], histories: dict[str, dict[str, NDArray[np.float64]]]
    ) -> None:
        """The table as CSV and the figure."""
        self.output.mkdir(parents=True, exist_ok=True)
        with (self.output / "degeneracy.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([field.name for field in dataclasses.fields(Row)])
            writer.writerows(dataclasses.astuple(row) for row in rows)
        steps = np.linspace(0, self.steps, len(histories[ALGORITHM]["test_mspbe"]))
        target = self.output / "degeneracy.svg"
        target.write_text(to_svg(draw(steps, histories)))
        print(f"\nTable and figure: {self.output}")


def summary(
    name: str, history: dict[str, NDArray[np.float64]], before: dict[str, NDArray[np.float64]]
) -> Row:
    """The numbers of a training, relative to the LSTD head at the initial bodies."""
    end = {metric: values[-1] for metric, values in history.items()}
    factors = before["test_lstd_msve"] / end["test_msve"]
    return Row(
        training=name,
        msve=float(np.median(end["test_msve"])),
        msve_factor=float(np.median(factors)),
        least_factor=float(factors.min()),
        lstd_factor=float(np.median(before["test_lstd_msve"] / end["test_lstd_msve"])),
        mspbe=float(np.median(end["test_mspbe"])),
        msbe_factor=float(np.median(before["test_msbe"] / end["test_msbe"])),
    )


def print_rows(rows: Sequence[Row]) -> None:
    """A table for people."""
    print("\nTimes better than the LSTD head at the initial body, medians over seeds")
    print(
        f"{'':16} {'MSVE':>9} {'(least)':>9} {'LSTD MSVE':>10} {'MSBE':>9}   {'MSPBE at the end'}"
    )
    for row in rows:
        print(
            f"{row.training:16} {row.msve_factor:9.2f} {row.least_factor:9.2f} "
            f"{row.lstd_factor:10.2f} {row.msbe_factor:9.2f}   {row.mspbe:.1e}"
        )


def draw(
    steps: NDArray[np.float64], histories: dict[str, dict[str, NDArray[np.float64]]]
) -> Figure:
    """MSPBE of Algorithm 1 beside MSVE of all, relative to the start, medians over seeds."""
    start = histories["MSVE, implicit"]["test_lstd_msve"][0]
    shown = {
        ALGORITHM: ("Algorithm 1 on MSPBE", "#d55e00", "-"),
        FROZEN: ("the same, body frozen", "#808080", "--"),
        "MSBE, implicit": ("LSTD head, MSBE on top", "#009e73", "-."),
        "MSVE, implicit": ("LSTD head, MSVE on top", "#0072b2", "-"),
    }
    with style():
        figure = Figure(figsize=(7, 2.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        for name, (label, colour, line) in shown.items():
            history = histories[name]
            if name in (ALGORITHM, FROZEN):
                mspbe = history["test_mspbe"] / history["test_mspbe"][0]
                left.semilogy(steps, np.median(mspbe, axis=1), line, color=colour)
            msve = history["test_msve"] / start
            right.semilogy(steps, np.median(msve, axis=1), line, color=colour, label=label)
        left.set(title="MSPBE, relative to the start", xlabel="step")
        right.set(title="MSVE, relative to LSTD at the start", xlabel="step")
        right.legend(frameon=False, fontsize=7)
    return figure


def main(arguments: Sequence[str]) -> int:
    """The command."""
    command: Degeneracy = tyro.cli(
        Annotated[Degeneracy, tyro.conf.OmitArgPrefixes],
        prog="bilevel degeneracy",
        args=list(arguments),
    )
    return command.run()
