"""What is equal for all strategies of a comparison: steps, or gradient evaluations."""

import dataclasses
import math
from typing import Literal

import numpy as np

from bilevel.comparison.statistics.costs import whole_steps
from bilevel.core.checks import check_one_of, check_positive_integer
from bilevel.errors import ArgumentError
from bilevel.training.recorder import record_steps

BudgetKind = Literal["steps", "gradients"]
RECORDS = 50


@dataclasses.dataclass(frozen=True)
class Budget:
    """How far every strategy is trained, and where it is recorded.

    Args:
        kind: "steps": all strategies make the same number of body steps. "gradients": all make
            the same number of gradient evaluations; the dearer a step, the fewer of them.
        total: steps or gradient evaluations of every strategy.
        every: of these between records; None: about 50 records.
        dearest: gradient evaluations of the dearest step.
    """

    kind: BudgetKind
    total: int
    every: int | None
    dearest: float

    def __post_init__(self) -> None:
        check_one_of(self.kind, BudgetKind, "budget")
        if self.every is not None:
            check_positive_integer(self.every, "`every`", endless=True)
        if self.kind == "gradients" and self.every is not None and self.every < self.dearest:
            raise ArgumentError(
                f"`every` counts gradient evaluations here, and the dearest step takes "
                f"{self.dearest:g} of them: it must be at least {math.ceil(self.dearest)}, got "
                f"{self.every}."
            )
        if self.kind == "gradients" and self.marks[-1] < self.dearest:
            raise ArgumentError(
                f"`steps` counts gradient evaluations here, and {self.total} are not enough for "
                f"one step of the dearest strategy, which takes {self.dearest:g}."
            )

    @property
    def marks(self) -> list[int]:
        """Where records are made, in units of the budget, from 0 to the total."""
        every = self.every
        if every is None and isinstance(self.total, int):
            every = max(1, round(self.total / RECORDS))
            if self.kind == "gradients":
                every = max(every, math.ceil(self.dearest))
        marks = record_steps(0, self.total, every)
        if self.kind == "gradients" and self.total - marks[-2] < self.dearest:
            del marks[-2]  # less than a step before the end
        return marks

    def steps(self, gradients: float) -> list[int]:
        """The steps at which a strategy is recorded whose steps take that many gradients."""
        found: list[int] = whole_steps(self.kind, np.array(self.marks), gradients).tolist()
        return found
