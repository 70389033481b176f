"""The layers of `bilevel`: as the guide and the contract name them, and as the imports are.

    python tests/project/layers.py

draws docs/assets/layers.svg anew. What the figure shows is written in its metadata, by which
test_layers.py tells whether it is still true.
"""

import re
import tomllib
import xml.etree.ElementTree
from pathlib import Path

import grimp
import matplotlib
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs/design.md"
FIGURE = ROOT / "docs/assets/layers.svg"
PLACES = {
    "analysis": 0.8,
    "comparison": 1.8,
    "testing": 3.0,
    "report": 0.2,
    "training": 2.4,
    "point": 1.2,
    "loops": 0.2,
    "strategies": 1.9,
    "bounds": 1.0,
    "optimizers": 0.2,
    "data": 0.8,
    "tables": 2.6,
    "core": 0.8,
    "storage": 3.0,
    "trees": 1.3,
    "errors": 0.8,
}
"""Where a box stands from left to right; 1.5 if it is not named."""
HALF = 0.25
"""Of the height of a box, where floors are 1 apart."""
BAND_COLOURS = ("#e9eef6", "#f6f3ea")
Arrows = set[tuple[str, str]]


def contracts() -> list[dict]:
    """The import contracts in pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def contract() -> dict:
    """The one of the layers."""
    (found,) = (one for one in contracts() if one["type"] == "layers")
    return found


def floors() -> list[list[str]]:
    """The names of the contract, from above; those of one floor do not know each other."""
    return [line.split(" | ") for line in contract()["layers"]]


def bands() -> list[tuple[int, list[str]]]:
    """The layers of the guide from above: their numbers and names."""
    found: list[tuple[int, list[str]]] = []
    for number, name in re.findall(r"^\| +(\d?) +\| `(\w+)` \|", GUIDE.read_text(), re.MULTILINE):
        if number:
            found.append((int(number), []))
        found[-1][1].append(name)
    return found


def arrows() -> Arrows:
    """Which folder or file at the top of `bilevel` imports which."""
    graph = grimp.build_graph("bilevel", cache_dir=None)
    found = {
        (importer.split(".")[1], imported.split(".")[1])
        for importer in graph.modules - {"bilevel"}
        for imported in graph.find_modules_directly_imported_by(importer) - {"bilevel"}
    }
    return {(a, b) for a, b in found if a != b}


def without_detours(found: Arrows) -> Arrows:
    """The arrows less those that a path of others leads along, too."""

    def reached(start: str) -> set[str]:
        below = {b for a, b in found if a == start}
        return below.union(*(reached(name) for name in below))

    longer = {(a, c) for a, b in found for c in reached(b)}
    return found - longer


def description(found: Arrows) -> str:
    """What the figure shows, as text."""
    shown = [f"{number}: {' '.join(names)}" for number, names in bands()]
    return "\n".join([*shown, *(f"{a} -> {b}" for a, b in sorted(found))])


def drawn() -> str:
    """The description in the figure that is there."""
    tree = xml.etree.ElementTree.parse(FIGURE)
    (found,) = tree.iter("{http://purl.org/dc/elements/1.1/}description")
    return found.text or ""


def draw() -> None:
    """Draw the figure: a band for each layer, a box for each name, arrows for imports."""
    found = arrows()
    heights = {name: -y for y, floor in enumerate(floors()) for name in floor}
    figure = Figure(figsize=(7.2, 0.5 * len(floors())), layout="constrained")
    axes = figure.add_subplot(xlim=(-0.5, 3.5), ylim=(0.6 - len(floors()), 0.6))
    axes.set_axis_off()
    for number, names in bands():
        low, high = (pick(heights[name] for name in names) for pick in (min, max))
        axes.axhspan(low - 0.47, high + 0.47, color=BAND_COLOURS[number % 2], linewidth=0)
        axes.text(-0.43, (low + high) / 2, str(number), va="center", fontsize=13, color="#667")
    for importer, imported in sorted(without_detours(found)):
        ends = [(PLACES.get(name, 1.5), heights[name]) for name in (importer, imported)]
        start, end = (ends[0][0], ends[0][1] - HALF), (ends[1][0], ends[1][1] + HALF)
        style = {"arrowstyle": "-|>", "color": "#456", "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", end, start, arrowprops=style)
    for name, height in heights.items():
        place = PLACES.get(name, 1.5)
        axes.text(
            place,
            height,
            name,
            ha="center",
            va="center",
            fontsize=9,
            bbox={"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": "#456"},
        )
    with matplotlib.rc_context({"svg.hashsalt": "layers"}):
        figure.savefig(FIGURE, metadata={"Description": description(found), "Date": None})


if __name__ == "__main__":
    draw()
