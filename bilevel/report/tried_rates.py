"""The figure of rates that were tried: pairs as a map, uniform rates along their diagonal."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from bilevel.report.scales import logarithmic
from bilevel.report.svg import FAINT, INK, style

Pair = tuple[float, float]
WORST = 3.0
"""Losses above this multiple of the smallest have the darkest colour: those differ no more."""

ROOM = 1.8
"""Around the rates, for the squares that stand for them."""


def tried_rates(
    losses: Mapping[Pair, float],
    chosen: Pair,
    uniform: float,
    *,
    title: str,
) -> Figure:
    """Rates of body and head, coloured by the loss that they led to.

    Args:
        losses: (body rate, head rate) -> a positive loss; infinite where a run failed: an empty
            place. Equal rates are drawn as circles on the diagonal, other pairs as squares.
        chosen: the best pair of different rates, marked.
        uniform: the best equal rate, marked.
        title: what the loss is.

    Returns:
        The figure, both axes logarithmic.
    """
    finite = [loss for loss in losses.values() if np.isfinite(loss)]
    least = min(finite, default=1.0)
    worst = min(max(finite, default=1.0), WORST * least)
    with style():
        figure = Figure(figsize=(5.2, 4.2), layout="constrained")
        axes = figure.subplots()
        axes.set_title(title)
        for side, tried in zip("xy", zip(*losses, strict=True), strict=True):
            logarithmic(axes, side, min(tried) / ROOM, max(tried) * ROOM)
        axes.set_xlabel("rate of the body")
        axes.set_ylabel("rate of the head")
        axes.grid(visible=False)
        for equal, marker, size in ((False, "s", 260), (True, "o", 46)):
            those = [pair for pair in losses if (pair[0] == pair[1]) == equal]
            for failed in (True, False):
                drawn = [pair for pair in those if np.isfinite(losses[pair]) != failed]
                place = np.reshape(drawn, (-1, 2)).T
                if failed:
                    axes.scatter(place[0], place[1], s=size, marker=marker, facecolor="none",
                                 edgecolor=FAINT, linewidth=0.8)  # fmt: skip
                    continue
                colours = np.clip([losses[pair] for pair in drawn], least, worst)
                shown = axes.scatter(
                    place[0], place[1], s=size, marker=marker, c=colours, cmap="cividis_r",
                    vmin=least, vmax=max(worst, 1.001 * least), edgecolor="white", linewidth=0.6,
                )  # fmt: skip
        ends = [min(min(pair) for pair in losses), max(max(pair) for pair in losses)]
        axes.plot(ends, ends, color=FAINT, linewidth=0.8, dashes=(4, 3), zorder=0)
        axes.scatter(*chosen, s=430, marker="s", facecolor="none", edgecolor=INK, linewidth=1.6,
                     label="best pair")  # fmt: skip
        axes.scatter(uniform, uniform, s=130, marker="o", facecolor="none", edgecolor=INK,
                     linewidth=1.6, label="best uniform rate")  # fmt: skip
        figure.legend(loc="outside lower center", ncols=2, fontsize=9.5, scatterpoints=1,
                      markerscale=0.6)  # fmt: skip
        more = "max" if max(losses.values()) > worst else "neither"
        figure.colorbar(shown, ax=axes, extend=more, shrink=0.9)
    return figure
