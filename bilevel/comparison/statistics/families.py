"""Which strategies are compared with which: all of them, or tuned with tuned, given with given."""

import itertools
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from bilevel.report.words import TUNED

Pair = tuple[str, str]
Result = Mapping[str, Any]


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
    def pairs(self) -> list[Pair]:
        """(strategy, baseline): the others against each baseline, then the others in pairs."""
        names = list(self.names.values())
        others = [name for name in names if name not in self.baselines]
        if not others:
            return [(name, names[0]) for name in names[1:]]
        pairs = [(name, baseline) for name in others for baseline in self.baselines]
        return pairs + [(later, early) for early, later in itertools.combinations(others, 2)]


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
    tuned = tuned_names(strategies, searched)
    given = [name for name in strategies if name not in tuned.values()]
    if not tuned:
        return [_family("", {name: name for name in given}, baselines)]
    best = {name: tuned.get(name, name) for name in given if name in tuned or name not in searched}
    return [
        _family("tuned", best, baselines),
        _family("given", {name: name for name in given}, baselines),
    ]


def tuned_names(strategies: Collection[str], searched: Container[str]) -> dict[str, str]:
    """NAME -> "NAME, tuned", of those that take part in the comparison."""
    return {
        name: name + TUNED for name in strategies if name in searched and name + TUNED in strategies
    }


def all_pairs(
    strategies: Sequence[str], baselines: Sequence[str], searched: Container[str]
) -> list[Pair]:
    """The pairs of all families, then every tuned strategy against the one with given rates."""
    pairs: Iterable[Pair] = itertools.chain.from_iterable(
        family.pairs for family in families(strategies, baselines, searched)
    )
    changes = [(tuned, name) for name, tuned in tuned_names(strategies, searched).items()]
    return list(dict.fromkeys([*pairs, *changes]))


def family_results(
    strategies: Sequence[str],
    baselines: Sequence[str],
    searched: Container[str],
    results: Sequence[Result],
) -> list[dict[str, Any]]:
    """The families as dictionaries, with the results of their pairs.

    Args:
        strategies: All names, in order.
        baselines: Names of the baselines.
        searched: Names of the strategies whose rates were searched.
        results: Fields of `PairedResult`, of all pairs.

    Returns:
        Per family its kind, names and baselines, and its results as "paired".
    """
    found = _by_pair(results)
    return [
        {**family._asdict(), "paired": [found[pair] for pair in family.pairs if pair in found]}
        for family in families(strategies, baselines, searched)
    ]


def tuning_results(
    tuning: Mapping[str, Any] | None, strategies: Collection[str], results: Sequence[Result]
) -> dict[str, Any] | None:
    """What a search for rates found, and what it changed.

    Args:
        tuning: As in the settings of a `Comparison`.
        strategies: All names, in order.
        results: Fields of `PairedResult`, of all pairs.

    Returns:
        The same, with "rows": one for each strategy whose tuned rates are compared, and "untuned":
        names of strategies without rates. None if nothing was tuned.
    """
    searched = tuning["strategies"] if tuning else {}
    if tuning is None or not (tuned := tuned_names(strategies, searched)):
        return None
    found, known = _by_pair(results), {*searched, *tuned.values()}
    rows = [
        {"strategy": name, "tuned": best, **searched[name], "change": found.get((best, name))}
        for name, best in tuned.items()
    ]
    return {**tuning, "rows": rows, "untuned": [name for name in strategies if name not in known]}


def _by_pair(results: Sequence[Result]) -> dict[Pair, Result]:
    return {(result["strategy"], result["baseline"]): result for result in results}


def _family(kind: str, names: dict[str, str], baselines: Sequence[str]) -> Family:
    return Family(kind, names, [names[name] for name in baselines if name in names])
