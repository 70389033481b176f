"""What `landscape` and `curvature` share: a training, of which some iterates are kept."""

import dataclasses
import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from bilevel.commands.options import parse_option, set_threads
from bilevel.problem import registry
from bilevel.storage.folder import located, reserve

if TYPE_CHECKING:
    from bilevel.analysis import Curvatures, Iterates

Step = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Trained:
    """Options of both."""

    problem: tyro.conf.Positional[str]
    """A name from `bilevel problems`."""
    at: tuple[int, ...] = (0, 10, 50, 200, 1000)
    """Numbers of the steps to look at."""
    body_lr: float = 5e-4
    """alpha, the slow rate."""
    head_lr: float = 5e-3
    """beta, the fast rate: above alpha."""
    strategy: str = "two-timescale"
    """A name from `bilevel strategies`."""
    order: Literal["alternating", "simultaneous"] = "simultaneous"
    """Whether the head's gradient is taken at the new body or at the old one."""
    seeds: int = 20
    """How many seeds; the numbers are medians over them."""
    batch_size: int = 32
    """Rows per step; 0 means all rows."""
    set: tuple[str, ...] = ()
    """Options of the problem as key=value, such as width=128 ridge=1e-3."""
    output: Path | None = None
    """A new folder for figures and numbers; one under results/ by default."""
    threads: int = 1
    """Threads of torch; one is fastest for small problems."""

    def folder(self, what: str) -> Path:
        """The new folder for the results."""
        now = datetime.datetime.now()
        default = Path("results") / f"{what}-{self.problem}-{now:%Y%m%d-%H%M%S}"
        return reserve(located(self.output or default))

    def train(self) -> "Iterates":
        """The iterates of all seeds."""
        import bilevel
        from bilevel.analysis import iterates

        set_threads(self.threads)
        problem = registry.make(self.problem, **dict(parse_option(one) for one in self.set))
        presets = bilevel.preset_strategies(
            self.body_lr, self.head_lr, order=self.order, names=[self.strategy]
        )
        return iterates(
            problem,
            presets[self.strategy],
            at=self.at,
            seeds=self.seeds,
            batch_size=self.batch_size or None,
        )


def described(found: "Curvatures") -> str:
    """The table, and what its columns are."""
    runs = len(found.seeds)
    over = f"medians over {runs} seeds (95 % interval)" if runs > 1 else "of the one seed"
    return (
        f"Largest eigenvalues of the body's curvature, {over}\n\n{found.table()}\n\n"
        "joint: of g at the head of the training; joint at theta*: of g at the exact head; "
        "reduced: of Phi.\nThe reduced objective never curves more than the joint one at theta*. "
        "Against the joint one at the\ntraining's own head, the comparison is one of scales: see "
        "the last column."
    )
