"""How far |grad Phi| fell, and whose rate is to blame where it did not."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bilevel.report.words import joined, number
from bilevel.status import FAILED

Array = NDArray[Any]

NORM = "phi_gradient_norm"
NEAR = 0.01
"""Of its first value: what is below has come far, and may go up and down."""
FEWEST = 8
"""Records from which a run can be said to go up and down."""
RISES, SWING, STILL = 0.3, 2.0, 0.8
"""It does if in its second half so many changes are upwards, they multiply it by this in all, and
it ends that half above this times where it was before."""


def fall(content: Mapping[str, Any]) -> str:
    """How far |grad Phi| of every strategy fell, and whose goes up and down or did not fall.

    Args:
        content: As `Comparison.content` gives it.

    Returns:
        Sentences, or "" where |grad Phi| was not recorded.
    """
    falls: dict[str, float] = {}
    restless, grown = [], []
    for name, table in content["history"].items():
        fine = [status not in FAILED for status in content["status"][name]]
        runs = [run[np.isfinite(run)] for run in table[NORM].T[fine]] if NORM in table else []
        runs = [run for run in runs if len(run) > 1 and run[0] > 0]
        if not runs:
            continue
        falls[name] = float(np.median([run[-1] / run[0] for run in runs]))
        rate = _rate(name, content["strategies"][name])
        if falls[name] >= 1:
            grown.append(rate)
        elif 2 * sum(map(_restless, runs)) > len(runs):
            restless.append(rate)
    if not falls:
        return ""
    parts = [f"{name} {number(value)}" for name, value in falls.items()]
    over = " (median over seeds)" if content["runs"] > 1 else ""
    found = f"Gradient of Φ, its last size over its first{over}: {joined(parts)}."
    if restless:
        found += (
            f" It goes up and down for {joined(restless)}: lower the body's rate, or let it decay."
        )
    if grown:  # which small steps do too, on a way that becomes steeper
        found += (
            f" It did not fall for {joined(grown)}: the body's rate is too large, or so small that "
            "more steps are needed."
        )
    return found


def _restless(run: Array) -> bool:
    """Whether a run, far from a stationary point, goes up and down without getting on."""
    if len(run) < FEWEST or run[-1] <= NEAR * run[0]:
        return False
    late = run[len(run) // 2 :]
    third = len(late) // 2
    before, after = np.median(late[:third]), np.median(late[-third:])
    changes = np.diff(np.log(np.maximum(late, np.finfo(float).tiny)))
    swings = np.exp(changes[changes > 0].sum()) >= SWING
    return bool((changes > 0).mean() >= RISES and swings and after > STILL * before)


def _rate(name: str, written: str) -> str:
    """The strategy with the rate of its body, if it has a constant one."""
    found = re.search(r"\bbody_lr=Constant\(([^()]+)\)", written)
    return f"{name} (body_lr = {found[1]})" if found else name
