"""`bilevel curvature`."""

import dataclasses

from bilevel.commands.exit_codes import OK
from bilevel.commands.trained import Trained, described


@dataclasses.dataclass(frozen=True)
class Curvature(Trained):
    """Measure how the objectives curve in the body along a training.

    Before the head has answered, and after. Eigenvalues, traces, norms and gradients, in a figure
    and a table.
    """

    at: tuple[int, ...] = (0, 10, 20, 50, 100, 200, 500, 1000, 2000, 4000)
    """Numbers of the steps to look at."""
    probes: int = 64
    """Random vectors for each trace."""

    def run(self) -> int:
        """Train, look, print and write."""
        folder = self.folder("curvature")

        from bilevel.analysis import curvature
        from bilevel.analysis.files import write

        found = curvature(self.train(), probes=self.probes)
        write(folder, None, found)
        print(f"{described(found)}\n\nFigure and numbers: {folder}")
        return OK
