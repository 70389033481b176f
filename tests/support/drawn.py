"""Figures of a few numbers."""

import numpy as np

from bilevel.report import figures
from bilevel.report.palette import lines


def series(values):
    values = np.asarray(values, dtype=float)
    return {"two-timescale": (np.arange(len(values)), values)}


def curves(parts):
    return figures.curves(parts, lines(list(parts)), xlabel="step", title="loss")
