"""Slopes of curves on log-log axes, with intervals by resampling runs."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

RESAMPLES, LEVEL = 2000, 95.0
FEWEST_POINTS = 3


class Slope(NamedTuple):
    """How fast the mean over runs of a quantity falls.

    Attributes:
        schedule: the name of the schedules.
        quantity: what falls.
        slope: p of the line log(mean) = p log k + q, by least squares; NaN where fewer than three
            records can be used.
        low: the lower end of its 95 % interval, from 2,000 resamples of the runs; NaN with one run.
        high: the upper end.
        level: exp(q).
        promised: the slope that a theorem promises, or that the head is said to follow; else NaN.
        runs: how many have a value at every record that is used.
    """

    schedule: str
    quantity: str
    slope: float
    low: float
    high: float
    level: float
    promised: float
    runs: int


def log_slope(steps: Array, values: Array, seed: int = 0) -> tuple[float, float, float, float, int]:
    """The slope of log(mean over runs) against log(steps).

    Args:
        steps: (T,) positive.
        values: (T, R), not negative; runs with a value that is not finite are left out.
        seed: of the resamples.

    Returns:
        The slope, the ends of its interval, the level at k = 1, and how many runs were used.
    """
    kept = values[:, np.isfinite(values).all(axis=0)]
    runs = kept.shape[1]
    mean = kept.mean(axis=1) if runs else np.zeros(len(steps))
    positive = mean > 0
    if positive.sum() < FEWEST_POINTS:
        return np.nan, np.nan, np.nan, np.nan, runs
    logs = np.log(steps[positive].astype(float))
    centred = logs - logs.mean()
    weights = centred / (centred @ centred)
    heights = np.log(mean[positive])
    slope = float(weights @ heights)
    level = float(np.exp(heights.mean() - slope * logs.mean()))
    if runs < 2:
        return slope, np.nan, np.nan, level, runs
    shares = np.random.default_rng(seed).multinomial(runs, np.full(runs, 1 / runs), RESAMPLES)
    means = kept[positive] @ (shares.T / runs)
    usable = (means > 0).all(axis=0)
    found = weights @ np.log(means[:, usable])
    low, high = np.percentile(found, [50 - LEVEL / 2, 50 + LEVEL / 2])
    return slope, float(low), float(high), level, runs
