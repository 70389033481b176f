"""Which metric is shown and judged by, which way, and which one selects.

`metrics` are the names of what was recorded, in that order.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
ROUNDING = {"float32": 2e-6, "float64": 1e-12}
"""dtype of a training -> by what part of their size values may differ by rounding alone."""


def rounding(settings: Mapping[str, Any]) -> float:
    """Values that differ by no more than this part of their size are equal."""
    return ROUNDING.get(str(settings.get("dtype")), ROUNDING["float64"])


def higher_is_better(metric: str) -> bool:
    """Whether larger values of a metric are better: by what their names end in.

    Examples:
        >>> higher_is_better("test_accuracy"), higher_is_better("test_mse")
        (True, False)
    """
    return metric.endswith(("accuracy", "r2", "f1", "auc", "return"))


def by_difference(metric: str) -> bool:
    """Whether two values are compared by their difference even if both are positive.

    Examples:
        >>> by_difference("last_return"), by_difference("test_mse")
        (True, False)
    """
    return metric.endswith(("r2", "return"))


def bounds(metric: str, history: Mapping[str, Mapping[str, Array]]) -> tuple[float, float]:
    """What a mean of the metric must lie between, judged by all values that were recorded.

    From 0 where none is negative (but for r2), to 1 where larger is better and none is above.

    Examples:
        >>> bounds("test_accuracy", {"a": {"test_accuracy": np.array([[0.1], [0.9]])}})
        (0.0, 1.0)
    """
    known = [np.ravel(table[metric]) for table in history.values() if metric in table]
    values = np.concatenate([np.empty(0), *known])
    values = values[np.isfinite(values)]
    positive = not metric.endswith("r2") and (values >= 0).all()
    share = higher_is_better(metric) and (values <= 1).all()
    return 0.0 if positive else -np.inf, 1.0 if share else np.inf


def accuracy_beside(metric: str, metrics: Sequence[str]) -> str | None:
    """The accuracy of the same rows as a cross-entropy, which readers want to see beside it.

    Examples:
        >>> accuracy_beside("test_cross_entropy", ["test_cross_entropy", "test_accuracy"])
        'test_accuracy'
    """
    name = metric.removesuffix("cross_entropy") + "accuracy"
    return name if metric.endswith("cross_entropy") and name in metrics else None


def body_objective(metrics: Sequence[str]) -> str:
    """The name under which F is recorded: where F is g, it is g.

    Examples:
        >>> body_objective(["objective", "body_objective"]), body_objective(["objective"])
        ('body_objective', 'objective')
    """
    return "body_objective" if "body_objective" in metrics else "objective"


def shown(metrics: Sequence[str]) -> str:
    """What strategies are judged by if nobody says otherwise.

    The first test metric, else the first validation metric, else F at the recorded point. Never g
    where F is another function: a body that moves makes g larger by doing what it is there for.

    Examples:
        >>> shown(["objective", "body_objective", "train_mse", "validation_mse"])
        'validation_mse'
        >>> shown(["objective", "body_objective", "train_mse"])
        'body_objective'
    """
    starts = ("test_", "validation_")
    found = (metric for start in starts for metric in metrics if metric.startswith(start))
    return next(found, body_objective(metrics))


def selecting(metrics: Sequence[str], headline: str) -> str:
    """What chooses rates and records where `headline` is shown; never the test rows.

    The validation metric that belongs to the headline, else the first validation metric, else F at
    the recorded point. A headline that is a validation metric or F chooses for itself, and so do
    returns, which are those of the training: an objective says nothing about them.

    Examples:
        >>> names = ["objective", "validation_mse", "validation_r2", "test_r2", "test_mae"]
        >>> selecting(names, "test_r2"), selecting(names, "test_mae")
        ('validation_r2', 'validation_mse')
        >>> selecting(["objective", "body_objective", "test_mse"], "test_mse")
        'body_objective'
        >>> selecting(["objective", "last_return"], "last_return")
        'last_return'
    """
    objective = body_objective(metrics)
    known = [metric for metric in metrics if metric.startswith("validation_")]
    if headline in (*known, objective) or headline.endswith("return"):
        return headline
    twin = f"validation_{headline.partition('_')[2]}"
    if headline.startswith(("test_", "train_")) and twin in known:
        return twin
    return known[0] if known else objective
