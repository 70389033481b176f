"""The figure of a landscape, for pages and for print."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from bilevel.report.scales import logarithmic
from bilevel.report.svg import FAINT, INK, style
from bilevel.report.words import number

Array = NDArray[Any]

PAGE = 7.2
"""The width of a page with two columns. Inches."""
ROW, FOOT, TOP = 1.72, 0.62, 0.36
"""The height of an iterate, of the scale of colours below, and of the titles. Inches."""
COLOURS = "cividis"
"""Told apart with every common colour vision, and in grey."""
MOST_LINES = 18
"""Of a surface along each axis: more only make its file larger."""
LARGEST = 1e200
"""Of what is drawn: contours have levels outside of all others, at 1e250."""
LEVELS, FLAT = 12, 1e-9
"""How many lines a panel of contours has, and the range of values, relative to them, that has none.
"""
TITLES = ("joint $g(w, \\theta_k)$", "reduced $\\Phi(w)$") * 2


def surfaces(
    steps: Sequence[int], places: Array, joint: Array, phi: Array, *, title: str = ""
) -> Figure:
    """Both objectives around iterates, one row for each: as surfaces, and as filled contours.

    Args:
        steps: T numbers of iterates.
        places: (A,) coordinates along both directions.
        joint: (T, A, A), along the first direction first; not finite where it is not known.
        phi: Likewise.
        title: What is shown.

    Returns:
        The figure. One scale of heights and colours for all of it, logarithmic where all values are
        positive; the white lines in a panel of contours are its own, evenly spaced.
    """
    both = _at_places(np.stack([joint, phi]).astype(np.float64))
    norm = _norm(both)
    height = TOP + ROW * len(steps) + FOOT
    with style(), mpl.rc_context({"text.parse_math": True, "axes.grid": False}):
        figure = Figure(figsize=(PAGE, height))
        places_of = {"top": 1 - TOP / height, "bottom": FOOT / height, "hspace": 0.14}
        halves = [
            figure.add_gridspec(len(steps), 2, left=0.05, right=0.535, wspace=0.1, **places_of),
            figure.add_gridspec(len(steps), 2, left=0.61, right=0.985, wspace=0.13, **places_of),
        ]
        limits = _limits(both, norm)
        for row, step in enumerate(steps):
            for column, values in enumerate([*both, *both]):
                spatial = {"projection": "3d"} if column < 2 else {}
                axes = figure.add_subplot(halves[column // 2][row, column % 2], **spatial)
                draw = _surface if column < 2 else _contours
                draw(axes, places, values[row], norm, limits)
                if row == 0:
                    axes.set_title(TITLES[column], loc="center", fontsize=9.5, pad=3)
                if column > 1:
                    _label(axes, float(places[-1]), last=row == len(steps) - 1, first=column == 2)
            middle = 1 - (TOP + (row + 0.5) * ROW) / height
            figure.text(0.012, middle, f"iterate {step:,}", rotation=90, va="center", fontsize=9.5)
        _scale_of_colours(figure, norm, height, title)
    return figure


def _norm(values: Array) -> Normalize:
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    if low > 0 and high > 2 * low:
        return LogNorm(low, high)
    return Normalize(low, high if high > low else low + max(1.0, abs(low)))


def _at_places(values: Array) -> Array:
    """Values for which there is room on an axis; those that are not known are NaN."""
    known = values[np.isfinite(values)]
    low = 1 / LARGEST if bool((known > 0).all()) else -LARGEST
    return np.where(np.isfinite(values), np.clip(values, low, LARGEST), np.nan)


def _limits(values: Array, norm: Normalize) -> tuple[float, float]:
    """Of the vertical axes, in what is drawn: logarithms where colours are logarithmic."""
    heights = _heights(values, norm)
    known = heights[np.isfinite(heights)]
    if not known.size:
        return 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    room = 0.04 * (high - low) or max(0.5, 0.01 * abs(low))
    return low - room, high + room


def _heights(values: Array, norm: Normalize) -> Array:
    return np.log10(values) if isinstance(norm, LogNorm) else values


def _surface(
    axes: Any, places: Array, values: Array, norm: Normalize, limits: tuple[float, float]
) -> None:
    step = max(1, -(-(len(places) - 1) // (MOST_LINES - 1)))
    kept = np.unique([*range(0, len(places), step), len(places) - 1])
    a, b = np.meshgrid(places[kept], places[kept], indexing="ij")
    some = values[np.ix_(kept, kept)]
    colours = mpl.colormaps[COLOURS](norm(np.where(np.isfinite(some), some, norm.vmin)))
    heights = _heights(some, norm)
    axes.plot_surface(a, b, heights, facecolors=colours, rcount=len(kept), ccount=len(kept),
                      linewidth=0, antialiased=False, shade=False)  # fmt: skip
    axes.view_init(elev=28, azim=-58)
    axes.set_box_aspect((1, 1, 0.8), zoom=1.22)
    axes.set_zlim(*limits)
    axes.zaxis.set_major_locator(MaxNLocator(3))
    if isinstance(norm, LogNorm):
        axes.zaxis.set_major_formatter(lambda value, _: number(10**value, 2))
    ends = float(places[-1])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator([-ends, ends]))
        axis.set_major_formatter("{x:g}")
    axes.set_xlabel("$a$", fontsize=8, labelpad=-13)
    axes.set_ylabel("$b$", fontsize=8, labelpad=-13)
    axes.tick_params(labelsize=6.5, pad=-3.5)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.pane.set_facecolor("white")
        axis.pane.set_edgecolor("#b6bcc4")
        axis.line.set_color("#b6bcc4")


def _contours(
    axes: Axes, places: Array, values: Array, norm: Normalize, _: tuple[float, float]
) -> None:
    known = np.ma.masked_invalid(values).T
    spaced = np.linspace(norm.vmin, norm.vmax, 2 * LEVELS + 1)  # type: ignore[arg-type]
    if isinstance(norm, LogNorm):
        spaced = np.geomspace(norm.vmin, norm.vmax, 2 * LEVELS + 1)  # type: ignore[arg-type]
    if known.count():
        axes.contourf(places, places, known, levels=spaced, norm=norm, cmap=COLOURS,
                      extend="both")  # fmt: skip
        low, high = known.min(), known.max()
        if high - low > FLAT * max(abs(low), abs(high)):
            logs = isinstance(norm, LogNorm)
            own = np.geomspace(low, high, LEVELS) if logs else np.linspace(low, high, LEVELS)
            axes.contour(places, places, known, levels=own, colors="white", linewidths=0.35)
    axes.plot(0, 0, marker="o", markersize=3.2, markerfacecolor="white", markeredgecolor=INK)
    axes.set_aspect("equal")


def _label(axes: Axes, end: float, *, last: bool, first: bool) -> None:
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator([-end, 0, end]))
        axis.set_major_formatter("{x:g}")
    axes.tick_params(labelsize=7, pad=1.5, labelbottom=last, labelleft=first)
    if last:
        axes.set_xlabel("$a$", fontsize=8.5, labelpad=1)
    if first:
        axes.set_ylabel("$b$", fontsize=8.5, labelpad=-1, rotation=0)


def _scale_of_colours(figure: Figure, norm: Normalize, height: float, title: str) -> None:
    place = figure.add_axes((0.3, 0.3 / height, 0.4, 0.09 / height))
    bar = figure.colorbar(ScalarMappable(norm, COLOURS), cax=place, orientation="horizontal")
    if bar.solids is not None:  # an image otherwise
        bar.solids.set(rasterized=False, edgecolor="face")
    if isinstance(norm, LogNorm):
        logarithmic(place, "x", norm.vmin, norm.vmax)  # type: ignore[arg-type]
    bar.ax.tick_params(labelsize=7.5, pad=2)
    bar.ax.xaxis.set_minor_locator(NullLocator())
    place.set_title("objective: height and colour", fontsize=8.5, loc="left", pad=2, color=FAINT)
    figure.text(0.985, 0.045 / height, title, ha="right", fontsize=7.5, color=FAINT)
