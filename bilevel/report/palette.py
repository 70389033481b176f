"""One colour and one dash pattern per strategy, the same in every figure and table."""

from collections.abc import Iterable
from dataclasses import dataclass

# Okabe and Ito's colours, told apart with every common colour vision; without the yellow, which is
# too pale on white, and with a darker sky blue for thin lines.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#444444", "#3a9ad9", "#e69f00")
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 1.5), (2, 1.2), (6, 1.5, 1.2, 1.5))
KNOWN = {
    "uniform slow": "#0072b2",
    "uniform fast": "#3a9ad9",
    "two-timescale": "#d55e00",
    "swapped": "#cc79a7",
    "uniform sqrt": "#009e73",
    "best response": "#444444",
}


@dataclass(frozen=True)
class Line:
    """How a strategy is drawn.

    Attributes:
        colour: As #rrggbb.
        dashes: Lengths of dashes and gaps in line widths; empty for a solid line.
    """

    colour: str
    dashes: tuple[float, ...]


def lines(names: Iterable[str]) -> dict[str, Line]:
    """Give each strategy its line.

    Args:
        names: Names of strategies. The usual ones have fixed colours, the same in every report;
            others take what is left, in order. Beyond seven the dashes tell lines apart.

    Returns:
        Name -> line.

    Examples:
        >>> lines(["two-timescale", "mine"])["two-timescale"].colour
        '#d55e00'
    """
    names = list(names)
    taken = {KNOWN[name] for name in names if name in KNOWN}
    free = [colour for colour in COLOURS if colour not in taken] or list(COLOURS)
    found, others = {}, 0
    for name in names:
        if name in KNOWN:
            found[name] = Line(KNOWN[name], DASHES[_usual_dashes(name)])
        else:
            found[name] = Line(free[others % len(free)], DASHES[others // len(free) % len(DASHES)])
            others += 1
    return found


def _usual_dashes(name: str) -> int:
    """Uniform rates are dashed, the others solid: a second way to tell them apart."""
    return {"uniform slow": 1, "uniform fast": 2, "uniform sqrt": 3}.get(name, 0)
