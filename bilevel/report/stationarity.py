"""How far |grad Phi| fell, and whose rate to change where it did not."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bilevel.core.status import FAILED
from bilevel.report.sentences import size
from bilevel.report.words import Content, few, joined

Array = NDArray[Any]

NORM, PHI = "phi_gradient_norm", "phi"
NEAR = 0.01
"""Of its first value: what is below has come far, and may go up and down."""
ALIKE = 0.01
"""Of its first value: what keeps within this of it has not changed."""
FEWEST = 8
"""Records from which a run can be said to go up and down, or to have stopped falling."""
RISES, SWING, STILL = 0.3, 2.0, 0.8
"""It goes up and down if in its second half so many changes are upwards, they multiply it by this
in all, and it ends that half above this times where it was before."""
GAIN = 1e-3
"""Of what Phi fell before: if it falls by no more in the second half, that has brought nothing."""
LONGEST_RATE = 8
"""Digits and all: longer ones, such as sqrt(alpha beta), are rounded."""
LOWER = "lower the body's rate, or let it decay"
FAULTS = {
    "goes up and down": LOWER,
    "no longer falls, nor does Φ,": LOWER,
    "did not fall": LOWER,
    "did not fall, though Φ does,": "make more steps, or raise the body's rate",
    "stayed the same": "the rate is too small to get on, or so large that the body goes to and fro",
}
"""What |grad Phi| does, and what that says of the rate."""

Run = tuple[Array, Array]


@np.errstate(over="ignore")
def fall(content: Content) -> str:
    """How far |grad Phi| of every strategy fell, and whose goes up and down or stopped falling.

    Returns:
        Sentences, or "" where |grad Phi| was not recorded.
    """
    falls: dict[str, float] = {}
    faulty: dict[str, list[str]] = {fault: [] for fault in FAULTS}
    for name, table in content["history"].items():
        runs = _runs(table, content["status"][name])
        if not runs:
            continue
        falls[name] = float(np.median([norm[-1] / norm[0] for norm, _ in runs]))
        written = content["strategies"][name]
        frozen = "body_lr=Frozen()" in written  # it has no rate to change
        if not frozen and (fault := _fault(falls[name], runs)):
            faulty[fault].append(_rate(name, written))
    if not falls:
        return ""
    parts = [f"{name} {size({'kind': 'difference'}, value)}" for name, value in falls.items()]
    over = " (median over seeds)" if content["runs"] > 1 else ""
    listed = "; ".join(few(parts)) if any("," in name for name in falls) else joined(parts)
    found = f"Gradient of Φ, its last size over its first{over}: {listed}."
    said = (
        f" It {fault} for {joined(rates)}: {FAULTS[fault]}."
        for fault, rates in faulty.items()
        if rates
    )
    return found + "".join(said)


def _runs(table: Mapping[str, Array], status: Sequence[str]) -> list[Run]:
    """|grad Phi| and Phi (NaN if unknown) of the runs that did not fail, where they are known."""
    if NORM not in table:
        return []
    norms, values = table[NORM].T, table.get(PHI, np.full_like(table[NORM], np.nan)).T
    known = [
        (norm[np.isfinite(norm)], value[np.isfinite(norm)])
        for norm, value, code in zip(norms, values, status, strict=True)
        if code not in FAILED
    ]
    return [run for run in known if len(run[0]) > 1 and run[0][0] > 0]


def _fault(last: float, runs: Sequence[Run]) -> str:
    """Which of `FAULTS` most of the runs have, or "".

    Args:
        last: The median of the last |grad Phi| over the first.
        runs: Of `_runs`.
    """

    def most(which: Sequence[bool] | Array) -> bool:
        return bool(np.mean(np.asarray(which)) > 0.5)

    gains = np.array([_gain(phi) for _, phi in runs])
    if last >= 1:
        if most([_unchanged(norm) for norm, _ in runs]):
            return "stayed the same"
        return "did not fall, though Φ does," if most(gains > GAIN) else "did not fall"
    if most([_restless(norm) for norm, _ in runs]):
        return "goes up and down"
    stuck = np.array([_far(norm) and _level(norm) for norm, _ in runs])
    return "no longer falls, nor does Φ," if most(stuck & (gains <= GAIN)) else ""


def _unchanged(run: Array) -> bool:
    """Whether a run kept to its first value."""
    return bool((np.abs(run / run[0] - 1) <= ALIKE).all())


def _far(run: Array) -> bool:
    """Whether a run that is long enough to tell ended far from a stationary point."""
    return len(run) >= FEWEST and bool(run[-1] > NEAR * run[0])


def _thirds(run: Array) -> tuple[float, float]:
    """Medians of the earlier and the later part of the second half of a run."""
    late = run[len(run) // 2 :]
    third = len(late) // 2
    return float(np.median(late[:third])), float(np.median(late[-third:]))


def _level(run: Array) -> bool:
    """Whether a run ends its second half about as high as it began it."""
    before, after = _thirds(run)
    return after > STILL * before


def _gain(phi: Array) -> float:
    """How far Phi fell in the second half of a run, as a part of what it fell before, or NaN."""
    if len(phi) < FEWEST:
        return np.nan
    before, after = _thirds(phi)
    return (before - after) / max(abs(float(phi[0]) - before), np.finfo(float).tiny)


def _restless(run: Array) -> bool:
    """Whether a run, far from a stationary point, goes up and down without getting on."""
    if not _far(run):
        return False
    changes = np.diff(np.log(np.maximum(run[len(run) // 2 :], np.finfo(float).tiny)))
    swings = np.exp(changes[changes > 0].sum()) >= SWING
    return bool((changes > 0).mean() >= RISES and swings and _level(run))


def _rate(name: str, written: str) -> str:
    """The strategy with the rate of its body, if it has a constant one."""
    found = re.search(r"\bbody_lr=Constant\(([^()]+)\)", written)
    if not found:
        return name
    short = found[1] if len(found[1]) <= LONGEST_RATE else f"{float(found[1]):.3g}"
    return f"{name} (body_lr = {short})"
