"""What `advise` found."""

import dataclasses
from typing import TYPE_CHECKING

from bilevel.analysis.advice.budget import Spent
from bilevel.analysis.advice.explanation import BlockCurvatures, HeadGap
from bilevel.analysis.advice.range_tests import Centres
from bilevel.analysis.advice.search import Found
from bilevel.analysis.advice.setting import Pair
from bilevel.analysis.advice.verdict import Ratio
from bilevel.report.words import counted, joined, metric_name, number
from bilevel.strategies import TwoTimescale

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True, eq=False)
class Advice:
    """Rates for body and head, and what speaks for them.

    Attributes:
        gain: whether the best pair beats each of the best uniform rates on the held-out seeds: all
            intervals of `ratios` below 1, and the hardest ratio below .98. Otherwise there is no
            significant gain.
        body_lr: the rate to train the body at: of the best pair where there is a gain, else the
            best uniform rate.
        head_lr: the same of the head.
        strategy: `TwoTimescale` with these rates.
        pair: the rates of body and head of the best pair, whether it gains or not.
        ratios: uniform rate -> the loss with `pair` as a part of that with this rate, for the best
            uniform rates, best in the trial first.
        range_test: the loss with the advised rates as a part of that with the rate that a range
            test of both levels at one rate suggests.
        exact: the loss of training with the exact head, the body at its advised rate, as a part of
            that with the advised rates; None where there is no exact head.
        centres: of the range tests.
        head_gap: along a training at the advised rates; None where exact heads are not known.
        curvatures: where that training ended; None with heads of tasks.
        search: what was tried, with which losses.
        metric: what the verdict is about, on the held-out seeds.
        chosen_by: the metric that chose rates on the trial seeds.
        seeds: of the trial.
        held_out: seeds of the verdict.
        steps: of every training.
        budget: what was spent, by part of the work, in its order.
        paste: lines to paste.
    """

    gain: bool
    strategy: TwoTimescale
    body_lr: float
    head_lr: float
    pair: Pair
    ratios: dict[float, Ratio]
    range_test: Ratio
    exact: Ratio | None
    centres: Centres
    head_gap: HeadGap | None
    curvatures: BlockCurvatures | None
    search: Found
    metric: str
    chosen_by: str
    seeds: list[int]
    held_out: list[int]
    steps: int
    budget: dict[str, Spent]
    paste: str

    def __str__(self) -> str:
        """The verdict and its grounds in words, and the line to paste."""
        lines = [f"    {line}" for line in self.paste.splitlines()]
        return "\n".join([*_sentences(self), "", *lines])

    def figure(self) -> "Figure":
        """All rates that were tried, coloured by the loss after half of the steps."""
        from bilevel.report.tried_rates import tried_rates

        metric, half = metric_name(self.chosen_by), self.steps // 2
        title = f"{metric} after {counted(half, 'step')}, {counted(len(self.seeds), 'seed')}"
        return tried_rates(self.search.after_half, self.pair, self.search.uniform[0], title=title)

    @property
    def spent(self) -> Spent:
        """All of `budget` together."""
        parts = self.budget.values()
        return Spent(sum(one.run_steps for one in parts), sum(one.seconds for one in parts))

    @property
    def hardest(self) -> Ratio:
        """The largest of `ratios`, which the verdict rests on."""
        return max(self.ratios.values(), key=lambda ratio: ratio.value)


def _sentences(advice: Advice) -> list[str]:
    """A paragraph each: the verdict, what it rests on, why, what else was looked at, the cost."""
    found = [_verdict(advice), _grounds(advice), _why(advice), _others(advice)]
    if edges := advice.search.edges:
        still = joined(advice.search.open_ends)
        found.append(
            f"At an end of what was tried first: {joined(edges)}. Both kinds of rates were tried "
            "beyond it, by as many trials." + (f" Still at an end: {still}." if still else "")
        )
    return [*found, _cost(advice)]


def _verdict(advice: Advice) -> str:
    if not advice.gain:
        return (
            "No significant gain from two rates: train body and head at one, "
            f"{number(advice.body_lr)}."
        )
    body, head = advice.pair
    fast, slow = ("head", "body") if head > body else ("body", "head")
    times = _factor(max(body, head) / min(body, head))
    return (
        f"Gain: train the {fast} {times} times faster than the {slow}, body {number(body)}, head "
        f"{number(head)}."
    )


def _grounds(advice: Advice) -> str:
    metric, seeds = metric_name(advice.metric), counted(len(advice.held_out), "seed")
    steps = counted(advice.steps, "step")
    hardest = advice.hardest
    rate = next(rate for rate, one in advice.ratios.items() if one == hardest)
    pair = "these rates" if advice.gain else f"the best pair ({_pair(advice.pair)})"
    lost = f"; on {counted(hardest.lost, 'seed')} a run failed" if hardest.lost else ""
    return (
        f"On {seeds} that chose nothing, {steps} each, the {metric} with {pair} is "
        f"{hardest} times that with one rate, {number(rate)}: of the "
        f"{len(advice.ratios)} best uniform rates the hardest to beat{lost}."
    )


def _why(advice: Advice) -> str:
    centres = advice.centres
    large, small, factor = "head", "body", centres.head / centres.body
    if factor < 1:
        large, small, factor = small, large, 1 / factor
    text = f"The {large}'s largest useful step is {_factor(factor)} times the {small}'s "
    if lost := centres.at_an_end:
        text = (
            f"No largest useful step of the {joined(lost)} was found: its loss was smallest at an "
            "end of the rates of the range test, and pairs are tried around there "
        )
    text += (
        f"(range tests: body {number(centres.body, 2)}, head {number(centres.head, 2)}, both at "
        f"one rate {number(centres.uniform, 2)})."
    )
    if advice.head_gap is not None:
        first, last = advice.head_gap.values[0], advice.head_gap.values[-1]
        text += (
            " At the advised rates, the head's distance from the exact one goes from "
            f"{number(first)} to {number(last)}."
        )
    if advice.curvatures is not None:
        body, head = advice.curvatures
        text += (
            f" There g curves by {number(body)} in the body at most, and by {number(head)} in the "
            "head."
        )
    return text


def _others(advice: Advice) -> str:
    text = (
        f"The loss is {advice.range_test} times that with the rate that a range test alone "
        f"suggests, {number(advice.centres.uniform)}."
    )
    if advice.exact is not None:
        text += (
            f" With the exact head at every step, the body at {number(advice.body_lr)}, it is "
            f"{advice.exact} times the loss of the advised rates."
        )
    return text


def _cost(advice: Advice) -> str:
    total = advice.spent
    parts = (f"{name} {spent.seconds:.1f}" for name, spent in advice.budget.items())
    return (
        f"Spent: {total.run_steps:,} steps of single runs, {total.seconds:.1f} s of CPU "
        f"({', '.join(parts)})."
    )


def _factor(value: float) -> str:
    """A factor in two digits.

    Examples:
        >>> _factor(139259.3), _factor(6.25)
        ('140,000', '6.2')
    """
    return number(float(f"{value:.2g}"), 2)


def _pair(pair: tuple[float, float]) -> str:
    return f"body {number(pair[0])}, head {number(pair[1])}"
