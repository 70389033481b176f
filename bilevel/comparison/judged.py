"""By which metrics strategies are judged, and against whom, where nobody says."""

from collections.abc import Sequence

from bilevel.comparison.side_by_side import SideBySide
from bilevel.comparison.statistics.judging import shown
from bilevel.errors import check_name
from bilevel.strategies import TwoTimescale
from bilevel.strategies.presets import CONTROLS


def headline_of(side_by_side: SideBySide, asked: str | None, names: Sequence[str]) -> str:
    """The metric to judge by: that which was asked for, the problem's own, or what is shown.

    Args:
        side_by_side: with the problem.
        asked: None: nobody asked.
        names: of what is recorded.

    Raises:
        UnknownNameError: a metric is not recorded.
    """
    problem = side_by_side.problem
    for metric in (*problem.judged, *filter(None, [problem.headline, asked])):
        check_name(metric, names, "metric")
    return asked or problem.headline or shown(names)


def baselines_of(side_by_side: SideBySide) -> list[str]:
    """The controls and the uniform strategies, if there are others; else the first strategy.

    None where the problem wants every strategy to be compared with every other.
    """
    strategies = side_by_side.strategies
    if side_by_side.problem.pairwise:
        return []
    found = [
        name
        for name, strategy in strategies.items()
        if name in CONTROLS or (isinstance(strategy, TwoTimescale) and strategy.is_uniform)
    ]
    return found if 0 < len(found) < len(strategies) else list(strategies)[:1]
