"""The page on statuses knows all of them, and which are failures."""

import re
from pathlib import Path

import bilevel

PAGE = Path(__file__).parents[2] / "docs/how-to/status.md"


def test_each_status_is_in_the_table_once_and_failures_are_below_the_line():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`([A-Z_]+)`", row.split("|")[1])]
    assert sorted(named) == sorted(bilevel.Status.__members__)
    failures = [bilevel.Status[name].failed for name in named]
    assert failures == sorted(failures)  # False before True
    assert named[failures.index(True)] == "DIVERGED"
    assert named[-1] == "NOT_QUADRATIC"
