"""Rates that are tried side by side, each from the same seeds."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bilevel.analysis.advice.setting import Pair, Setting
from bilevel.comparison.statistics.judging import higher_is_better
from bilevel.core import parts
from bilevel.data.training_data import TrainingData
from bilevel.errors import ProblemError
from bilevel.training.state import TrainingState
from bilevel.training.training import Training

Array = NDArray[np.float64]


class Trials:
    """Pairs of rates, trained together.

    Args:
        setting: how.
        data: of the seeds.
        pairs: which.
    """

    def __init__(self, setting: Setting, data: TrainingData, pairs: Sequence[Pair]) -> None:
        self.setting, self.data, self.pairs = setting, data, list(pairs)
        self.training = Training(
            parts.stack([setting.strategy(*pair) for pair in pairs], len(data.seeds)),
            data.repeated(len(self.pairs)),
            setting.batch_size,
            setting.sampling,
        )

    def losses(self, metric: str, step: int) -> Array:
        """The metric after `step` steps as a loss, (pairs, seeds); NaN where a run failed.

        Of metrics that are better when larger, what is missing to 1.
        """
        training = self.training
        if step not in training.records:
            training.run([*training.recorded, step], respond=False)
        values = training.records[step][metric].cpu().numpy()
        values = values.reshape(len(self.pairs), len(self.data.seeds))
        return as_losses(metric, values, self.data)

    def kept(self, pairs: Sequence[Pair]) -> "Trials":
        """Those of `pairs`, where they stand."""
        found, seeds, state = Trials(self.setting, self.data, pairs), len(self.data.seeds), None
        state = self.training.state
        places = [self.pairs.index(pair) for pair in pairs]
        those = [state.part(slice(i * seeds, (i + 1) * seeds)) for i in places]
        found.training.go_on_from(TrainingState.join(those))
        return found


def as_losses(metric: str, values: Array, data: TrainingData) -> Array:
    """Positive losses, whose ratios mean something; NaN where a value is not finite.

    Raises:
        ProblemError: some value is negative.
    """
    if higher_is_better(metric):
        values = 1 - values
    values = np.where(np.isfinite(values), values, np.nan)
    if (values < 0).any():
        raise ProblemError(
            f"Rates are judged by ratios of {metric}, which is negative here. Give the problem a "
            "metric that is not, such as a squared error on its validation and test rows."
        )
    # of an error rate of no row, half a row
    rows = data.sizes.get(metric.partition("_")[0], 0)
    least = 0.5 / rows if rows and metric.endswith("accuracy") else np.finfo(np.float64).tiny
    return np.maximum(values, least)


def scores(losses: Array) -> Array:
    """The logarithm of the geometric mean over seeds; infinite where a run failed."""
    found = np.log(losses).mean(1)
    return np.where(np.isfinite(found), found, np.inf)


def best_first(pairs: Sequence[Pair], score: dict[Pair, float], count: int) -> list[Pair]:
    """The `count` pairs with the smallest scores."""
    return sorted(pairs, key=score.__getitem__)[:count]
