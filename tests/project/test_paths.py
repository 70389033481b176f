"""Problems and strategies pass few hands: see `python tests/project/paths.py`."""

import paths
import pytest

MOST = {
    "A problem through solve, TwoTimescale": (30, 4),
    "A problem through solve, BestResponse": (37, 5),
    "Strategies through compare": (30, 5),
}
"""Calls, and how many of them go up a layer."""


@pytest.mark.parametrize("title", paths.PATHS)
def test_paths_stay_short(title):
    calls = paths.PATHS[title]()
    most, most_up = MOST[title]
    assert calls[0][0] == "user"
    assert most // 2 < len(calls) <= most
    assert paths.ups(calls) <= most_up


def test_a_call_that_hands_a_thing_on_counts_once():
    problem = paths.diabetes(width=8)
    calls = paths.walk(lambda x: x is problem, lambda: [problem.is_stackelberg for _ in range(2)])
    assert calls == [("user", "problem/base.StackelbergProblem.is_stackelberg")]
    assert paths.walk(lambda x: x is calls, lambda: problem.is_stackelberg) == []
    assert paths.ups([("user", "training/solve.solve"), *calls, ("", "data/rows.x")]) == 1
