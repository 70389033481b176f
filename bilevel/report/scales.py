"""Axes that suit their numbers: logarithmic where it helps, with few and plain labels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from bilevel.report.svg import FAINT

Array = NDArray[Any]

# A curve may leave the frame at the top once it is this many times worse than where it began.
EXPLODED = 5.0
# Numbers this far below the largest are rounding errors of zero and would flatten all the rest.
ROUNDING = 1e-9
# Further out there are no places on an axis: matplotlib's arithmetic would overflow.
TINIEST, LARGEST = 1e-250, 1e250
# Below how many decades an axis has labels with which first digits.
DIGITS = {0.7: (1, 1.5, 2, 3, 5, 7), 1: (1, 2, 3, 5, 7), 2: (1, 2, 5), 3: (1, 3), np.inf: (1,)}


def within(values: Array | float, *, positive: bool = False) -> Any:
    """Values at places that axes have; NaN stays."""
    return np.clip(values, TINIEST if positive else -LARGEST, LARGEST)


def scale_x(axes: Axes, positions: Sequence[Array]) -> bool:
    """Logarithmic where one strategy's steps cost several times another's; says whether it is."""
    used = [x[x > 0] for x in positions if (x > 0).any()]
    ends = [float(x[-1]) for x in used]
    if ends and max(ends) > 4 * min(ends):
        logarithmic(axes, "x", min(float(x[0]) for x in used), max(ends))
        return True
    if ends:
        axes.set_xlim(0, max(ends))
    return False


def scale_y(
    axes: Axes, bands: Sequence[tuple[Array, Array, Array]], levels: Sequence[float] = ()
) -> None:
    """Logarithmic where values span more than a factor of three; explosions leave the frame.

    Levels are inside, unless they lie further from the curves than these are wide.
    """
    values = np.concatenate([np.empty(0), *(np.ravel(band) for band in bands)])
    values = values[np.isfinite(values)]
    if values.size == 0:
        axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center", color=FAINT)
        return
    starts = [band[1][0] for band in bands if band[1].size and np.isfinite(band[1][0])]
    low, high = float(values.min()), float(values.max())
    near = [x for x in levels if 2 * low - high <= x <= 2 * high - low]
    low, high = min([low, *near]), max([high, *near])
    if starts and min(starts) > 0:
        high = min(high, EXPLODED * max(starts))
    if low >= 0 and high > 3 * low:
        low = max(float(min([*values[values > 0], *(x for x in near if x > 0)])), high * ROUNDING)
        logarithmic(axes, "y", low / 1.1, high * 1.1)
    elif high > low:
        margin = 0.05 * (high - low)
        axes.set_ylim(low - margin, high + margin)


def scale_ratios(axes: Axes, ratios: Sequence[float]) -> None:
    """Horizontally logarithmic around 1, with a label there and on both sides of it.

    Args:
        axes: What to scale.
        ratios: Positive; at least one. All are inside.
    """
    logs = np.log([*ratios, 0.97, 1.03])
    # room for a label, however far the other side goes
    below, above = max(-logs.min(), logs.max() / 4), max(logs.max(), -logs.min() / 4)
    low, high = np.exp(-below), np.exp(above)
    logarithmic(axes, "x", low / 1.02, high * 1.02)
    near = 0.12 * (below + above)  # no room for a label beside that of 1
    found = [tick for tick in axes.get_xticks() if low <= tick <= high and abs(np.log(tick)) > near]
    ticks = {1.0, *(float(f"{tick:g}") for tick in found)}
    if min(ticks) == 1:
        ticks.add(round(low, 2))
    if max(ticks) == 1:
        ticks.add(round(high, 2))
    axes.set_xticks(sorted(ticks), [f"{tick:g}" for tick in sorted(ticks)])


def logarithmic(axes: Axes, side: str, low: float, high: float) -> None:
    """Scale "x" or "y", with a few plain numbers, or powers of ten where the range is long."""
    low, high = np.clip([low, high], [TINIEST, 10 * TINIEST], [LARGEST / 10, LARGEST])
    axes.set(**{f"{side}scale": "log", f"{side}lim": (low, high)})
    axis, decades = getattr(axes, f"{side}axis"), np.log10(high) - np.log10(low)
    digits = next(digits for most, digits in DIGITS.items() if decades < most)
    even, few = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]), LogLocator(subs=digits, numticks=7)
    axis.set_major_locator(even if decades < 0.5 else few)
    axis.set_major_formatter("{x:g}" if decades < 3 else lambda value, _: _power(value))
    axis.set_minor_locator(NullLocator())


def _power(value: float) -> str:
    """A power of ten with a raised exponent, as text: mathtext is slow and splits it in pieces."""
    exponent = f"{np.log10(value):.0f}"
    return "10" + exponent.translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
