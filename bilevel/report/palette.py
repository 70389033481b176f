"""One colour and one dash pattern per strategy, the same in every figure and table."""

from collections.abc import Iterable
from dataclasses import dataclass

from bilevel.report.words import TUNED

# Okabe and Ito's colours, told apart with every common colour vision; without the yellow, which is
# too pale on white, and with a darker sky blue for thin lines.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#444444", "#3a9ad9", "#e69f00")
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 1.5), (2, 1.2), (6, 1.5, 1.2, 1.5))
# Of tuned strategies: other than those above, so that no two lines of one colour are alike.
TUNED_DASHES: tuple[tuple[float, ...], ...] = ((4.5, 2), (1, 1), (8, 2.5), (4, 1, 1, 1, 1, 1))
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
            others take what is left, in order. Beyond seven the dashes tell lines apart. A tuned
            strategy has the colour of the one with given rates, dashed.

    Returns:
        Name -> line.

    Examples:
        >>> lines(["two-timescale", "mine"])["two-timescale"].colour
        '#d55e00'
    """
    names = list(names)
    tuned = {name: name.removesuffix(TUNED) for name in names if name.endswith(TUNED)}
    tuned = {name: given for name, given in tuned.items() if given in names}
    found = _lines([name for name in names if name not in tuned])
    if not tuned:
        return found
    # dashes mean tuned: the usual names go without theirs
    found |= {name: Line(KNOWN[name], ()) for name in found if name in KNOWN}
    for name, given in tuned.items():
        style = DASHES.index(found[given].dashes)
        found[name] = Line(found[given].colour, TUNED_DASHES[style])
    return {name: found[name] for name in names}


def _lines(names: list[str]) -> dict[str, Line]:
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
