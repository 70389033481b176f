"""`bilevel convergence`: how fast trainings converge, beside what theorems promise."""

import dataclasses
import datetime
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from bilevel.commands.exit_codes import FAILED, OK
from bilevel.commands.options import parse_option, set_threads
from bilevel.problem import registry

if TYPE_CHECKING:
    from bilevel.analysis import Convergence as Found

NOISE: dict[str, dict[str, Any]] = {"scalar-product": {"noise_scale": 0.3}}
"""Options of problems that have nothing random by default."""


@dataclasses.dataclass(frozen=True)
class Convergence:
    """Measure how fast body and head converge under the schedules of theorems 3.6 and 3.7.

    Fits lines to log |w - w*|^2, |theta - theta*|^2, |grad Phi|^2 and the squared gradient of the
    Moreau envelope against log k, also under two uniform schedules. By default on the problem of
    Lemma 4.1 with noise of standard deviation 0.3: 1,600 runs of 60,000 steps.
    """

    problem: tyro.conf.Positional[str] = "scalar-product"
    """A name from `bilevel problems`, where F is g."""
    set: tuple[str, ...] = ()
    """Options of the problem as key=value, such as noise_scale=0.3."""
    steps: int = 60_000
    """Body steps."""
    seeds: int = 400
    """Runs of each schedule."""
    after: int = 2000
    """The first steps, which are left out of the fits."""
    batch_size: int = 64
    """Rows per step; 0 means all rows."""
    body_factor: float = 1.0
    """Multiplies the body's schedules, which suit the default problem."""
    head_factor: float = 1.0
    """Multiplies the head's."""
    envelope_runs: int = 50
    """Runs of each schedule whose envelopes are computed; 0: none."""
    output: Path | None = None
    """A new folder for the table, curves and figure; results/convergence-TIME by default."""
    threads: int = 1
    """Threads of torch."""
    compile: bool = True
    """Compile the training steps."""

    def run(self) -> int:
        """Train, print, write; 1 if a run failed."""
        from bilevel.analysis import convergence, theorem_schedules
        from bilevel.storage.folder import located, reserve

        now = datetime.datetime.now()
        folder = located(self.output or Path("results") / f"convergence-{now:%Y%m%d-%H%M%S}")
        reserve(folder)
        options = NOISE.get(self.problem, {}) | dict(parse_option(option) for option in self.set)
        problem = registry.load_problem(self.problem, **options)
        set_threads(self.threads)
        pairs = theorem_schedules().items()
        found = convergence(
            problem,
            {n: (b.scaled(self.body_factor), h.scaled(self.head_factor)) for n, (b, h) in pairs},
            steps=self.steps,
            seeds=self.seeds,
            batch_size=self.batch_size or None,
            after=self.after,
            envelope_runs=self.envelope_runs,
            compile=self.compile,
        )
        print_slopes(found)
        write(folder, found)
        print(f"\nTable, curves and figure: {folder}\n{seconds():.0f} s of CPU time in all.")
        return FAILED if any(found.failed.values()) else OK


def print_slopes(found: "Found") -> None:
    """A table for people."""
    print(f"{found.problem}: slopes of log mean square against log k, k > {found.after:,}\n")
    print(f"{'schedules':18} {'square of':24} {'slope':>6} {'95 % interval':>16}  promised")
    for one in found.slopes:
        promise = f"{one.promised:8.2f}" if one.promised == one.promised else ""
        between = f"[{one.low:.2f}, {one.high:.2f}]"
        quantity = one.quantity.removesuffix("^2")
        print(f"{one.schedule:18} {quantity:24} {one.slope:6.2f} {between:>16}  {promise}".rstrip())
    print("\nPromised are upper bounds of the body's rates; the head is said to follow beta_k.")
    if found.l == found.l:
        print(f"Envelopes have l = {found.l:.3g}; the weak convexity of Phi is {found.rho:.2g}.")
    for name, count in found.failed.items():
        if count:
            print(f"{name}: {count} runs failed and are left out.")
    for note in found.notes:
        print(f"Note: {note}.")


def write(folder: Path, found: "Found") -> None:
    """slopes.csv, curves.csv and the figure, in a folder that is there at the end or not at all."""
    from bilevel.analysis.slopes import Slope
    from bilevel.report.svg import to_svg
    from bilevel.storage.folder import write_atomically, write_csv

    rows = [
        (name, quantity, int(step), float(value))
        for name, table in found.means().items()
        for quantity, values in table.items()
        for step, value in zip(found.steps, values, strict=True)
    ]
    with write_atomically(folder) as hidden:
        write_csv(hidden / "slopes.csv", Slope._fields, found.slopes)
        write_csv(hidden / "curves.csv", ("schedule", "quantity", "step", "mean"), rows)
        figure = found.figure()
        (hidden / "convergence.svg").write_text(to_svg(figure))
        figure.savefig(hidden / "convergence.png", dpi=150)


def seconds() -> float:
    """CPU time of this process and of what it started, such as compilers."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    used = map(resource.getrusage, who)
    return sum(one.ru_utime + one.ru_stime for one in used)
