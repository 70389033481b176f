"""The verdict: the best pair against the best uniform rates, on seeds that chose nothing."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bilevel.analysis.advice.setting import Pair, Setting
from bilevel.analysis.advice.trials import Trials
from bilevel.data.training_data import TrainingData

Array = NDArray[np.float64]

CONFIDENCE = 0.95
MARGIN = 0.02
"""By how much the hardest ratio must lie below 1: neighbours on a smooth curve differ by less."""
LOST = math.log(150)
"""The log ratio of a seed on which one of two runs failed, that run being the worse one."""


class Ratio(NamedTuple):
    """A geometric mean of ratios of losses over seeds, and its 95 % paired t interval.

    Attributes:
        value: below 1 where the first is better.
        low: the lower end.
        high: the upper end.
        lost: seeds on which a run of either failed.
    """

    value: float
    low: float
    high: float
    lost: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def ratio(first: Array, second: Array) -> Ratio:
    """The ratio of two losses, each (seeds,); NaN where a run failed, which loses its pair."""
    logs = np.log(first) - np.log(second)
    failed, other = np.isnan(first), np.isnan(second)
    logs = np.where(failed, LOST, np.where(other, -LOST, logs))
    logs = np.where(failed & other, 0.0, logs)
    mean, count = float(logs.mean()), len(logs)
    error = float(logs.std(ddof=1)) / math.sqrt(count)
    reach = error * float(stats.t.ppf(0.5 + CONFIDENCE / 2, count - 1))
    with np.errstate(over="ignore", under="ignore"):  # losses may be 0, and almost infinite
        value, low, high = np.exp([mean, mean - reach, mean + reach]).tolist()
    return Ratio(value, low, high, int((failed | other).sum()))


def is_gain(ratios: Sequence[Ratio]) -> bool:
    """Whether every interval lies below 1, and the largest ratio by more than a margin."""
    hardest = max(ratio.value for ratio in ratios)
    return all(ratio.high < 1 for ratio in ratios) and hardest < 1 - MARGIN


class Held(NamedTuple):
    """Losses of the finalists on held-out seeds.

    Attributes:
        losses: of every pair, (seeds,), NaN where a run failed.
        run_steps: steps of single runs.
    """

    losses: dict[Pair, Array]
    run_steps: int


def held_out(
    setting: Setting, data: TrainingData, pairs: Sequence[Pair], metric: str, steps: int
) -> Held:
    """Train the finalists, all seeds at once."""
    trials = Trials(setting, data, list(dict.fromkeys(pairs)))
    losses = trials.losses(metric, steps)
    made = steps * losses.size
    return Held(dict(zip(trials.pairs, losses, strict=True)), made)
