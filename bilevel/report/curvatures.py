"""The figure of curvatures along a training, for pages and for print."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from numpy.typing import NDArray

from bilevel.report import palette
from bilevel.report.figures import draw_band, quantiles
from bilevel.report.palette import Line
from bilevel.report.scales import logarithmic
from bilevel.report.svg import math, style

Array = NDArray[Any]
Curves = Mapping[str, tuple[str, Line]]
"""Name among the values -> what it is called, and its line."""

BLUE, ORANGE, GREY = (palette.COLOURS[i] for i in (0, 1, 3))
MATRICES: Curves = {
    "joint": ("joint, $g_{ww}(w_k, \\theta_k)$", Line(BLUE, ())),
    "best": ("joint at $\\theta^*$, $g_{ww}(w_k, \\theta^*)$", Line(GREY, (5, 1.5))),
    "phi": ("reduced, $\\Phi''(w_k)$", Line(ORANGE, ())),
}
NORMS: Curves = {
    "body_norm": ("$|w_k|$", Line(GREY, (2, 1.2))),
    "head_norm": ("$|\\theta_k|$", Line(BLUE, ())),
    "best_norm": ("$|\\theta^*(w_k)|$", Line(ORANGE, ())),
    "head_gap": ("$|\\theta_k - \\theta^*|$", Line(GREY, (5, 1.5))),
}
GRADIENTS: Curves = {
    "body_gradient_norm": ("$|\\nabla_w g(w_k, \\theta_k)|$", Line(BLUE, ())),
    "head_gradient_norm": ("$|\\nabla_\\theta g(w_k, \\theta_k)|$", Line(GREY, (5, 1.5))),
    "phi_gradient_norm": ("$|\\nabla \\Phi(w_k)|$", Line(ORANGE, ())),
}
PANEL = 2.5
"""The height of a panel. Inches."""
PAGE = 7.2


def along(steps: Sequence[int], values: Mapping[str, Array]) -> Figure:
    """Curvatures, norms and gradients along a training: medians, with bands from 10 % to 90 %.

    Args:
        steps: T numbers of iterates, ascending.
        values: name -> (T, R), by the names of `bilevel.analysis.Curvatures`; those that lack are
            not drawn, nor is what is not positive.

    Returns:
        The figure, with four panels: largest eigenvalues, traces, norms and gradients.
    """
    panels: dict[str, Curves] = {
        "largest eigenvalue": {f"{name}_largest": MATRICES[name] for name in MATRICES},
        "trace": {f"{name}_trace": MATRICES[name] for name in MATRICES},
        "norms": NORMS,
        "gradients": GRADIENTS,
    }
    with style(), math():
        figure = Figure(figsize=(PAGE, 2 * PANEL), layout="constrained")
        for number, (title, curves) in enumerate(panels.items(), 1):
            axes = figure.add_subplot(2, 2, number)
            axes.set_title(title)
            shown = {k: (values[k], *of) for k, of in curves.items() if k in values}
            lines(axes, steps, shown)
            if number > 2:
                axes.set_xlabel("iterate k")
            if shown:
                axes.legend(fontsize=8, handlelength=1.8, labelspacing=0.25, borderaxespad=0.2)
    return figure


def lines(axes: Axes, steps: Sequence[int], curves: Mapping[str, tuple[Array, str, Line]]) -> None:
    """Positive curves over iterates, the start included: median and band of each."""
    bands = {}
    for key, (runs, label, line) in curves.items():
        positive = np.where(np.asarray(runs) > 0, runs, np.nan)
        bands[key] = quantiles(positive)
        draw_band(axes, np.asarray(steps, dtype=np.float64), bands[key], line, label)
    known = np.concatenate([np.empty(0), *(np.ravel(one) for one in bands.values())])
    known = known[np.isfinite(known)]
    if known.size:
        logarithmic(axes, "y", known.min() / 1.2, known.max() * 1.2)
    later = [step for step in steps if step > 0]
    if len(later) > 1 and later[-1] > 10 * later[0]:
        # the start has a place beside those whose distances are logarithms
        axes.set_xscale("symlog", linthresh=later[0], linscale=0.4)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_locator(FixedLocator(_apart(steps)))
        axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlim(steps[0], max(steps[-1], steps[0] + 1))


def _apart(steps: Sequence[int]) -> list[int]:
    """The steps that have room for their labels."""
    kept = [steps[0]]
    for step in steps[1:]:
        if step >= 3 * max(kept[-1], 1) or kept[-1] == 0:
            kept.append(step)
    return kept
