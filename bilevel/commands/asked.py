"""What `bilevel compare` was asked for: problem, strategies, and the model that it leaves.

A `command` is a `Compare` that was filled; its file imports this one.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import bilevel
from bilevel.commands.first_example import numbers
from bilevel.comparison.best_run import best_run, trained_again
from bilevel.comparison.engines.base import AbstractEngine
from bilevel.comparison.engines.named import engine_of
from bilevel.comparison.result import Comparison
from bilevel.core.checks import check_instance
from bilevel.data.training_data import is_online
from bilevel.errors import AllRunsFailedError, ArgumentError
from bilevel.problem import registry
from bilevel.problem.base import StackelbergProblem
from bilevel.strategies import AbstractStrategy
from bilevel.strategies.presets import by_name
from bilevel.tables.model import MakesModels, Model

HERE = "none"
"""The engine of who goes on in this process with what another one left."""


@contextmanager
def engine_used(name: str, threads: int) -> Iterator[AbstractEngine | None]:
    """The engine of that name, with so many threads in every worker; None: this process."""
    if name in ("", HERE):
        yield None
        return
    engine = engine_of(name)
    engine.threads = threads
    try:
        yield engine
    finally:
        engine.close()


def problem_of(command: Any, options: Mapping[str, Any]) -> StackelbergProblem:
    """The problem, with its options."""
    problem = registry.load_problem("table" if command.csv else command.name, **options)
    check_instance(problem, StackelbergProblem, "problem", "an instance of your problem")
    return problem  # type: ignore[no-any-return]


def strategies_of(command: Any, problem: StackelbergProblem) -> dict[str, AbstractStrategy]:
    """The strategies by name: those of the problem, or presets.

    Raises:
        ArgumentError: an option was asked for that the problem would not look at.
    """
    if is_online(problem):
        _refuse(command, ("batch_size", "sampling"), "makes the rows of its steps itself")
    optimizers = (bilevel.RMSProp, bilevel.Adam, bilevel.AdamW, bilevel.SGD)
    by_word = {part.__name__.lower(): part for part in optimizers}
    optimizer: bilevel.AbstractOptimizer = by_word[command.optimizer]()
    if command.clip is not None:
        optimizer = bilevel.Clipped(command.clip, optimizer)
    body_lr, head_lr, _, _ = numbers(command, problem.usual)
    strategies = problem.strategies(body_lr, head_lr)
    if strategies is None:
        return bilevel.preset_strategies(
            body_lr,
            head_lr,
            order=command.order,
            optimizer=optimizer,
            names=command.strategies or None,
        )
    _refuse(command, ("order", "optimizer", "clip"), "has strategies of its own")
    asked = command.strategies or tuple(strategies)
    return by_name(strategies, asked, f"strategy of {command.name}")


def _refuse(command: Any, names: Iterable[str], why: str) -> None:
    """Raise for options that were asked for and would change nothing."""
    plain = {field.name: field.default for field in dataclasses.fields(command)}
    if asked := [name for name in names if getattr(command, name) != plain[name]]:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in asked)
        raise ArgumentError(
            f"{command.name} {why}: leave out {options}. It has options of its own for --set, "
            "which `bilevel problems` lists."
        )


def model_of(command: Any, comparison: Comparison) -> Model | str:
    """What the best run learned of a table; where there is none, why."""
    problem = problem_of(command, command.options())
    if not isinstance(problem, MakesModels):
        return ""
    run = best_run(comparison)
    if run is None:
        return "No model is kept: without validation rows only test rows could choose it."
    try:
        trained = trained_again(comparison, run, problem, strategies_of(command, problem))
    except AllRunsFailedError:
        return f"No model is kept: {run.strategy!r} from seed {run.seed} diverged the second time."
    about = {
        "said": f"{run.strategy} (seed {run.seed}, step {run.step}, chosen by validation rows)",
        "problem": comparison.problem,
        **run._asdict(),
    }
    return problem.model(run.seed, *trained, about)
