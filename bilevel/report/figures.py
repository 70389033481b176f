"""Figures: matplotlib `Figure` objects without pyplot, from arrays and dictionaries only.

Every figure is drawn for a column of about 360 pixels, the width of a phone, so that its text is
legible there; a page puts several side by side where there is room.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from bilevel.report import palette
from bilevel.report.palette import Line
from bilevel.report.scales import (
    EXPLODED,
    ROUNDING,
    logarithmic,
    scale_ratios,
    scale_x,
    scale_y,
    within,
)
from bilevel.report.sentences import change
from bilevel.report.svg import FAINT, INK, style
from bilevel.report.words import number

Array = NDArray[Any]

WIDTH, CURVES = 3.9, 2.75
"""Of all figures, and the height of one of curves above its legend. Inches."""


def curves(
    series: Mapping[str, tuple[Array, Array]],
    lines: Mapping[str, Line],
    *,
    xlabel: str,
    title: str,
    levels: Mapping[str, float] | None = None,
) -> Figure:
    """Median over runs with the band from the 10 % to the 90 % quantile.

    Args:
        series: Strategy -> ((T,) horizontal positions, (T, R) values). Values that are not finite
            are left out; a curve ends where fewer than half of its runs are finite.
        lines: Strategy -> its line, here and below, of `palette.lines`.
        xlabel: What the horizontal positions are.
        title: What the values are.
        levels: What is drawn as a level line -> where.

    Returns:
        The figure, the names below its axes (see `svg.without_legend`), with a logarithmic vertical
        axis where all values are positive and span more than a factor of three, and a logarithmic
        horizontal one where the curves end far apart.
    """
    faint = [name for name in series if lines[name] == palette.FAINT]
    rows = (len(series) - len(faint[1:]) + 1) // 2
    with style():
        figure, axes = _panel(CURVES, 0.21 * rows)
        axes.set_title(title)
        axes.set_xlabel(xlabel)
        bands = {name: quantiles(values) for name, (_, values) in series.items()}
        places = {name: np.asarray(x, dtype=np.float64) for name, (x, _) in series.items()}
        if scale_x(axes, list(places.values())):  # the start, at 0, has no place there
            places = {name: np.where(x > 0, x, np.nan) for name, x in places.items()}
        for name in dict.fromkeys([*faint, *places]):  # those lie below the rest
            label = name if name not in faint else "_" if name in faint[1:] else palette.OTHERS
            draw_band(axes, places[name], bands[name], lines[name], label)
        scale_y(axes, list(bands.values()), list((levels or {}).values()))
        _draw_levels(axes, levels or {})
        if series:
            figure.legend(loc="lower left", ncols=2, fontsize=9.5, handlelength=2.4)
    return figure


def gaps(
    name: str,
    line: Line,
    *,
    places: Array,
    gap: Array,
    bound: Array | None,
    limits: tuple[float, float],
    xlabel: str,
) -> Figure:
    """Distance of the head from its best response, with the certified bound.

    Args:
        name: The strategy.
        line: Its line.
        places: (T,) horizontal positions.
        gap: (T, R) distances |theta - theta*|.
        bound: (T, R) upper bounds, or None.
        limits: Lowest and highest value of the logarithmic axis, shared by all strategies.
        xlabel: What the horizontal positions are.

    Returns:
        The figure: solid median and band of the distance, dashed median of the bound.
    """
    with style():
        figure, axes = _panel(2.4)
        axes.set_title(short(name))
        axes.set_xlabel(xlabel)
        logarithmic(axes, "y", *limits)
        x = np.asarray(places, dtype=np.float64)
        band = quantiles(gap)
        draw_band(axes, x, band, line, "distance")
        shown = {"distance": band[1]}
        if bound is not None:
            shown["bound"] = quantiles(bound)[1]
            axes.plot(x, shown["bound"], color=INK, linewidth=1.0, dashes=(4, 2), label="bound")
        last = {word: values[np.isfinite(values)][-1:] for word, values in shown.items()}
        below = [f"{word} {number(float(value[0]))}" for word, value in last.items()
                 if value.size and value[0] < limits[0]]  # fmt: skip
        if below:
            note = f"in the end below this axis:\n{', '.join(below)}"
            axes.text(0.5, 0.4, note, transform=axes.transAxes, ha="center", color=FAINT)
    return figure


def gap_limits(tracks: Sequence[tuple[Array, Array | None]]) -> tuple[float, float] | None:
    """Shared limits for `gaps` over all strategies.

    Args:
        tracks: Distances of each, and bounds if there are any, (T, R).

    Returns:
        Lowest and highest value, the lowest at most nine orders below the highest; None where
        nothing is finite and positive.
    """
    known, starts = [np.zeros(0)], [0.0]
    for track in tracks:
        rows = [[values[k][np.isfinite(values[k])] for values in track if values is not None]
                for k in range(len(track[0]))]  # fmt: skip
        known += [values[values > 0] for row in rows for values in row]
        # without a row of data yet, all heads are best responses
        began = next((row for row in rows if (row[0] > 0).any()), rows[0])
        starts += [float(values.max(initial=0.0)) for values in began]
    values = np.concatenate(known)
    if not values.size:
        return None
    top = min(2 * float(values.max()), np.finfo(float).max)
    if max(starts) > 0:
        top = min(top, EXPLODED * max(starts))
    # An exact solver's distances are rounding errors: they would squeeze all others to the top.
    return float(values[values > top * ROUNDING].min()) / 2, top


def strip(
    values: Mapping[str, Array],
    lines: Mapping[str, Line],
    *,
    intervals: Mapping[str, Any],
    title: str,
    levels: Mapping[str, float] | None = None,
) -> Figure:
    """Every run as a dot, the mean with its 95 % interval as a bar, one line per strategy.

    Args:
        values: Strategy -> (R,) values; those that are not finite are left out, and counted.
        lines: Strategy -> its line.
        intervals: Strategy -> dict with value, low and high.
        title: What the values are.
        levels: What is drawn as an upright line -> where, unless it lies too far from the dots.

    Returns:
        The figure; its horizontal axis is logarithmic where all values are positive.
    """
    with style():
        figure = Figure(figsize=(WIDTH, 0.8 + 0.42 * max(len(values), 1)), layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title)
        for row, (name, runs) in enumerate(values.items()):
            dots, colour = within(runs[np.isfinite(runs)]), lines[name].colour
            axes.scatter(dots, np.full(dots.size, row - 0.12), s=13, color=colour, alpha=0.45,
                         linewidths=0, zorder=2)  # fmt: skip
            if dots.size == 0:
                axes.text(0.02, row, "no finite value", transform=axes.get_yaxis_transform(),
                          va="center", color=FAINT)  # fmt: skip
                continue
            mean = {key: within(value) for key, value in intervals[name].items()}
            axes.plot([mean["low"], mean["high"]], [row + 0.2, row + 0.2], color=colour,
                      linewidth=2.2, solid_capstyle="butt", zorder=3)  # fmt: skip
            axes.plot(mean["value"], row + 0.2, "o", color=colour, markersize=5, zorder=4)
        axes.set_yticks(range(len(values)), [_survivors(*row) for row in values.items()], color=INK)
        axes.set_ylim(len(values) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        runs = np.concatenate([np.empty(0), *values.values()])
        finite = runs[np.isfinite(runs)]
        if finite.size and finite.min() > 0 and finite.max() / 3 > finite.min():
            axes.set_xscale("log")
            logarithmic(axes, "x", *axes.get_xlim())  # intervals may reach further than dots
        _draw_upright(axes, levels or {}, finite)
    return figure


def forest(
    results: Sequence[Mapping[str, Any]], lines: Mapping[str, Line], *, title: str
) -> Figure:
    """Effects of paired comparisons with their intervals around "no difference".

    Args:
        results: Fields of `PairedResult` as dictionaries. All of one kind.
        lines: Strategy -> its line.
        title: What is compared.

    Returns:
        The figure; a filled marker means significant, an empty one not.
    """
    ratio = all(result["kind"] == "ratio" for result in results)
    rows = [(result["effect"], result["low"], result["high"]) for result in results]
    places = within(np.reshape(rows, (-1, 3)), positive=ratio)
    height = 0.75 + 0.44 * max(len(results), 1)
    with style():
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title)
        axes.axvline(1.0 if ratio else 0.0, color=FAINT, linewidth=0.9, zorder=1)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
        place = axes.get_yaxis_transform()
        words: Any = {"transform": place, "fontsize": 9.5, "va": "center", "bbox": box, "zorder": 2}
        for row, result in enumerate(results):
            colour, filled = lines[result["strategy"]].colour, result["significant"]
            label = " against ".join(pair_of(result["strategy"], result["baseline"]))
            axes.text(0.0, row - 0.2, label, **words)
            effect = change(result).replace("less than", "<")  # there is little room
            effect = effect if result["pairs"] else "no seed with both"
            axes.text(1.0, row - 0.2, effect, ha="right", color=FAINT, **words)
            value, low, high = places[row]
            axes.plot([low, high], [row + 0.18] * 2, color=colour, linewidth=1.8, zorder=3)
            axes.plot(value, row + 0.18, "o", color=colour, markersize=6, zorder=4,
                      markerfacecolor=colour if filled else "white")  # fmt: skip
        axes.set_ylim(len(results) - 0.45, -0.6)
        axes.yaxis.set_major_locator(NullLocator())
        axes.spines["left"].set_visible(False)
        known = places[np.isfinite(places)]
        if ratio and known.size:
            scale_ratios(axes, known)
    return figure


def short(name: str, most: int = 30) -> str:
    """A name that leaves room for the numbers beside it: its two ends, if it is a long one."""
    return name if len(name) <= most else f"{name[: most - most // 3 - 1]}…{name[-(most // 3) :]}"


def pair_of(*names: str) -> list[str]:
    """Names that share a line with their effect: shorter ones where together they are too long."""
    return [short(name, 30 if sum(map(len, names)) <= 42 else 21) for name in names]


def _survivors(name: str, runs: Array) -> str:
    """The name, with how many runs have a value where that is not all of them."""
    finite = int(np.isfinite(runs).sum())
    name = short(name)
    return f"{name}\n({finite} of {runs.size} runs)" if finite < runs.size > 1 else name


def _draw_levels(axes: Axes, levels: Mapping[str, float]) -> None:
    """Level lines across the frame; what lies outside is left out.

    Names stand above their lines, or below where the next line would run through them.
    """
    low, high = axes.get_ylim()
    above = np.inf
    for value, name in sorted(((value, name) for name, value in levels.items()), reverse=True):
        if low <= value <= high:
            axes.axhline(value, color=FAINT, linewidth=0.9, dashes=(1.5, 1.5), zorder=1)
            height = (axes.transData - axes.transAxes).transform((axes.get_xlim()[1], value))[1]
            axes.text(0.99, value, name.removeprefix("the "), ha="right",
                      va="top" if above - height < 0.1 else "bottom",
                      transform=axes.get_yaxis_transform(), color=FAINT, fontsize=8.5)  # fmt: skip
            above = height


def _draw_upright(axes: Axes, levels: Mapping[str, float], dots: Array) -> None:
    """Upright ones without names; those further out than half of the frame are left out."""
    low, high = axes.get_xlim()
    reach = 0.5 * (high - low)
    for value in levels.values():
        if dots.size and low - reach <= value <= high + reach and (value > 0 or low < 0):
            axes.axvline(value, color=FAINT, linewidth=0.9, dashes=(1.5, 1.5), zorder=1)


def _panel(height: float, below: float = 0.0) -> tuple[Figure, Axes]:
    """A figure with one frame at a fixed place: panels side by side line up. Inches."""
    total = height + below
    figure = Figure(figsize=(WIDTH, total))
    figure.subplots_adjust(
        left=0.5 / WIDTH, right=1 - 0.14 / WIDTH, bottom=(0.48 + below) / total,
        top=1 - 0.28 / total,
    )  # fmt: skip
    return figure, figure.add_subplot()


def quantiles(values: Array) -> tuple[Array, Array, Array]:
    """10 %, 50 % and 90 % quantiles over the finite runs, NaN where fewer than half are finite."""
    values = np.where(np.isfinite(values), within(values), np.nan)
    found = np.full((3, values.shape[0]), np.nan)
    finite = np.isfinite(values).sum(axis=1)
    whole, enough = finite == values.shape[1], finite * 2 >= max(values.shape[1], 1)
    # `nanquantile` goes from row to row in Python
    for rows, quantile in ((enough & whole, np.quantile), (enough & ~whole, np.nanquantile)):
        if rows.any():
            found[:, rows] = quantile(values[rows], [0.1, 0.5, 0.9], axis=1)
    return found[0], found[1], found[2]


def draw_band(
    axes: Axes, x: Array, band: tuple[Array, Array, Array], line: Line, label: str
) -> None:
    """The median, and between the others a band that is shaded, of `quantiles`."""
    known = np.isfinite(band[1])  # some metrics are not in every record
    x, (low, middle, high) = x[known], (values[known] for values in band)
    faint = line == palette.FAINT
    if not faint:
        axes.fill_between(x, low, high, color=line.colour, alpha=0.08, linewidth=0)
    (drawn,) = axes.plot(x, middle, color=line.colour, linewidth=0.7 if faint else 1.6, label=label)
    if line.dashes:
        drawn.set_dashes(line.dashes)
