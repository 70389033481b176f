"""The look of all figures, and SVG text that is the same every time."""

import re
from contextlib import AbstractContextManager
from io import StringIO
from typing import Any, cast

import matplotlib as mpl
from matplotlib.figure import Figure

INK, FAINT, GRID = "#1b1f24", "#6b7280", "#e7e9ec"
STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 10.0,
    "axes.labelsize": 9.5,
    "axes.edgecolor": "#b6bcc4",
    "axes.labelcolor": FAINT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 11.0,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "text.color": INK,
    "text.parse_math": False,  # a name may hold any number of dollars
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    # Text stays text (small, selectable); the salt makes the names of clip paths reproducible.
    "svg.fonttype": "none",
    "svg.hashsalt": "bilevel",
}


def to_svg(figure: Figure) -> str:
    """SVG text of a figure, byte for byte the same for the same numbers.

    Args:
        figure: The figure.

    Returns:
        A complete SVG document.
    """
    out = StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with style():
        figure.savefig(out, format="svg", metadata=nothing)
    # A hundredth of a point is plenty, and halves the size of a page; what follows a line is a line
    # unless it says otherwise, which saves another tenth. Text stays as it is.
    return re.sub(r"<[^>]*>", lambda tag: _joined(_rounded(tag.group())), out.getvalue())


def inline_svg(svg: str, title: str) -> str:
    """SVG element to put into a page: scales with its column and has a title to be read aloud.

    Args:
        svg: What `to_svg` gave.
        title: What it shows.

    Returns:
        An `<svg>` element without fixed size, prologue, metadata or names of groups, which would
        occur twice on a page with several figures.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    box = re.search(r'viewBox="[^"]*"', svg)
    text = title.replace("&", "&amp;").replace("<", "&lt;")
    head = f'<svg {box.group() if box else ""} role="img"><title>{text}</title>'
    return re.sub(r"<svg[^>]*>", lambda _: head, svg, count=1).strip()


def without_legend(svg: str, height: float) -> str:
    """The figure without its legend, and without the room for that below all the rest.

    Args:
        svg: What `to_svg` gave: every group ends at the indentation where it began.
        height: Of the rest, inches.

    Returns:
        The document, as it was if it has no legend.
    """
    legend = r'^( *)<g id="legend_1">$.*?^\1</g>\n'
    shorter, found = re.subn(legend, "", svg, flags=re.DOTALL | re.MULTILINE)
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', shorter)
    if not found or box is None:
        return svg
    (width, tall), low = box.groups(), f"{72 * height:g}"
    # of the box, and of the background
    shorter = shorter.replace(box.group(), f'viewBox="0 0 {width} {low}"', 1)
    return shorter.replace(f"M 0 {tall} {width} {tall} ", f"M 0 {low} {width} {low} ", 1)


def style() -> AbstractContextManager[None]:
    """The look of all figures, for the time of a `with` block only."""
    return mpl.rc_context(cast(Any, STYLE))  # its type lists 300 names


def math() -> AbstractContextManager[None]:
    """Formulas between dollars, where no names of others are drawn."""
    return mpl.rc_context({"text.parse_math": True, "mathtext.fontset": "dejavusans"})


def _rounded(tag: str) -> str:
    return re.sub(r"-?\d+\.\d{3,}", lambda found: f"{float(found.group()):.2f}", tag)


def _joined(tag: str) -> str:
    lines = re.compile(r'(?<=["\n])[ML] [^\n]*(?:\nL [^\n]*)+')
    return lines.sub(lambda found: found.group().replace("\nL ", ""), tag)
