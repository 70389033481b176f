"""The look of the figures of the documentation, and how they are written."""

import io
import re
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from bilevel.report.svg import STYLE

ASSETS = Path(__file__).parents[1] / "assets"
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0062a0", "#b8500a", "#007a5a", "#8e4585", "#5b6470"
COLOURS = [BLUE, ORANGE, GREEN, PURPLE, GREY]
"""At least 4.5 to 1 on white, where words have them too, and told apart with common colour visions.
Figures have a white ground: no colour has 4.5 to 1 on the grounds of both schemes."""
LOOK = {
    **STYLE,
    "text.parse_math": True,  # ticks of logarithmic axes, formulas
    "mathtext.fontset": "dejavusans",
    "axes.prop_cycle": mpl.cycler(color=COLOURS),
    "axes.labelcolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "figure.facecolor": "white",
    "figure.figsize": (6.4, 3.0),
    "figure.constrained_layout.use": True,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
}


def svg(figure: Figure, note: str = "") -> str:
    """SVG text, the same for the same numbers.

    Args:
        figure: made within `mpl.rc_context(LOOK)`.
        note: what is to be known of the file, as the element `desc`.
    """
    out, nothing = io.StringIO(), {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(out, format="svg", metadata=nothing)
    # a hundredth of a point is plenty, and half of the size
    text = re.sub(r"<[^>]*>", lambda tag: _rounded(tag.group()), out.getvalue())
    head = re.search(r"<svg[^>]*>", text)
    assert head is not None
    described = f"\n <desc>{note}</desc>" if note else ""
    return text[: head.end()] + described + text[head.end() :]


def _rounded(tag: str) -> str:
    return re.sub(r"-?\d+\.\d{3,}", lambda found: f"{float(found.group()):.2f}", tag)
