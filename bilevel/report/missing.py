"""What became of runs without a value: they failed, or their metric ended as inf or NaN."""

import math

from bilevel.core.status import FAILED
from bilevel.report.words import Content, joined


def ended(content: Content, *names: str, runs: int = 1) -> str:
    """What so many runs of some strategies did that have no value.

    Returns:
        "failed", "have no finite value" ("has" of one run), or "failed or have no finite value".
    """
    failed, others = (
        any(_count(content, name, which) for name in names) for which in (True, False)
    )
    lacks = f"{'has' if runs == 1 else 'have'} no finite value"
    return f"failed or {lacks}" if failed and others else lacks if others else "failed"


def both(content: Content, *names: str) -> str:
    """The same of both runs of a seed."""
    return "both failed" if ended(content, *names) == "failed" else "neither has a finite value"


def listed(content: Content) -> str:
    """How many runs of which strategies have no final value, and why; "" if all have one."""
    parts = []
    for start, failed in (("failed runs", True), ("runs without a finite value", False)):
        counts = {name: _count(content, name, failed) for name in content["final"]}
        if any(counts.values()):
            named = joined([f"{count} of {name}" for name, count in counts.items() if count])
            parts.append(f"{start} ({named})")
    return joined(parts)


def _count(content: Content, name: str, failed: bool) -> int:
    """How many runs without a final value failed, or did not."""
    ends = zip(content["status"][name], content["final"][name], strict=True)
    return sum((code in FAILED) == failed for code, value in ends if not math.isfinite(value))
