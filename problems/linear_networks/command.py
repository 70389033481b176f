"""`bilevel linear-networks`: the table of equal and unequal rates, and its figures."""

import dataclasses
import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from bilevel.report.svg import to_svg
from bilevel.storage.folder import reserve, write_atomically, write_csv
from problems.linear_networks.share_curves import ShareCurves, usual_budgets

HEAD = f"{'budget':>10}  {'steps':>5}  {'equal':>8}  {'one layer':>9}  {'best':>8}  at share"
PAIRS_HEAD = (
    f"{'budget':>10}  {'equal twice':>11}  {'1, then 2':>9}  {'2, then 1':>9}  {'best':>8}"
    "  at shares"
)
COLUMNS = ("budget", "step", "share", "exact", "signal_only", "script")


@dataclasses.dataclass(frozen=True)
class LinearNetworks:
    """Exact expected test loss of two linear layers after one and two steps of gradient descent.

    Compares how a budget, the sum of both learning rates, is shared by the two layers: equally, all
    for one layer, or any other way. The setting is arXiv 2606.00340: orthogonal layers, whitened
    inputs, noiseless targets.
    """

    depth: int = 2
    """2: x W1 W2 / h; 3: x W1 W2 a / sqrt(h) with a frozen vector a."""
    width: int = 1000
    """h, the width of the layers and the number of inputs."""
    budget: tuple[float, ...] = ()
    """Sums of both rates, one or more; by default those of the paper's figures, scaled to the
    width."""
    output: Path | None = None
    """A new folder for the curves; by default one under results/ with the date."""

    def run(self) -> int:
        """Print the table, write figures and curves."""
        now = datetime.datetime.now()
        folder = self.output or Path("results") / f"linear-networks-{now:%Y%m%d-%H%M%S}"
        reserve(folder)
        # of an unknown depth there are no usual budgets: the curves refuse it
        budgets = self.budget or usual_budgets(self.depth, max(self.width, 1))
        found = [ShareCurves.of(self.depth, self.width, one) for one in dict.fromkeys(budgets)]
        print_tables(found)
        write(folder, found)
        print(f"\nFigures and curves: {folder}")
        return 0


def print_tables(found: Sequence[ShareCurves]) -> None:
    """Two tables for people: one pair for both steps, and a pair for each."""
    print(f"Expected test loss, depth {found[0].depth}, width {found[0].width}\n")
    print(f"The same pair of rates at every step\n{HEAD}")
    for curves in found:
        for step in (1, 2):
            losses, share = curves.exact[step - 1], curves.best_share(step)
            middle = len(losses) // 2
            also = "" if share == 0.5 else f", {1 - share:.3f}"
            print(
                f"{curves.budget:10g}  {step:5}  {losses[middle]:8.6f}  {losses[-1]:9.6f}  "
                f"{losses.min():8.6f}  {share:.3f}{also}"
            )
    print(f"\nTwo steps, a pair for each\n{PAIRS_HEAD}")
    for curves in found:
        first, second, loss = curves.best_pairs()
        (one, other), equal = curves.alternating(), curves.exact[1][curves.exact.shape[1] // 2]
        print(
            f"{curves.budget:10g}  {equal:11.6f}  {one:9.6f}  {other:9.6f}  {loss:8.6f}  "
            f"{first:.2f}, then {second:.2f}"
        )
    print(
        "\nShares are those of the first layer in the budget, the sum of both rates.\n"
        "'One layer' has the whole budget at every step; '1, then 2' is the first layer alone at "
        "step 1 and\nthe second alone at step 2. The best shares are found on a grid of 0.01."
    )


def write(folder: Path, found: Sequence[ShareCurves]) -> None:
    """curves.csv, and a figure for each budget as SVG and PNG."""
    with write_atomically(folder) as hidden:
        for curves in found:
            figure, name = curves.figure(), f"budget-{curves.budget:.12g}"
            (hidden / f"{name}.svg").write_text(to_svg(figure))
            figure.savefig(hidden / f"{name}.png", dpi=150)
        write_csv(hidden / "curves.csv", COLUMNS, [row for one in found for row in rows(one)])


def rows(curves: ShareCurves) -> list[tuple[float, ...]]:
    """The rows of curves.csv."""
    return [
        (curves.budget, step, float(share), float(exact), float(signal), float(script))
        for step in (1, 2)
        for share, exact, signal, script in zip(
            curves.shares,
            curves.exact[step - 1],
            curves.surrogate[step - 1],
            curves.script[step - 1],
            strict=True,
        )
    ]


def main(arguments: Sequence[str]) -> int:
    """The command."""
    command: LinearNetworks = tyro.cli(
        Annotated[LinearNetworks, tyro.conf.OmitArgPrefixes],
        prog="bilevel linear-networks",
        args=list(arguments),
    )
    return command.run()
