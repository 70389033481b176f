"""Draw docs/assets/home-light.svg and home-dark.svg: a body and a head, each with its clock.

python docs/figures/home.py
"""

import itertools
import math
from pathlib import Path

ASSETS = Path(__file__).parents[1] / "assets"
SCHEMES = {
    "light": {
        "ground": "#ffffff",
        "text": "#1f2937",
        "line": "#8a93a3",
        "body": "#3949ab",
        "head": "#b93c0a",
    },
    "dark": {
        "ground": "#1e2129",
        "text": "#e8eaf0",
        "line": "#7c869b",
        "body": "#aab4f0",
        "head": "#fdba74",
    },
}
FONT = "font-family='-apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif'"
LAYERS = [(30, 4), (110, 5), (190, 5)]
"""Of the body: where each stands, and how many units it has."""
OUTPUTS, MIDDLE = (400, 2), 185


def units(x: float, count: int, gap: float = 30) -> list[tuple[float, float]]:
    """The places of the units of a layer."""
    return [(x, MIDDLE + gap * (i - (count - 1) / 2)) for i in range(count)]


def line(
    start: tuple[float, float], end: tuple[float, float], colour: str, width: float = 1
) -> str:
    """A connection."""
    return (
        f"<line x1='{start[0]:g}' y1='{start[1]:g}' x2='{end[0]:g}' y2='{end[1]:g}' "
        f"stroke='{colour}' stroke-width='{width:g}'/>"
    )


def dot(place: tuple[float, float], colour: str) -> str:
    """A unit."""
    return f"<circle cx='{place[0]:g}' cy='{place[1]:g}' r='8' fill='{colour}'/>"


def text(x: float, y: float, words: str, colour: str, size: float = 16, weight: int = 400) -> str:
    """A centred line of text; what stands between underscores is italic."""
    parts = words.split("_")
    spans = "".join(
        f"<tspan font-style='italic'>{part}</tspan>" if i % 2 else part
        for i, part in enumerate(parts)
    )
    return (
        f"<text x='{x:g}' y='{y:g}' fill='{colour}' font-size='{size:g}' "
        f"font-weight='{weight}' text-anchor='middle'>{spans}</text>"
    )


def clock(x: float, y: float, turn: float, colour: str, face: str) -> str:
    """A clock whose hand has gone `turn` of a turn since noon, and the way it went."""
    radius, angle = 34, 2 * math.pi * turn
    end = (x + 25 * math.sin(angle), y - 25 * math.cos(angle))
    rim = (x + 18 * math.sin(angle), y - 18 * math.cos(angle))
    swept = (
        f"<path d='M{x:g} {y:g} L{x:g} {y - 18:g} A18 18 0 {int(turn > 0.5)} 1 "
        f"{rim[0]:.2f} {rim[1]:.2f} Z' fill='{colour}' fill-opacity='0.3'/>"
    )
    ticks = "".join(
        line(
            (x + 29 * math.sin(a), y - 29 * math.cos(a)),
            (x + 33 * math.sin(a), y - 33 * math.cos(a)),
            face,
        )
        for a in (2 * math.pi * hour / 12 for hour in range(12))
    )
    return (
        f"<circle cx='{x:g}' cy='{y:g}' r='{radius}' fill='none' stroke='{colour}' "
        f"stroke-width='2.5'/>{ticks}{swept}"
        f"<line x1='{x:g}' y1='{y:g}' x2='{end[0]:.2f}' y2='{end[1]:.2f}' stroke='{colour}' "
        f"stroke-width='3' stroke-linecap='round'/>"
        f"<circle cx='{x:g}' cy='{y:g}' r='3.5' fill='{colour}'/>"
    )


def picture(colours: dict[str, str]) -> str:
    """The whole figure."""
    body = [units(*layer) for layer in LAYERS]
    outputs = units(*OUTPUTS)
    lines = [
        line(start, end, colours["line"])
        for before, after in itertools.pairwise(body)
        for start in before
        for end in after
    ]
    # the head is what is between the last features and the outputs
    lines += [line(start, end, colours["head"], 2) for start in body[-1] for end in outputs]
    dots = [dot(place, colours["body"]) for layer in body for place in layer]
    dots += [dot(place, colours["head"]) for place in outputs]
    words = [
        text(110, 296, "body _w_", colours["body"], 19, 700),
        text(110, 320, "small steps", colours["text"]),
        text(345, 296, "head _θ_", colours["head"], 19, 700),
        text(345, 320, "large steps, or solved: _θ_*(_w_)", colours["text"]),
    ]
    clocks = [
        clock(110, 52, 1 / 12, colours["body"], colours["line"]),
        clock(345, 52, 10 / 12, colours["head"], colours["line"]),
    ]
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 480 332' {FONT}>"
        "<title>A network: the layers of its body move slowly, its head fast</title>"
        f"<rect width='480' height='332' fill='{colours['ground']}'/>"
        + "".join(lines + dots + clocks + words)
        + "</svg>\n"
    )


if __name__ == "__main__":
    for scheme, colours in SCHEMES.items():
        (ASSETS / f"home-{scheme}.svg").write_text(picture(colours), encoding="utf-8")
