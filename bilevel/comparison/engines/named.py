"""The engine that was meant: by its name, or an executor of the user's own."""

from collections.abc import Callable
from typing import Any

from bilevel.comparison.engines.base import AbstractEngine
from bilevel.comparison.engines.dask import Dask
from bilevel.comparison.engines.executor import Executor
from bilevel.comparison.engines.processes import Processes
from bilevel.comparison.engines.slurm import Slurm
from bilevel.errors import ArgumentError, spell, unknown_name

KINDS: dict[str, Callable[[str], AbstractEngine]] = {
    "processes": Processes.named,
    "dask": Dask.named,
    "slurm": Slurm.named,
    "local": Slurm.local,
}
"""Beginning of a name -> what makes the engine of what follows the colon."""
FORMS = "processes:4, dask:tcp://host:8786, slurm:PARTITION,time=60,mem=8 or local:2"


def engine_of(engine: Any) -> AbstractEngine:
    """The engine that is meant by a name, an executor, or an engine itself.

    Executors are those of `concurrent.futures`, clients, executors and clusters of Dask, those of
    submitit, and whatever else has a method `submit(function, *args)` that returns a future.

    Raises:
        UnknownNameError: no name begins so; the nearest one is shown.
        ArgumentError: it is no engine, or what follows the name is not understood.
        MissingPackageError: its package is not installed; names the extra.
        EngineError: nobody answers there.
    """
    if isinstance(engine, AbstractEngine):
        return engine
    if isinstance(engine, str):
        kind, colon, rest = engine.strip().partition(":")
        if kind not in KINDS:
            error = unknown_name("engine", kind, KINDS)
            raise type(error)(f"{error} An engine is written {FORMS}.")
        if not colon:
            raise ArgumentError(f"`engine` {spell(engine)} lacks what follows the name: {FORMS}.")
        return KINDS[kind](rest)
    origins = {base.__module__.partition(".")[0] for base in type(engine).__mro__}
    if "distributed" in origins:
        return Dask(engine)
    if "submitit" in origins:
        return Slurm(engine)
    if callable(getattr(engine, "submit", None)):
        return Executor(engine)
    raise ArgumentError(
        f"`engine` must be a name ({FORMS}), or have a method `submit`, as executors do; got "
        f"{spell(engine)}."
    )
