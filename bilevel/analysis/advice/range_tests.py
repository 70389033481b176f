"""How large the steps of each level may be: rates that grow until the loss blows up."""

import dataclasses
import math
from typing import NamedTuple

import torch

from bilevel.analysis.advice.setting import Setting
from bilevel.core.schedules import AbstractSchedule, Frozen, Rate
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.assembly import Assembly
from bilevel.training.cohort import Cohort

LOWEST, HIGHEST = 1e-6, 1e6
PER_DECADE = 15
"""Steps in which a rate grows tenfold."""
SMOOTHING = 0.9
BLOWN_UP = 1.5
"""Times the smallest smoothed loss at which a test ends."""
BACK = 0.75
"""And the part of the first loss that it must be back at: noise of small losses ends no test."""
BELOW = 0.1
"""Of the rate at which the smoothed loss is smallest, what is safe to train at: the centre."""


@dataclasses.dataclass(frozen=True, eq=False)
class Growing(AbstractSchedule):
    """LOWEST times 10^(k / PER_DECADE)."""

    def __call__(self, k: int) -> float:
        """The step size of step `k`."""
        return float(LOWEST * 10.0 ** (k / PER_DECADE))


STEPS = round(PER_DECADE * math.log10(HIGHEST / LOWEST))


class Centres(NamedTuple):
    """A tenth of the rate with the smallest smoothed loss, of three range tests.

    Attributes:
        body: of the body, while the head moves at `head`.
        head: of the head alone.
        uniform: of both at one rate.
        steps: that the tests made, of each seed.
    """

    body: float
    head: float
    uniform: float
    steps: int

    @property
    def at_an_end(self) -> list[str]:
        """The levels whose loss was smallest within a decade of either end: no step was useful."""
        least, most = 10 * BELOW * LOWEST, 0.1 * BELOW * HIGHEST
        levels = {"body": self.body, "head": self.head}
        return [level for level, rate in levels.items() if not least <= rate <= most]


def range_tests(setting: Setting, data: TrainingData) -> Centres:
    """The three tests, from all seeds at once.

    The head comes first: a head that starts at zero gives a body alone no gradient, so that the
    body is tested while the head moves at its own centre.
    """
    growing = Growing()
    head, first = _range_test(setting, data, Frozen(), growing)
    body, second = _range_test(setting, data, growing, head)
    uniform, third = _range_test(setting, data, growing, growing)
    return Centres(body, head, uniform, first + second + third)


def _range_test(setting: Setting, data: TrainingData, body: Rate, head: Rate) -> tuple[float, int]:
    """The centre of the rates that grow, and the steps made.

    g on the rows of each step, the mean over seeds, smoothed; it need not be positive.
    """
    made = Assembly.of(data, setting.batch_size, setting.sampling)
    cohort = Cohort(made, setting.strategy(body, head))
    growing, smooth, place = Growing(), 0.0, 0
    best = first = math.inf
    for k in range(STEPS):
        rows = cohort.sampler.rows(k)
        at = cohort.state.strategy
        with torch.no_grad():
            loss = float(cohort.oracles.head_value(at.body, at.head, rows).double().mean())
        smooth = SMOOTHING * smooth + (1 - SMOOTHING) * loss
        mean = smooth / (1 - SMOOTHING ** (k + 1))
        if k == 0:
            first = mean
        risen = mean - best > (BLOWN_UP - 1) * abs(best)
        if not math.isfinite(mean) or (risen and mean - first > (BACK - 1) * abs(first)):
            return BELOW * growing(place), k
        if mean < best:
            best, place = mean, k
        cohort.step()
    return BELOW * growing(place), STEPS
