"""Rates of convergence: curves on log-log axes with the lines that were fitted to them."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bilevel.report.figures import WIDTH
from bilevel.report.scales import logarithmic
from bilevel.report.svg import FAINT, INK, style

Array = NDArray[Any]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Okabe and Ito's, told apart with every common colour vision."""
SHOWN = (("theta", "θ"), ("grad ", "∇"), ("Phi", "Φ"), ("^2", "²"), (" - ", " − "))


def rates(
    steps: Array,
    means: Mapping[str, Mapping[str, Array]],
    slopes: Sequence[Mapping[str, Any]],
    after: int,
) -> Figure:
    """A panel for each quantity: a curve for each schedule, its line, and the slope promised.

    Args:
        steps: (T,) steps of the records.
        means: Schedule -> quantity -> (T,) means over runs.
        slopes: Fields of `Slope` as dictionaries.
        after: Lines are fitted to the records at later steps.

    Returns:
        The figure: solid curves, black fitted lines with their slopes in the legend, and dotted
        lines, from where the fitted one begins, that fall as was promised.
    """
    quantities = list(dict.fromkeys(q for table in means.values() for q in table))
    colours = dict(zip(means, itertools.cycle(COLOURS)))
    rows = (len(quantities) + 1) // 2
    columns = min(2, len(quantities))
    with style():
        figure = Figure(figsize=(1.15 * WIDTH * columns, 3.4 * rows), layout="constrained")
        panels = np.ravel(figure.subplots(rows, columns, squeeze=False))
        for axes, quantity in zip(panels, quantities, strict=False):
            _panel(axes, quantity, steps, means, slopes, after, colours)
        for axes in panels[len(quantities) :]:
            axes.set_visible(False)
    return figure


def _panel(
    axes: Any,
    quantity: str,
    steps: Array,
    means: Mapping[str, Mapping[str, Array]],
    slopes: Sequence[Mapping[str, Any]],
    after: int,
    colours: Mapping[str, str],
) -> None:
    """One quantity of all schedules."""
    late, shown = steps[steps > after].astype(float), []
    for slope in slopes:
        name = slope["schedule"]
        if slope["quantity"] != quantity:
            continue
        values = np.where(means[name][quantity] > 0, means[name][quantity], np.nan)
        known = (steps > 0) & np.isfinite(values)
        if not known.any():
            continue
        shown.append(values[known])
        label = f"{name}: {slope['slope']:.2f}"
        if np.isfinite(slope["promised"]):
            label += f" ({slope['promised']:.2f})"
        colour = colours[name]
        over = {} if len(shown) < 3 else {"dashes": (3, 1.5)}  # curves may lie on each other
        axes.plot(steps[known], values[known], color=colour, linewidth=2.2, alpha=0.75, label=label,
                  **over)  # fmt: skip
        if np.isfinite(slope["slope"]):
            fitted = slope["level"] * late ** slope["slope"]
            axes.plot(late, fitted, color=INK, linewidth=0.9)
            if np.isfinite(slope["promised"]):
                theory = fitted[0] * (late / late[0]) ** slope["promised"]
                axes.plot(late, theory, color=colour, linewidth=1.6, linestyle=":")
    for word, sign in SHOWN:
        quantity = quantity.replace(word, sign)
    axes.set_title(quantity)
    axes.set_xlabel("step")
    if shown:
        values = np.concatenate(shown)
        logarithmic(axes, "x", max(1.0, float(steps[steps > 0][0])), float(steps[-1]))
        logarithmic(axes, "y", float(values.min()) / 1.5, float(values.max()) * 1.5)
        axes.axvline(after, color=FAINT, linewidth=0.7)
        axes.legend(loc="lower left", fontsize=8.5, handlelength=2.2,
                    title="slope (promised)", title_fontsize=8.5, alignment="left")  # fmt: skip
