"""`bilevel landscape`."""

import dataclasses
from typing import Literal

from bilevel.commands.exit_codes import OK
from bilevel.commands.trained import Trained, described


@dataclasses.dataclass(frozen=True)
class Landscape(Trained):
    """Draw the joint and the reduced objective around the iterates of a training.

    On planes of two random directions through the iterates of the first seed, as surfaces and as
    filled contours; and the largest eigenvalues over all seeds.
    """

    run_number: int = 0
    """Which of the seeds is drawn: 0 is the first."""
    size: int = 51
    """Points along each direction."""
    span: float = 1.0
    """Coordinates go from -span to span; 1 is as far as the weights are long."""
    normalise: Literal["filter", "norm"] = "filter"
    """Directions as long as the weights of each unit, or as all weights together."""
    direction_seed: int = 0
    """Seed of the directions."""

    def run(self) -> int:
        """Train, look, print and write."""
        folder = self.folder("landscape")

        from bilevel.analysis import curvature, landscape
        from bilevel.analysis.files import write

        points = self.train()
        found = landscape(
            points,
            run=self.run_number,
            size=self.size,
            span=self.span,
            normalise=self.normalise,
            seed=self.direction_seed,
        )
        curved = curvature(points, probes=1) if points.problem.is_stackelberg else None
        per = "the weights of each unit" if self.normalise == "filter" else "all weights"
        title = f"{self.problem}, seed {found.seed}; a and b in units of {per}"
        write(folder, found, curved, title)
        if curved is not None:
            print(described(curved), end="\n\n")
        print(f"Figure and numbers: {folder}")
        return OK
