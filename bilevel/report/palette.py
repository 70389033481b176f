"""One colour and one dash pattern per strategy, the same in every figure and table."""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

# Told apart with every common colour vision, and of a contrast with white of at least 3 (WCAG AA).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#444444", "#3A9AD9", "#8C6D00", "#CC79A7")
# Of strategies with rates as given -> of tuned ones.
DASHES: dict[tuple[float, ...], tuple[float, ...]] = {
    (): (4.5, 2), (5, 1.5): (1, 1), (2, 1.2): (8, 2.5), (6, 1.5, 1.2, 1.5): (4, 1, 1, 1, 1, 1),
}  # fmt: skip
# In the order of the colours: one rate for both is blue or green, two are orange or ochre.
USUAL = ("uniform slow", "two-timescale", "uniform sqrt", "best response", "uniform fast",
         "swapped")  # fmt: skip


class Line(NamedTuple):
    """How a strategy is drawn: colour as #rrggbb; dashes and gaps in line widths, none if solid."""

    colour: str
    dashes: tuple[float, ...]


OTHERS, FAINT = "others", Line("#d3d7dc", ())
"""Of more strategies than there are lines, those that are not told apart."""
LINES = [Line(colour, dashes) for dashes in DASHES for colour in COLOURS]


def lines(names: Sequence[str], tuned: Mapping[str, str] | None = None) -> dict[str, Line]:
    """Give each strategy its line.

    Args:
        names: Names of strategies. The usual ones have fixed colours, the same in every report;
            others take what is left, in order. Beyond seven the dashes tell lines apart.
        tuned: Strategies -> themselves with tuned rates: of the same colour, dashed.

    Returns:
        Name -> line.

    Examples:
        >>> lines(["two-timescale", "mine"])["two-timescale"].colour
        '#D55E00'
    """
    tuned = tuned or {}
    found = {name: line for name, line in zip(USUAL, LINES, strict=False) if name in names}
    free = itertools.cycle([line for line in LINES if line not in found.values()])
    others = (name for name in names if name not in found and name not in tuned.values())
    found |= dict(zip(others, free, strict=False))
    found |= {best: Line(found[name].colour, DASHES[found[name].dashes])
              for name, best in tuned.items()}  # fmt: skip
    return {name: found[name] for name in names}
