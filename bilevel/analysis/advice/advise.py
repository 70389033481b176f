"""`advise`: should head and body learn at different rates, and at which?"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from bilevel.analysis.advice.advice import Advice
from bilevel.analysis.advice.budget import Clock
from bilevel.analysis.advice.explanation import exact_losses, way
from bilevel.analysis.advice.paste import strategy_line, torch_lines
from bilevel.analysis.advice.range_tests import range_tests
from bilevel.analysis.advice.search import search
from bilevel.analysis.advice.setting import Setting
from bilevel.analysis.advice.verdict import held_out, is_gain, ratio
from bilevel.comparison.statistics.judging import selecting, shown
from bilevel.core.checks import check_function, check_positive_integer, float_type
from bilevel.core.graph import ordinary
from bilevel.data.draws import Sampling
from bilevel.data.sampler import BatchSize
from bilevel.errors import ArgumentError
from bilevel.loops.module_problem import from_module
from bilevel.optimizers import AbstractOptimizer, RMSProp
from bilevel.problem.base import StackelbergProblem
from bilevel.problem.criteria import AbstractCriterion
from bilevel.strategies.two_timescale import Order
from bilevel.training.arguments import seed_list
from bilevel.training.training import Training

SHARE = 0.2
"""Of rows that come as a whole: to validate on, and to test."""


@ordinary()
def advise(
    problem: StackelbergProblem | Callable[[], nn.Module],
    loss: str | AbstractCriterion | None = None,
    data: Any = None,
    *,
    head: str = "fc",
    optimizer: AbstractOptimizer | None = None,
    steps: int = 400,
    batch_size: BatchSize = 64,
    seeds: int | Sequence[int] = 5,
    held_out_seeds: int | Sequence[int] = 20,
    order: Order | None = None,
    sampling: Sampling = "iid",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    callback: Callable[[str], object] | None = None,
) -> Advice:
    """Whether two rates do better than one here, and at which rates to train.

    1. Range tests on the trial seeds: rates that grow tenfold in 15 steps, until the smoothed loss
       blows up, of the head alone, of the body while the head moves, and of both at one rate. A
       tenth of the rate where that loss is smallest is the centre of each.
    2. Trial: 5 x 5 pairs, a factor of 4 apart, around the centres of body and head, and 25 uniform
       rates over the same span around theirs. The 8 best of each kind after half of the steps go on
       to the end. Where a best rate lies at an end of its range, both kinds are tried beyond it
       once, by as many trials. The validation metric chooses, its geometric mean over seeds.
    3. Verdict on held-out seeds: the best pair against each of the three best uniform rates, with
       the test metric and paired t intervals of its log ratios; a run that failed loses its pair.
       There is a gain if all three intervals lie below 1, and the hardest ratio below .98.

    Searching pairs is searching harder: where every pair is as good as every uniform rate, one of
    them looks better by chance. That is why there are as many uniform rates, three of which must be
    beaten on seeds that chose nothing.

    Args:
        problem: whose rates; or a function that makes a module of torch, for `loss` and `data`.
        loss: with a module: see `loops.from_module`.
        data: the same. Rows that come as a whole are divided: a fifth to validate, a fifth to test.
        head: the name of the module's last linear layer.
        optimizer: of both levels; None: `RMSProp()`.
        steps: of every training, as many as one will make: rates that are good for short trainings
            are not those for long ones.
        batch_size: rows per step, as in `solve`.
        seeds: of range tests and trial: how many, or the seeds themselves.
        held_out_seeds: of the verdict: how many, after the largest of `seeds`, or the seeds
            themselves, none of them in `seeds`.
        order: see `TwoTimescale`; None: "alternating", and with a module "simultaneous", as
            optimisers of torch make their steps.
        sampling: see `solve`.
        device: where to compute.
        dtype: of the trainings.
        callback: called with a few words at the beginning of each part of the work.

    Returns:
        The `Advice`; `print` it. With the defaults it takes some 100,000 to 300,000 steps of single
        runs.

    Raises:
        ArgumentError: seeds that choose are among those that judge, fewer than two judge, or
            nothing depends on the seed.
        ProblemError: the metric that judges is negative, so that its ratios mean nothing.
        BilevelError: bad arguments, data or problems, as in `solve`.

    Examples:
        >>> import bilevel
        >>> from problems.regression import friedman1
        >>> problem = friedman1(width=8, train=100, validation=50, test=50)
        >>> advice = bilevel.advise(problem, steps=20, seeds=2, held_out_seeds=3)
        >>> advice.gain
        False
        >>> advice.body_lr == advice.head_lr
        True
    """
    optimizer = RMSProp() if optimizer is None else optimizer
    check_positive_integer(steps, "`steps`")
    layer = None
    if isinstance(problem, StackelbergProblem):
        if loss is not None or data is not None:
            raise ArgumentError("`loss` and `data` belong to a module: a problem has its own.")
    else:
        layer, problem = head, _problem(problem, loss, data, head)
    if order is None:
        order = "alternating" if layer is None else "simultaneous"
    if callback is not None:
        check_function(callback, "callback", "callback(words)", 1)
    setting = Setting(problem, optimizer, order, batch_size, sampling, float_type(dtype), device)
    seeds_of_both = _seeds(seeds, held_out_seeds)
    return _advice(setting, *seeds_of_both, steps, Clock(callback), layer)


def _advice(
    setting: Setting,
    trial: list[int],
    held: list[int],
    steps: int,
    clock: Clock,
    layer: str | None,
) -> Advice:
    """What is found on the seeds of the trial and judged on those that are held out."""
    rows = setting.data(trial)
    training = Training(setting.strategy(1.0, 1.0), rows, setting.batch_size, setting.sampling)
    if training.one_run():
        raise ArgumentError(
            "All runs are one and the same, since nothing depends on the seed: there is nothing to "
            "choose rates on and to judge them by. Draw initial points, data or rows by the seed."
        )
    metric = shown(training.recorded_names())
    chosen_by = selecting(training.recorded_names(), metric)
    with clock.counted("range tests") as made:
        centres = range_tests(setting, rows)
        made.append(centres.steps * len(trial))
    with clock.counted("trial") as made:
        found = search(setting, rows, centres, chosen_by, steps)
        made.append(found.run_steps)
    uniform = [(rate, rate) for rate in found.uniform]
    suggested = (centres.uniform, centres.uniform)
    with clock.counted("verdict") as made:
        unseen = setting.data(held)
        judged = held_out(setting, unseen, [found.pair, *uniform, suggested], metric, steps)
        made.append(judged.run_steps)
    best = judged.losses[found.pair]
    ratios = {rate: ratio(best, judged.losses[rate, rate]) for rate in found.uniform}
    gain = is_gain(list(ratios.values()))
    rates = found.pair if gain else uniform[0]
    with clock.counted("explanation") as made:
        seen = way(setting, rows, rates, steps)
        exact = exact_losses(setting, unseen, rates[0], metric, steps)
        made.append(steps * (len(trial) + (0 if exact is None else len(held))))
    return Advice(
        gain=gain,
        strategy=setting.strategy(*rates),
        body_lr=rates[0],
        head_lr=rates[1],
        pair=found.pair,
        ratios=ratios,
        range_test=ratio(judged.losses[rates], judged.losses[suggested]),
        exact=None if exact is None else ratio(exact, judged.losses[rates]),
        centres=centres,
        head_gap=seen.head_gap,
        curvatures=seen.curvatures,
        search=found,
        metric=metric,
        chosen_by=chosen_by,
        seeds=trial,
        held_out=held,
        steps=steps,
        budget=clock.budget,
        paste=strategy_line(setting, rates)
        if layer is None
        else torch_lines(setting, rates, layer),
    )


def _problem(make_model: Any, loss: Any, data: Any, head: str) -> StackelbergProblem:
    """The problem of a module, on rows of which some choose and some judge."""
    if loss is None or data is None:
        raise ArgumentError(
            "`advise` takes a problem, or a function that makes a module with its loss and its "
            'data: advise(lambda: Net(...), "cross_entropy", (x, y), head="fc").'
        )
    share = 0.0 if isinstance(data, Mapping) else SHARE
    return from_module(make_model, loss, data, head, validation=share, test=share)


def _seeds(seeds: Any, held_out_seeds: Any) -> tuple[list[int], list[int]]:
    """The seeds that choose, and those that judge."""
    trial, held = seed_list(seeds), seed_list(held_out_seeds)
    if isinstance(held_out_seeds, int | np.integer):
        held = [max(trial) + 1 + seed for seed in held]
    if shared := sorted(set(trial) & set(held)):
        raise ArgumentError(
            f"Rates must be judged on seeds that did not choose them, but both have {shared}."
        )
    if len(held) < 2:
        raise ArgumentError("`held_out_seeds` must be two at least: intervals are over seeds.")
    return trial, held
