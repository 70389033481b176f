"""Axes that suit their numbers: logarithmic where it helps, with few and plain labels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from bilevel.report.svg import FAINT

Array = NDArray[Any]

# A curve may leave the frame at the top once it is this many times worse than where it began.
EXPLODED = 5.0
# Numbers this far below the largest are rounding errors of zero and would flatten all the rest.
ROUNDING = 1e-9


def scale_x(axes: Axes, positions: Sequence[Array]) -> bool:
    """Logarithmic where one strategy's steps cost several times another's; says whether it is."""
    ends = [float(x[-1]) for x in positions if x.size and x[-1] > 0]
    firsts = [float(x[x > 0][0]) for x in positions if (x > 0).any()]
    if ends and max(ends) > 4 * min(ends):
        axes.set_xscale("log")
        axes.set_xlim(min(firsts), max(ends))
        log_ticks(axes, min(firsts), max(ends), axis="x")
        return True
    if ends:
        axes.set_xlim(0, max(ends))
    return False


def scale_y(axes: Axes, bands: Sequence[tuple[Array, Array, Array]]) -> None:
    """Logarithmic where values span more than a factor of three; explosions leave the frame."""
    values = np.concatenate([np.ravel(part) for band in bands for part in band] or [np.empty(0)])
    values = values[np.isfinite(values)]
    if values.size == 0:
        axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center", color=FAINT)
        return
    starts = [band[1][0] for band in bands if band[1].size and np.isfinite(band[1][0])]
    low, high = float(values.min()), float(values.max())
    if starts and min(starts) > 0:
        high = min(high, EXPLODED * max(starts))
    if low >= 0 and high > 3 * low and high > 0:
        positive = values[values > 0]
        low = max(float(positive.min()), high * ROUNDING)
        axes.set_yscale("log")
        axes.set_ylim(low / 1.1, high * 1.1)
        log_ticks(axes, low / 1.1, high * 1.1)
    elif high > low:
        margin = 0.05 * (high - low)
        axes.set_ylim(low - margin, high + margin)


def log_ticks(axes: Axes, low: float, high: float, axis: str = "y") -> None:
    """Few plain numbers instead of powers of ten where the range is short."""
    chosen = axes.yaxis if axis == "y" else axes.xaxis
    decades = np.log10(high / low)
    if decades < 0.5:
        spans = np.linspace(low, high, 4)
        digits = max(0, int(np.ceil(-np.log10((spans[1] - spans[0]) or 1.0))))
        ticks = sorted({round(float(tick), digits) for tick in spans})
        chosen.set_ticks([tick for tick in ticks if low <= tick <= high])
        chosen.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    elif decades < 3:
        fine = (1.0, 2.0, 3.0, 5.0, 7.0) if decades < 1 else (1.0, 2.0, 5.0)
        subs = fine if decades < 2 else (1.0, 3.0)
        chosen.set_major_locator(LogLocator(subs=subs, numticks=12))
        chosen.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        chosen.set_major_formatter(FuncFormatter(lambda value, _: _power(value)))
    chosen.set_minor_locator(NullLocator())


def _power(value: float) -> str:
    """A power of ten with a raised exponent, as text: mathtext is slow and splits it in pieces."""
    exponent = f"{np.log10(value):.0f}" if value > 0 else ""
    return "10" + exponent.translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
