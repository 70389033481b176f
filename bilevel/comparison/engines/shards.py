"""How the work of a stage is cut: a shard is some strategies of equal structure on some seeds."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bilevel.comparison.budget import Budget
from bilevel.comparison.side_by_side import Names, SideBySide

PER_WORKER = 2
"""Shards that are made for each worker: with fewer, most would wait for the one with the dearest;
with more, runs that are cheaper together would be apart."""
Pieces = list[list[int]]
"""How many strategies and how many seeds a shard has, for each group of equal structure."""


class Shard(NamedTuple):
    """Some strategies of equal structure on some seeds.

    Attributes:
        stage: "training" or "tuning".
        number: in its stage.
        strategies: their names.
        seeds: of the runs.
        weight: gradient evaluations of all its runs.
    """

    stage: str
    number: int
    strategies: Names
    seeds: tuple[int, ...]
    weight: float

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.stage}-{self.number}"

    def __str__(self) -> str:
        named = ", ".join(self.strategies[:3]) + (", ..." if len(self.strategies) > 3 else "")
        seeds = f"{self.seeds[0]}" + (f" to {self.seeds[-1]}" if len(self.seeds) > 1 else "")
        return f"{self.name} ({named}; seed{'s' * (len(self.seeds) > 1)} {seeds})"


def pieces(side_by_side: SideBySide, budget: Budget, workers: int) -> Pieces:
    """Pieces of such a size that every worker has work, and that one fits into its memory.

    A group is cut by its seeds, and by its strategies too where there are too few of these. No
    piece holds more runs than would be computed at once, see `max_runs_at_once`.
    """
    seeds, target = side_by_side.seeds, PER_WORKER * workers
    weights = _weights(side_by_side, budget)
    total = seeds * sum(weights[name] for name in side_by_side.strategies)
    found: Pieces = []
    for names, training in side_by_side.trainings.items():
        at_once = max(len(range(*part.indices(len(names) * seeds))) for part in training.parts)
        share = target * seeds * sum(weights[name] for name in names) / total
        count = max(1, round(share), math.ceil(len(names) * seeds / at_once))
        by_seeds = min(seeds, count)
        by_names = min(len(names), math.ceil(count / by_seeds))
        found.append([math.ceil(len(names) / by_names), math.ceil(seeds / by_seeds)])
    return found


def shards(side_by_side: SideBySide, budget: Budget, cut: Pieces) -> list[Shard]:
    """All shards of a stage, in the order of the groups, their strategies and their seeds."""
    seeds, weights = side_by_side.data.seeds, _weights(side_by_side, budget)
    found: list[Shard] = []
    for names, (some, few) in zip(side_by_side.trainings, cut, strict=True):
        for together in _split(names, some):
            for of_them in _split(seeds, few):
                weight = len(of_them) * sum(weights[name] for name in together)
                found.append(
                    Shard(side_by_side.stage, len(found), tuple(together), tuple(of_them), weight)
                )
    return found


def _weights(side_by_side: SideBySide, budget: Budget) -> dict[str, float]:
    """Gradient evaluations of one run of every strategy; steps that cost none count a little."""
    return {
        name: budget.steps(cost)[-1] * max(cost, 0.1) for name, cost in side_by_side.costs.items()
    }


def _split(values: Sequence, size: int) -> Iterator[Sequence]:  # type: ignore[type-arg]
    """Parts of a sequence, as equal in size as can be, of at most `size`."""
    count = math.ceil(len(values) / size)
    for i in range(count):
        yield values[i * len(values) // count : (i + 1) * len(values) // count]
