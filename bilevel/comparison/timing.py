"""Seconds of a step."""

import statistics
from collections.abc import Sequence

from bilevel.comparison.side_by_side import SideBySide
from bilevel.core.memory import says_memory
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.assembly import Assembly
from bilevel.strategies.over_tasks import over_tasks
from bilevel.training.cohort import Cohort

WARM_UP, ROUNDS, STEPS_PER_ROUND = 10, 5, 10


@says_memory
def seconds_per_step(
    names: Sequence[str], side_by_side: SideBySide, data: TrainingData
) -> dict[str, float]:
    """Seconds of a step per run when all seeds train together: interleaved rounds, medians.

    Experiences are timed one after the other.

    Args:
        names: of the strategies to time.
        side_by_side: where they are, and how they are trained.
        data: for the seeds.
    """
    # what was experienced may fill half of the memory: one more at a time
    together = [[name] for name in names] if data.online else [names]
    return {
        name: seconds
        for some in together
        for name, seconds in _interleaved(some, side_by_side, data).items()
    }


def _interleaved(
    names: Sequence[str], side_by_side: SideBySide, data: TrainingData
) -> dict[str, float]:
    """The seconds of strategies that take turns."""
    cohorts, options = {}, side_by_side.options
    for name in names:
        strategy = side_by_side.fitted[name]
        made = Assembly.of(data, options.batch_size, options.sampling)
        if data.tasks:
            strategy = over_tasks(strategy, made.sampler)
        compile = options.compile and not data.online
        compile = compile and strategy.compiles_on(data.problem.head_set)
        cohorts[name] = Cohort(made, strategy, compile=compile)
    for cohort in cohorts.values():
        cohort.seconds_per_step(WARM_UP)
    times: dict[str, list[float]] = {name: [] for name in cohorts}
    for _ in range(ROUNDS):
        for name, cohort in cohorts.items():
            times[name].append(cohort.seconds_per_step(STEPS_PER_ROUND) / len(data.seeds))
    return {name: statistics.median(found) for name, found in times.items()}
