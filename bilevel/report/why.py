"""The section "Why" of the report: how far heads are behind, and how objectives curve there."""

from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bilevel.report import figures
from bilevel.report.palette import Line
from bilevel.report.words import Content, joined, number

Array = NDArray[Any]

PANELS = {
    "why-gap": ("head gap", "how far heads are from exact ones, relative to these"),
    "why-reduced": ("curvature of Φ", "largest eigenvalue of the reduced objective's curvature"),
    "why-joint": ("curvature of g(·, θ)", "largest eigenvalue of the joint objective's curvature"),
}
EXACT = 1e-3
"""A relative head gap below this is drawn there: the head is exact for the eye."""


class Row(NamedTuple):
    """A strategy at a fifth of its steps and at their end, medians over seeds.

    Attributes:
        name: of the strategy.
        gap: |theta - theta*| / |theta*|, at both.
        joint: the largest eigenvalue of g_ww at the head in use.
        best: at the exact one.
        phi: of Phi.
        scale: |theta*|^2 / |theta|^2.
    """

    name: str
    gap: tuple[float, float]
    joint: tuple[float, float]
    best: tuple[float, float]
    phi: tuple[float, float]
    scale: tuple[float, float]


def rows(content: Content) -> list[Row]:
    """The strategies that were looked at, in their order; none where nobody asked why."""
    found = []
    for name in _known(content):
        steps, values = _table(content, name)
        early = int(np.abs(np.asarray(steps) - steps[-1] / 5).argmin())
        pairs = [
            tuple(_median(values[key][place]) for place in (early, -1))
            for key in ("gap", "joint_largest", "best_largest", "phi_largest", "scale")
        ]
        found.append(Row(name, *pairs))  # type: ignore[arg-type]
    return found


def draw(content: Content, lines: dict[str, Line]) -> dict[str, tuple[str, Figure]]:
    """Name of a file without ending -> (what the figure shows, the figure)."""
    keys = {"why-gap": "gap", "why-reduced": "phi_largest", "why-joint": "joint_largest"}
    names = [name for name in _known(content) if name in content["shown"]]
    found = {}
    for file, (short, long) in PANELS.items() if names else ():
        series = {}
        for name in names:
            steps, values = _table(content, name)
            shown = values[keys[file]]
            shown = np.maximum(shown, EXACT) if file == "why-gap" else shown
            series[name] = (np.asarray(steps, dtype=np.float64), shown)
        figure = figures.curves(series, lines, xlabel="step", title=short)
        found[file] = (f"{long[:1].upper()}{long[1:]}, against steps", figure)
    return found


def sentences(content: Content) -> list[str]:
    """What the numbers say, at a fifth of the steps, where most is still to be decided."""
    known = [row for row in rows(content) if np.isfinite(row.gap[0])]
    if not known:
        return ["No strategy has numbers there: its runs diverged, or have no best response."]
    near, far = (pick(known, key=lambda row: row.gap[0]) for pick in (min, max))
    said = []
    if near is not far:
        said.append(
            f"A fifth of the way, the head of {near.name} is closest to the exact one: "
            f"{_percent(near.gap[0])} of its length away, that of {far.name} "
            f"{_percent(far.gap[0])}."
        )
    below = [row for row in known if row.phi[0] < row.joint[0]]
    above = [row for row in known if row.phi[0] >= row.joint[0]]
    if above:
        said.append(_sharper(above))
    if below:
        said.append(_flatter(below))
    ratios = [row.best[0] / row.phi[0] for row in known if row.phi[0] > 0]
    if ratios:
        said.append(
            "What the answering head takes off the curvature at the exact one is a factor of "
            f"{number(min(ratios))} to {number(max(ratios))}."
        )
    return said


def _sharper(some: list[Row]) -> str:
    text = f"Φ is then sharper than the joint objective at the head in use for {_names(some)}. "
    longest = max(some, key=lambda row: row.scale[0])
    if longest.scale[0] > 1:
        text += (
            "That is a matter of scale: the exact head is longer than that head, for "
            f"{longest.name} by a factor of {number(longest.scale[0])} in squares. "
        )
    return f"{text}At the exact head Φ never is the sharper one."


def _flatter(some: list[Row]) -> str:
    text = f"Φ is then flatter than the joint objective at the head in use for {_names(some)}"
    ratios = {row.name: row.joint[0] / row.phi[0] for row in some if row.phi[0] > 0}
    if not ratios:
        return f"{text}."
    most = max(ratios, key=ratios.__getitem__)
    factor = number(ratios[most])
    return (
        f"{text}, by a factor of {factor}."
        if len(some) == 1
        else (f"{text}, by a factor of up to {factor} ({most}).")
    )


def _known(content: Content) -> list[str]:
    why = content["settings"].get("why") or {"values": {}}
    return [name for name in content["strategies"] if name in why["values"]]


def _table(content: Content, name: str) -> tuple[list[int], dict[str, Array]]:
    """Steps, and (T, R) of everything, with the relative head gap."""
    why = content["settings"]["why"]
    found = {key: np.array(of, dtype=np.float64) for key, of in why["values"][name].items()}
    with np.errstate(divide="ignore", invalid="ignore"):
        found["gap"] = found["head_gap"] / found["best_norm"]
    return why["steps"][name], found


def _median(values: Array) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else np.nan


def _percent(share: float) -> str:
    return f"{number(100 * share)} %" if share >= EXACT else "less than 0.1 %"


def _names(some: list[Row]) -> str:
    return joined([row.name for row in some])
