"""`solve`: one strategy, from many seeds."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from bilevel.core.checks import check_flag, check_function, float_type
from bilevel.core.graph import ordinary
from bilevel.core.progress import Show, training_shown
from bilevel.data.draws import Sampling
from bilevel.data.sampler import BatchSize
from bilevel.data.training_data import TrainingData
from bilevel.errors import AllRunsFailedError, counted
from bilevel.problem.base import StackelbergProblem
from bilevel.strategies import AbstractStrategy
from bilevel.training.arguments import check_strategy, seed_list
from bilevel.training.recorder import record_steps
from bilevel.training.solution import Solution
from bilevel.training.state import TrainingState
from bilevel.training.training import ONE_RUN, Callback, Training


@ordinary()
def solve(
    problem: StackelbergProblem,
    strategy: AbstractStrategy,
    *,
    steps: int = 2000,
    batch_size: BatchSize = 64,
    seeds: int | Sequence[int] = 20,
    every: int = 50,
    tolerance: float | None = None,
    sampling: Sampling = "iid",
    compile: bool = False,
    state: TrainingState | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    max_runs_at_once: int | None = None,
    callback: Callback | None = None,
    progress: bool = False,
    throw: bool = True,
) -> Solution:
    r"""Train one strategy from many seeds at once.

    A seed fixes the initial point, the data (if they are redrawn) and the rows of every step, for
    every strategy, alone or together with others.

    Args:
        problem: what to solve.
        strategy: how the two levels move; its numbers may be (R,) tensors, one for each seed.
        steps: how many body steps.
        batch_size: rows per step: an int for all groups, a dict by group, None: all rows.
        seeds: how many (0, 1, ...), or the seeds themselves.
        every: steps between records; step 0 and the last step are always recorded.
        tolerance: stop a run when the norm of the projected $\nabla\Phi$ falls below this times its
            first value; looked at in records only. A run that has not come there by the last step
            ends as `NOT_STATIONARY`. None: never.
        sampling: "iid": rows are drawn with replacement; "epochs": without, in random
            permutations; "sequential": in the order of the data, over and over (trajectories).
        compile: compile the steps: several times faster after 10 to 60 s of compilation, the same
            numbers up to rounding. Strategies that decide on values run eagerly, with a warning.
        state: of an earlier `Solution`, to go on for `steps` more.
        device: where to compute.
        dtype: of the training; records are computed in float64.
        max_runs_at_once: how many runs are computed together; more take turns, which bounds memory
            and changes numbers by rounding only: libraries sum in another order where tensors hold
            more runs. None: as many as steps of about a gigabyte allow.
        callback: called as `callback(step, values)` after each record, with copies of its values,
            (R,) by name.
        progress: show a bar, at records, with the runs, the steps and the time left (by rich).
        throw: raise if every run failed.

    Returns:
        The `Solution`. Ctrl-C ends the training early and returns what was recorded.

    Warns:
        UserWarning: all runs are one and the same, since nothing depends on the seed.

    Raises:
        AllRunsFailedError: every run diverged and `throw` is set; it carries the solution.
        BilevelError: bad arguments, data or problems, before the training starts.

    Examples:
        >>> import bilevel
        >>> from problems.toy import ScalarProduct
        >>> strategy = bilevel.TwoTimescale(0.05, 0.2, bilevel.SGD())
        >>> solution = bilevel.solve(ScalarProduct(), strategy, steps=2000, seeds=4)
        >>> round(float(solution.body.mean()), 3)
        1.47
    """
    check_flag(throw, "throw")
    check_flag(progress, "progress")
    dtype = float_type(dtype)
    data = TrainingData(problem, seed_list(seeds), dtype, device, experienced=True)
    shared = check_strategy(strategy, len(data.seeds))
    if data.online:
        problem.room(len(data.seeds))  # refuses more than there is
    training = Training(
        strategy.fitted(problem),
        data,
        batch_size,
        sampling,
        compile=compile,
        max_runs_at_once=max_runs_at_once,
    )
    if state is not None:
        training.go_on_from(state)
    if len(data.seeds) > 1 and shared and training.one_run():
        warnings.warn(ONE_RUN.format(runs=len(data.seeds)), stacklevel=3)
    records = record_steps(training.step, steps, every)
    with training_shown(progress) as show:
        told = callback
        if show is not None:
            what = f"{type(strategy).__name__}, {counted(len(data.seeds), 'run')}"
            told = _showing(show, what, records[-1], callback)
        solution = training.run(records, tolerance=tolerance, callback=told)
    if throw and all(status.failed for status in solution.status):
        runs = len(solution.status)
        failed = f"All {runs} runs" if runs > 1 else "The one run"
        raise AllRunsFailedError(
            f"{failed} failed. {solution.status[0].message} Pass "
            "`throw=False` to look at the history.",
            solution,
        )
    return solution


def _showing(show: Show, what: str, total: int, callback: Callback | None) -> Callback:
    """A callback that shows the step, and then calls the one that was given."""
    if callback is not None:
        check_function(callback, "callback", "callback(step, values)", 2)

    def told(k: int, values: dict[str, Tensor]) -> None:
        show(what, k, total)
        if callback is not None:
            callback(k, values)

    return told
