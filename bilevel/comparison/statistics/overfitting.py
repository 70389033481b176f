"""From which record on a strategy overfits, said only where chance is no good explanation.

The record with the best mean of the validation curve is too good by chance: on curves that have
come to rest, the rise from there to the end is "significant" in one case of five to eight. So each
seed is measured from the record that the *other* seeds call best.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bilevel.comparison.statistics.judging import body_objective, higher_is_better, selecting
from bilevel.comparison.statistics.values import Values

Array = NDArray[Any]

CONFIDENCE, LEAST = 0.99, 0.02
"""Of the interval of the rise, and the smallest rise that is worth a word."""
RANGE, RESAMPLES = 0.9, 1000
"""Of the range of the best record, and from how many resamples of the seeds."""
FEWEST = 3
"""Seeds of which an interval says something."""


@dataclass(frozen=True)
class Overfit:
    """A rise of the validation curve that is no chance.

    Attributes:
        step: Where the geometric mean over seeds is smallest.
        earlier: Whether that is one of the first two records: it may have been before.
        low: Where the 90 % range of that step begins, by bootstrap over seeds.
        high: Where it ends.
        rise: Geometric mean of the last value over that where the other seeds are best, minus 1.
        fall: The same of the training metric: negative.
        seeds: How many seeds were counted.
    """

    step: int
    earlier: bool
    low: int
    high: int
    rise: float
    fall: float
    seeds: int


def overfit(steps: Array, validation: Array, train: Array) -> Overfit | None:
    """What is known of one strategy; None: no more than chance, or the training metric rises too.

    Args:
        steps: (T,) recorded steps.
        validation: (T, R) positive values, lower is better.
        train: (T, R) positive values of the training rows.

    Examples:
        >>> falls, seeds = np.exp(-np.arange(9.0))[:, None], np.linspace(1, 1.1, 5)
        >>> rises = falls + 0.1 * np.arange(9)[:, None]
        >>> overfit(np.arange(9) * 10, rises * seeds, falls * seeds).step
        20
        >>> overfit(np.arange(9) * 10, falls * seeds, falls * seeds) is None
        True
    """
    if len(steps) < FEWEST or validation.shape[1] < FEWEST:
        return None
    logs = np.log(validation)
    since = _best_of_others(logs)
    rises, falls = _changes(logs, since), _changes(np.log(train), since)
    if rises.mean() <= np.log1p(LEAST) or _ends(rises)[0] <= 0 or _ends(falls)[1] >= 0:
        return None
    best = int(logs.mean(axis=1).argmin())
    low, high = np.quantile(_resampled(logs), [(1 - RANGE) / 2, (1 + RANGE) / 2], method="nearest")
    return Overfit(
        step=int(steps[best]),
        earlier=best <= 1,
        low=int(steps[low]),
        high=int(steps[high]),
        rise=float(np.expm1(rises.mean())),
        fall=float(np.expm1(falls.mean())),
        seeds=validation.shape[1],
    )


def overfitting(values: Values, steps: Array, headline: str) -> dict[str, Any]:
    """By which metrics it was looked for, and which strategies overfit.

    Returns:
        "validation" and "train", names of metrics, or None where there is no validation metric of
        positive values that fall; and "found": strategy -> fields of `Overfit`.
    """
    history = values.compared()
    names = list(dict.fromkeys(name for table in history.values() for name in table))
    scores = [selecting(names, headline), *names]
    metric = next((name for name in scores if name.startswith("validation_")
                   and not higher_is_better(name)), None)  # fmt: skip
    train = "" if metric is None else f"train_{metric.removeprefix('validation_')}"
    train = train if train in names else body_objective(names)
    found: dict[str, Any] = {}
    for name, table in history.items():
        if metric in table and train in table:
            curves = _whole(table[metric], table[train], values.failed(name))
            one = overfit(steps[: len(curves[0])], *curves)
            found |= {} if one is None else {name: asdict(one)}
    return {"validation": metric, "train": train if metric else None, "found": found}


def _whole(validation: Array, train: Array, failed: Array) -> tuple[Array, Array]:
    """The curves of runs that did not fail; one that converged keeps its last values."""
    both = [_carried(values[:, ~failed]) for values in (validation, train)]
    known = np.logical_and(*(np.isfinite(values) & (values > 0) for values in both)).all(axis=0)
    return both[0][:, known], both[1][:, known]


def _carried(values: Array) -> Array:
    """NaN replaced by the last value before it."""
    last = np.where(np.isnan(values), 0, np.arange(len(values))[:, None])
    carried: Array = np.take_along_axis(values, np.maximum.accumulate(last, axis=0), axis=0)
    return carried


def _best_of_others(logs: Array) -> Array:
    """(R,): the record where the mean of all seeds but one is smallest."""
    best: Array = (logs.sum(axis=1, keepdims=True) - logs).argmin(axis=0)
    return best


def _changes(logs: Array, since: Array) -> Array:
    changes: Array = logs[-1] - logs[since, np.arange(logs.shape[1])]
    return changes


def _ends(changes: Array) -> tuple[float, float]:
    """Of the Student interval of the mean."""
    from scipy import stats  # takes a second to import, for which no training waits

    n, mean = changes.size, changes.mean()
    half = stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1) * changes.std(ddof=1) / np.sqrt(n)
    return float(mean - half), float(mean + half)


def _resampled(logs: Array) -> Array:
    """The best record of resamples of the seeds; always the same ones."""
    runs = logs.shape[1]
    counts = np.random.default_rng(0).multinomial(runs, np.full(runs, 1 / runs), RESAMPLES)
    best: Array = (counts @ logs.T).argmin(axis=1)
    return best
