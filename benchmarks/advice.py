"""`bilevel.advise`: does it find gains where they were built in, and none where there are none?

`cases` (the default) asks for advice ten times, with fresh seeds each time, on four problems whose
levels were put into other units (problems/planted_scales.py), on friedman1 and on diabetes. `null`
puts a second, interleaved family of uniform rates in the place of the pairs: 50 rates are trained
once on many seeds, from which seeds that choose and seeds that judge are drawn 400 times.

Run: `make bench BENCH=advice`, or `python benchmarks/advice.py [cases] [null] [--only friedman1]`.
It takes about half an hour of CPU time.
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

import bilevel
from bilevel.analysis.advice.advice import Advice
from bilevel.analysis.advice.range_tests import range_tests
from bilevel.analysis.advice.search import FACTOR, FINALISTS, KEPT, REACH
from bilevel.analysis.advice.setting import Setting
from bilevel.analysis.advice.trials import Trials, best_first, scores
from bilevel.analysis.advice.verdict import Ratio, held_out, is_gain, ratio
from bilevel.comparison.statistics.judging import selecting, shown
from problems.classification import digits
from problems.planted_scales import PlantedScales, Pretrained
from problems.regression import diabetes, friedman1

REPETITIONS, RESAMPLES = 10, 400
TRIAL, HELD = 5, 20
EXHAUSTIVE = 60
"""Seeds of the training that is resampled."""


class Case(NamedTuple):
    """A problem, and how it is trained."""

    make: Callable[[], bilevel.StackelbergProblem]
    optimizer: bilevel.AbstractOptimizer
    steps: int
    batch_size: int = 64

    @property
    def setting(self) -> Setting:
        """As `advise` takes it."""
        at = ("alternating", self.batch_size, "iid", torch.float32, "cpu")
        return Setting(self.make(), self.optimizer, *at)


CASES = {
    "head x .01, SGD": Case(lambda: Pretrained(0.01), bilevel.SGD(), 300, 32),
    "head x .01, RMSProp": Case(lambda: Pretrained(0.01), bilevel.RMSProp(), 300, 32),
    "body x .1, SGD": Case(lambda: PlantedScales(0.1), bilevel.SGD(), 400),
    "body x .1, RMSProp": Case(lambda: PlantedScales(0.1), bilevel.RMSProp(), 400),
    "friedman1": Case(friedman1, bilevel.RMSProp(), 800),
    "diabetes": Case(lambda: diabetes(ridge=0.1), bilevel.RMSProp(), 800),
}
NULL = {
    "friedman1": CASES["friedman1"],
    "diabetes, ridge 1e-4": Case(lambda: diabetes(ridge=1e-4), bilevel.RMSProp(), 800),
    "diabetes, ridge 1e-1": CASES["diabetes"],
    "digits": Case(digits, bilevel.RMSProp(), 200),
}


def asked(case: Case, repetition: int) -> Advice:
    """The advice of a repetition, on seeds that no other one has."""
    first = 10_000 + 100 * repetition
    return bilevel.advise(
        case.make(), optimizer=case.optimizer, steps=case.steps, batch_size=case.batch_size,
        seeds=range(first, first + TRIAL),
        held_out_seeds=range(first + TRIAL, first + TRIAL + HELD),
    )  # fmt: skip


def unseen(case: Case, advice: Advice, repetition: int) -> Ratio:
    """The advised pair against the hardest uniform rate, on seeds that did nothing before."""
    first = 10_000 + 100 * repetition + TRIAL + HELD
    hardest = next(rate for rate, one in advice.ratios.items() if one == advice.hardest)
    setting = case.setting
    pairs = [advice.pair, (hardest, hardest)]
    data = setting.data(range(first, first + HELD))
    found = held_out(setting, data, pairs, advice.metric, case.steps).losses
    return ratio(*(found[pair] for pair in pairs))


def pooled(ratios: list[Ratio]) -> str:
    """The geometric mean over repetitions, and its 95 % t interval."""
    if len(ratios) < 2:
        return "-"
    logs = np.log([one.value for one in ratios])
    return str(ratio(np.exp(logs), np.ones(len(logs))))


def cases(only: str, repetitions: int) -> None:
    """A row for each case."""
    print("case | gains | hardest ratio, pooled | on unseen seeds | fast / slow: least, median | "
          "to the range test's rate | run-steps | CPU s, most", flush=True)  # fmt: skip
    for name, case in CASES.items():
        if only not in name:
            continue
        found = [asked(case, repetition) for repetition in range(repetitions)]
        gains = [i for i, advice in enumerate(found) if advice.gain]
        fresh = [unseen(case, found[i], i) for i in gains]
        ratios = sorted(max(one.pair) / min(one.pair) for one in found)
        apart = "head" if np.median([one.pair[1] / one.pair[0] for one in found]) > 1 else "body"
        print(
            f"{name} | {len(gains)} of {len(found)} | "
            f"{pooled([advice.hardest for advice in found])} | {pooled(fresh)} | "
            f"{apart} {ratios[0]:.3g}, {ratios[len(ratios) // 2]:.3g} | "
            f"{pooled([advice.range_test for advice in found])} | "
            f"{max(advice.spent.run_steps for advice in found):,} | "
            f"{max(advice.spent.seconds for advice in found):.1f}",
            flush=True,
        )
        for advice in found:
            print(f"    {advice.gain} {advice.pair} {advice.hardest}", flush=True)


def null(only: str) -> None:
    """The share of false gains for each problem."""
    for name, case in NULL.items():
        if only not in name:
            continue
        setting = case.setting
        centre = range_tests(setting, setting.data(range(TRIAL))).uniform
        families = 2 * 25
        rates = centre * FACTOR ** np.linspace(-REACH, REACH, families)
        data = setting.data(range(10_000, 10_000 + EXHAUSTIVE))
        trials = Trials(setting, data, [(float(rate), float(rate)) for rate in rates])
        names = trials.training.recorded_names()
        metric = shown(names)
        half = trials.losses(selecting(names, metric), case.steps // 2)
        chosen = trials.losses(selecting(names, metric), case.steps)
        judged = trials.losses(metric, case.steps)
        draws = np.random.default_rng(0)
        gains = sum(
            gained(draws.permutation(EXHAUSTIVE), half, chosen, judged) for _ in range(RESAMPLES)
        )
        print(f"null, {name} | {gains} gains of {RESAMPLES} | {gains / RESAMPLES:.1%}", flush=True)


def gained(order, half, chosen, judged) -> bool:
    """Whether the odd rates, in the place of pairs, are said to gain over the even ones."""
    trial, held = order[:TRIAL], order[TRIAL : TRIAL + HELD]
    first = dict(enumerate(scores(half[:, trial])))
    last = dict(enumerate(scores(chosen[:, trial])))
    arms = [list(range(start, len(half), 2)) for start in (1, 0)]
    left = [best_first(arm, first, KEPT) for arm in arms]
    pair = best_first(left[0], last, 1)[0]
    uniform = best_first(left[1], last, FINALISTS)
    return is_gain([ratio(judged[pair, held], judged[rate, held]) for rate in uniform])


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "parts", nargs="*", choices=["cases", "null", []], default=["cases", "null"]
    )
    parser.add_argument("--only", default="")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    asked_for = parser.parse_args()
    torch.set_num_threads(1)
    if "null" in asked_for.parts:
        null(asked_for.only)
    if "cases" in asked_for.parts:
        cases(asked_for.only, asked_for.repetitions)


if __name__ == "__main__":
    main()
