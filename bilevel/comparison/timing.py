"""Seconds of a step."""

import statistics
from collections.abc import Mapping

from bilevel.comparison.side_by_side import Options
from bilevel.data.training_data import TrainingData
from bilevel.problem.base import StackelbergProblem
from bilevel.strategies import AbstractStrategy
from bilevel.training.cohort import Cohort

WARM_UP, ROUNDS, STEPS_PER_ROUND = 10, 5, 10


def seconds_per_step(
    problem: StackelbergProblem,
    strategies: Mapping[str, AbstractStrategy],
    data: TrainingData,
    options: Options,
) -> dict[str, float]:
    """Seconds of a step per run when all seeds train together: interleaved rounds, medians.

    The strategies are those that are `fitted` to the problem.
    """
    how = options.batch_size, options.sampling
    trainings = {
        name: Cohort(problem, strategy, data, *how, compile=options.compile and strategy.compilable)
        for name, strategy in strategies.items()
    }
    for training in trainings.values():
        training.seconds_per_step(WARM_UP)
    times: dict[str, list[float]] = {name: [] for name in trainings}
    for _ in range(ROUNDS):
        for name, training in trainings.items():
            times[name].append(training.seconds_per_step(STEPS_PER_ROUND) / len(data.seeds))
    return {name: statistics.median(found) for name, found in times.items()}
