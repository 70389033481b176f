"""The engine that was meant: by its name, or an executor of the user's own."""

from collections.abc import Callable
from typing import Any

from bilevel.comparison.engines.base import AbstractEngine
from bilevel.comparison.engines.executor import Executor
from bilevel.comparison.engines.processes import Processes
from bilevel.errors import ArgumentError, spell

KINDS: dict[str, Callable[[str], AbstractEngine]] = {"processes": Processes.named}
"""Beginning of a name -> what makes the engine of what follows the colon."""


def engine_of(engine: Any) -> AbstractEngine:
    """The engine that is meant by a name, an executor, or an engine itself.

    Raises:
        ArgumentError: none is; says what is.
    """
    if isinstance(engine, AbstractEngine):
        return engine
    if isinstance(engine, str):
        kind, _, rest = engine.partition(":")
        if kind in KINDS:
            return KINDS[kind](rest)
    elif callable(getattr(engine, "submit", None)):
        return Executor(engine)
    raise ArgumentError(
        f"`engine` must be a name that begins with {', '.join(f'{kind}:' for kind in KINDS)}, such "
        f'as "processes:4", or have a method `submit`, as executors do; got {spell(engine)}.'
    )
