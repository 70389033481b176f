"""What the budget of a comparison is counted in: steps, or gradient evaluations."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bilevel.report.words import counted

Array = NDArray[Any]


@dataclass(frozen=True)
class Unit:
    """One of the two, with its words.

    Attributes:
        budget: As `compare` calls it, and the horizontal axis that belongs to it.
        noun: Its name, of one of them.
        column: Its name in CSV files.
    """

    budget: str
    noun: str
    column: str

    @property
    def heading(self) -> str:
        """Its plural, as the head of a column."""
        return f"{self.noun[:1].upper()}{self.noun[1:]}s"

    def counted(self, count: int) -> str:
        """A number of them: "1,500 steps"."""
        return counted(count, self.noun)

    def by(self, count: int) -> str:
        """A place: "step 1,500", or "1,500 gradient evaluations"."""
        return f"step {count:,}" if self.budget == "steps" else self.counted(count)

    def at(self, count: int, total: int | None = None) -> str:
        """Where: "at step 10 of 20", or "after 10 of 20 gradient evaluations"."""
        of = "" if total is None else f" of {total:,}"
        if self.budget == "steps":
            return f"at step {count:,}{of}"
        return f"after {count:,}{of} {self.noun}s" if of else f"after {self.counted(count)}"

    def steps(self, marks: Array, gradients: float) -> Array:
        """Body steps that a strategy has made by some marks of the budget.

        Args:
            marks: (T,) steps or gradient evaluations.
            gradients: Gradient evaluations of one of its steps.

        Returns:
            (T,) steps: the marks, or as many whole steps as their gradients pay for.

        Examples:
            >>> UNITS["gradients"].steps(np.array([0, 10, 20]), 4.0).tolist()
            [0, 2, 5]
        """
        if self.budget == "steps":
            return marks
        return np.floor(marks / gradients + 1e-9).astype(np.int64)  # as `Budget.steps`


UNITS = {
    "steps": Unit("steps", "step", "step"),
    "gradients": Unit("gradients", "gradient evaluation", "gradients"),
}
