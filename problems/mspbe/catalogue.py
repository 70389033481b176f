"""The processes by name, for the command line."""

import dataclasses
import functools
from collections.abc import Callable

from bilevel.core.checks import check_positive_integer
from bilevel.errors import check_name
from problems.mspbe.baird import baird
from problems.mspbe.bodies import Layers
from problems.mspbe.boyan import boyan, restarting_chain
from problems.mspbe.linear import LinearEvaluation
from problems.mspbe.neural import Evaluation, NeuralMSPBE
from problems.mspbe.process import MarkovRewardProcess
from problems.mspbe.random_process import random_process
from problems.mspbe.random_walk import random_walk
from problems.mspbe.sources import Known
from problems.mspbe.two_state import two_state
from problems.mspbe.values import LeastSquaresValues, LSTDValues

PROCESSES: dict[str, Callable[[], MarkovRewardProcess]] = {
    "two-state": two_state,
    "random-walk": random_walk,
    "random-walk-inverted": functools.partial(random_walk, features="inverted"),
    "random-walk-dependent": functools.partial(random_walk, features="dependent"),
    "random-walk-19": functools.partial(random_walk, 19, "dependent"),
    "boyan": boyan,
    "baird": baird,
    "random-process": random_process,
    "restarting-chain": restarting_chain,
}
"""Every process of this package, with its default options."""


def process(name: str, discount: float | None = None) -> MarkovRewardProcess:
    """The process of a name.

    Args:
        name: one of `PROCESSES`.
        discount: gamma; None: the one that is usual for it.

    Raises:
        UnknownNameError: there is no such process; the nearest name is shown.
    """
    check_name(name, PROCESSES, "process")
    made = PROCESSES[name]()
    return made if discount is None else dataclasses.replace(made, discount=discount)


def policy_evaluation(
    process: str = "random-walk",
    kind: str = "iid",
    length: int = 2000,
    discount: float | None = None,
) -> LinearEvaluation:
    """The values of a Markov process with linear features: TD, GTD2, TDC, TDRC and LSTD.

    Args:
        process: two-state, random-walk, random-walk-inverted, random-walk-dependent,
            random-walk-19, boyan, baird, random-process or restarting-chain.
        kind: of experience: "iid", "markovian", or "expected" (with `batch_size=None`).
        length: transitions of each seed.
        discount: gamma; None: the one that is usual for the process.

    Raises:
        UnknownNameError: there is no such process, or no such kind of experience.

    Examples:
        >>> import bilevel
        >>> problem = bilevel.load_problem("policy-evaluation", process="boyan", length=100)
        >>> list(problem.strategies(0.01, 0.1))
        ['TD', 'GTD2', 'TDC', 'TDRC', 'LSTD', 'LSTD ridge']
    """
    return LinearEvaluation(Known(_process(process, discount), kind, length))  # type: ignore[arg-type]


def neural_policy_evaluation(
    process: str = "random-process",
    objective: str = "mspbe",
    kind: str = "iid",
    length: int = 2000,
    discount: float | None = None,
    width: int = 5,
    depth: int = 1,
    activation: str = "tanh",
) -> Evaluation:
    """The values of a Markov process with features that are learned: neural TDC, LSTD heads.

    Args:
        process: as for `policy_evaluation`.
        objective: of the body. "mspbe": of the head too (neural TDC); "msve" or "msbe": over an
            LSTD head; "least squares": of the head too, on the true values.
        kind: of experience: "iid", "markovian", or "expected" (with `batch_size=None`).
        length: transitions of each seed.
        discount: gamma; None: the one that is usual for the process.
        width: of all layers.
        depth: how many layers.
        activation: relu, tanh, softplus, silu or gelu.

    Raises:
        UnknownNameError: there is no such process, objective, kind or activation.

    Examples:
        >>> import bilevel
        >>> problem = bilevel.load_problem("neural-policy-evaluation", objective="msve", length=100)
        >>> problem.is_stackelberg    # F is the value error, g that of the LSTD head
        False
    """
    source = Known(_process(process, discount), kind, length)  # type: ignore[arg-type]
    check_positive_integer(depth, "`depth`")
    check_name(objective, ("mspbe", "msve", "msbe", "least squares"), "objective")
    network = Layers(source.columns, (width,) * depth, activation)
    if objective == "mspbe":
        return NeuralMSPBE(source, network)
    if objective == "least squares":
        return LeastSquaresValues(source, network)
    return LSTDValues(objective, source, network)  # type: ignore[arg-type]


_process = process  # the option has the name of the function
