"""What became of runs without a value: they failed, or their metric ended as inf or NaN."""

import math

from bilevel.core.status import FAILED
from bilevel.report.words import Content, joined


def ended(content: Content, *names: str, runs: int = 1) -> str:
    """What so many runs of some strategies did that have no value.

    Returns:
        "failed", "have no finite value" ("has" of one run), or "failed or have no finite value".
    """
    failed, others = (sum(_counts(content, which, name) for name in names) for which in (1, 0))
    lacks = f"{'has' if runs == 1 else 'have'} no finite value"
    return f"failed or {lacks}" if failed and others else lacks if others else "failed"


def both(content: Content, *names: str) -> str:
    """The same of both runs of a seed."""
    failed = ended(content, *names) == "failed"
    return "both failed" if failed else "neither has a finite value"


def listed(content: Content) -> str:
    """How many runs of which strategies have no final value, and why; "" if all have one."""
    kinds = {}
    for start, which in (("failed runs", 1), ("runs without a finite value", 0)):
        counts = {name: _counts(content, which, name) for name in content["final"]}
        kinds[start] = joined([f"{count} of {name}" for name, count in counts.items() if count])
    return joined([f"{start} ({named})" for start, named in kinds.items() if named])


def _counts(content: Content, failed: int, name: str) -> int:
    """How many runs without a final value failed, or did not."""
    ends = zip(content["status"].get(name, ()), content["final"].get(name, ()), strict=False)
    return sum((code in FAILED) == failed for code, value in ends if not math.isfinite(value))
