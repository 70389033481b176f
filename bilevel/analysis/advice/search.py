"""The search for rates: pairs on a grid against as many uniform rates, with equal effort."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from bilevel.analysis.advice.range_tests import Centres
from bilevel.analysis.advice.setting import Pair, Setting
from bilevel.analysis.advice.trials import Trials, best_first, scores
from bilevel.data.training_data import TrainingData

FACTOR = 4.0
"""Between neighbours of the grid of pairs."""
REACH = 2
"""Neighbours on either side of the centre: 5 x 5 pairs."""
KEPT = 8
"""Of each arm after half of the steps."""
FINALISTS = 3
"""Uniform rates that the best pair must beat."""


class Found(NamedTuple):
    """What the search found; scores are geometric means over seeds, infinite where a run failed.

    Attributes:
        pair: the best pair.
        uniform: the best uniform rates, best first.
        grid: all pairs that were tried.
        rates: all uniform rates that were tried, as many.
        after_half: the scores of all pairs and uniform rates after half of the steps.
        final: the scores after all steps, of those that went on.
        edges: words for every best rate that lay at an end of what was tried first.
        open_ends: the same of those that still do after both arms were extended.
        run_steps: steps of single runs.
    """

    pair: Pair
    uniform: list[float]
    grid: list[Pair]
    rates: list[float]
    after_half: dict[Pair, float]
    final: dict[Pair, float]
    edges: list[str]
    open_ends: list[str]
    run_steps: int


class _Search:
    """Both arms, as far as they were tried."""

    def __init__(
        self, setting: Setting, data: TrainingData, metric: str, steps: int, centres: Centres
    ) -> None:
        self.setting, self.data, self.metric, self.steps = setting, data, metric, steps
        self.bodies, self.heads = (
            [rounded(centre * FACTOR**i) for i in range(-REACH, REACH + 1)]
            for centre in (centres.body, centres.head)
        )
        self.grid = _beyond([], [], self.bodies, self.heads)
        half = (len(self.grid) - 1) // 2
        self.spacing = FACTOR ** (REACH / half)
        self.rates = [rounded(centres.uniform * self.spacing**i) for i in range(-half, half + 1)]
        self.after_half: dict[Pair, float] = {}
        self.final: dict[Pair, float] = {}
        self.run_steps = 0

    def try_out(self, pairs: Sequence[Pair], rates: Sequence[float]) -> None:
        """Train both arms as one; the best of each go on after half of the steps."""
        uniform = [(rate, rate) for rate in rates]
        half = self.steps // 2
        first = Trials(self.setting, self.data, list(dict.fromkeys([*pairs, *uniform])))
        found = dict(zip(first.pairs, scores(first.losses(self.metric, half)), strict=True))
        left = [*best_first(pairs, found, KEPT), *best_first(uniform, found, KEPT)]
        last = first.kept(list(dict.fromkeys(left)))
        after = scores(last.losses(self.metric, self.steps))
        self.after_half |= found
        self.final |= zip(last.pairs, after, strict=True)
        made = half * len(first.pairs) + (self.steps - half) * len(last.pairs)
        self.run_steps += made * len(self.data.seeds)

    @property
    def pair(self) -> Pair:
        """The best pair so far."""
        return best_first([pair for pair in self.grid if pair in self.final], self.final, 1)[0]

    @property
    def uniform(self) -> list[float]:
        """The best uniform rates so far."""
        arm = [(rate, rate) for rate in self.rates if (rate, rate) in self.final]
        return [rate for rate, _ in best_first(arm, self.final, FINALISTS)]

    def edges(self) -> list[str]:
        """Words for the best rates that are the smallest or the largest that were tried."""
        (body, head), best = self.pair, self.uniform[0]
        arms = {
            "the body's rate of the best pair": (body, self.bodies),
            "the head's rate of the best pair": (head, self.heads),
            "the best uniform rate": (best, self.rates),
        }
        return [words for words, (rate, arm) in arms.items() if rate in (min(arm), max(arm))]

    def extend(self) -> None:
        """Go beyond the ends where best rates lie, by as many pairs as uniform rates."""
        (body, head), best = self.pair, self.uniform[0]
        bodies, heads = _next(body, self.bodies), _next(head, self.heads)
        if not bodies and not heads:  # a uniform rate lies at an end
            bodies = _next(self.bodies[0 if _below(body, self.bodies) else -1], self.bodies)
        more = _beyond(self.bodies, self.heads, bodies, heads)
        low = _below(best, self.rates)
        start, factor = (self.rates[0], 1 / self.spacing) if low else (self.rates[-1], self.spacing)
        further = [rounded(start * factor ** (i + 1)) for i in range(len(more))]
        self.try_out(more, further)
        self.grid += more
        self.bodies, self.heads = sorted(self.bodies + bodies), sorted(self.heads + heads)
        self.rates = sorted(self.rates + further)


def search(
    setting: Setting, data: TrainingData, centres: Centres, metric: str, steps: int
) -> Found:
    """Try both arms, and once more beyond the ends at which a best rate lies."""
    made = _Search(setting, data, metric, steps, centres)
    made.try_out(made.grid, made.rates)
    if edges := made.edges():
        made.extend()
    still = made.edges() if edges else []
    half, final = (_means(table) for table in (made.after_half, made.final))
    return Found(
        made.pair, made.uniform, made.grid, made.rates, half, final, edges, still, made.run_steps
    )


def _means(table: dict[Pair, float]) -> dict[Pair, float]:
    """Geometric means from their logarithms."""
    return {pair: math.exp(score) for pair, score in table.items()}


def _beyond(
    bodies: list[float], heads: list[float], more_bodies: list[float], more_heads: list[float]
) -> list[Pair]:
    """The pairs of all rates that are no pairs of the first ones."""
    return [
        (body, head)
        for body in bodies + more_bodies
        for head in heads + more_heads
        if body in more_bodies or head in more_heads
    ]


def rounded(rate: float) -> float:
    """Three digits: what is tried is what will be pasted."""
    return float(f"{rate:.3g}")


def _next(rate: float, arm: list[float]) -> list[float]:
    """The rate after `rate` where that is an end of the arm, else none."""
    if rate == arm[0]:
        return [rounded(rate / FACTOR)]
    return [rounded(rate * FACTOR)] if rate == arm[-1] else []


def _below(rate: float, arm: list[float]) -> bool:
    """Whether the lower end is the nearer one, counted in places."""
    return arm.index(rate) < len(arm) / 2
