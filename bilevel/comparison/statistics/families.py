"""Which strategies are compared with which: all of them, or tuned with tuned, given with given."""

import itertools
from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple

from bilevel.report.words import TUNED

Pair = tuple[str, str]
MOST = 300
"""Pairs of a family: all of 25 strategies. More than these nobody reads."""
Result = Mapping[str, Any]
"""Fields of the `PairedResult` of a pair."""


class Family(NamedTuple):
    """Strategies that are compared with one another.

    Attributes:
        kind: "tuned" or "given" (with the rates that were given); "" where nothing was tuned.
        names: What a strategy is called within the family -> its name in the comparison.
        baselines: Names in the comparison that the others are compared with.
    """

    kind: str
    names: dict[str, str]
    baselines: list[str]

    @property
    def possible(self) -> list[Pair]:
        """(strategy, baseline): the others against each baseline, then the others in pairs."""
        names = list(self.names.values())
        others = [name for name in names if name not in self.baselines]
        if not others:
            return [(name, names[0]) for name in names[1:]]
        pairs = [(name, baseline) for name in others for baseline in self.baselines]
        return pairs + [(later, early) for early, later in itertools.combinations(others, 2)]

    @property
    def pairs(self) -> list[Pair]:
        """The same; if these are more than `MOST`, those with as many baselines as keep to it."""
        pairs = self.possible
        if len(pairs) <= MOST:
            return pairs
        others = len(self.names) - len(self.baselines)
        first = self.baselines[: max(1, MOST // max(1, others))] or list(self.names.values())[:1]
        return [(name, other) for name, other in pairs if other in first]

    @property
    def changes(self) -> list[Pair]:
        """Every tuned strategy against the one with the rates as given."""
        return [(tuned, name) for name, tuned in self.names.items() if tuned != name]


def families(
    strategies: Sequence[str], baselines: Sequence[str], searched: Container[str]
) -> list[Family]:
    """Sort strategies by whether their rates were tuned.

    A strategy without rates has nothing to tune, and is compared with both.

    Args:
        strategies: All names, in order.
        baselines: Names of the baselines.
        searched: Names of the strategies whose rates were searched.

    Returns:
        The tuned ones first, since only they compare methods rather than rates; a single family
        where nothing was tuned.

    Examples:
        >>> [family.pairs for family in families(["a", "b", "a, tuned", "b, tuned"], ["b"], "ab")]
        [[('a, tuned', 'b, tuned')], [('a', 'b')]]
    """
    tuned = {
        name: name + TUNED for name in strategies if name in searched and name + TUNED in strategies
    }
    given = {name: name for name in strategies if name not in tuned.values()}
    best = {name: tuned.get(name, name) for name in given if name in tuned or name not in searched}
    kinds = {"tuned": best, "given": given} if tuned else {"": given}
    return [
        Family(kind, names, [names[name] for name in baselines if name in names])
        for kind, names in kinds.items()
    ]


def family_results(found: Sequence[Family], results: Mapping[Pair, Result]) -> list[dict[str, Any]]:
    """Per family its kind, names and baselines, and the results of its pairs as "paired"."""
    return [
        {**family._asdict(), "paired": [results[pair] for pair in family.pairs if pair in results]}
        for family in found
    ]


def tuning_results(
    tuning: Mapping[str, Any] | None, found: Sequence[Family], results: Mapping[Pair, Result]
) -> dict[str, Any] | None:
    """What a search for rates (of the settings) found, and what it changed.

    Returns:
        The same, with "rows": one for each strategy whose tuned rates are compared, and "untuned":
        names of strategies without rates. None if nothing was tuned.
    """
    if tuning is None or not found[0].changes:
        return None
    searched = tuning["strategies"]
    rows = [
        {"strategy": name, "tuned": tuned, **searched[name], "change": results.get((tuned, name))}
        for tuned, name in found[0].changes
    ]
    return {**tuning, "rows": rows, "untuned": [n for n in found[-1].names if n not in searched]}
