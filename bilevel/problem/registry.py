"""Problems and commands that installed packages offer, by entry points.

A package registers a problem with

    [project.entry-points."bilevel.problems"]
    my-problem = "my_package.my_module:my_factory"

where the factory takes keyword options and returns a problem; its docstring's first line is what
`bilevel problems` shows. Options without a default are what it cannot do without. Commands are
registered under `bilevel.commands` and take the list of their arguments.
"""

import importlib.util
import inspect
from collections.abc import Callable
from importlib import metadata
from typing import Any

from bilevel.errors import ArgumentError, ProblemError, check_name

PROBLEMS, COMMANDS = "bilevel.problems", "bilevel.commands"
REQUIRED = inspect.Parameter.empty


def names(group: str = PROBLEMS) -> list[str]:
    """The registered names, sorted; nothing is imported."""
    return sorted({entry.name for entry in metadata.entry_points(group=group)})


def entry(name: str, group: str = PROBLEMS) -> metadata.EntryPoint:
    """What is registered under a name; nothing is imported.

    Raises:
        UnknownNameError: nothing is registered under it; the nearest name is shown.
    """
    entries = {entry.name: entry for entry in metadata.entry_points(group=group)}
    check_name(name, entries, "problem" if group == PROBLEMS else "command")
    return entries[name]


def load(name: str, group: str = PROBLEMS) -> Callable[..., Any]:
    """The factory (or command) of a name.

    Raises:
        UnknownNameError: nothing is registered under it; the nearest name is shown.
        ProblemError: its module cannot be imported; the file that is in the way is named.
    """
    found = entry(name, group)
    try:
        return found.load()  # type: ignore[no-any-return]
    except (ImportError, AttributeError) as error:
        spec = importlib.util.find_spec(found.module.partition(".")[0])
        where = f" `{spec.name}` is imported from {spec.origin}." if spec and spec.origin else ""
        raise ProblemError(
            f"{name!r} is registered as {found.value}, which cannot be imported: {error}.{where} "
            "If that is a file of yours, rename it, or run the `bilevel` command instead of "
            "`python -m bilevel`."
        ) from error


def make(name: str, /, **options: Any) -> Any:
    """The problem of a name.

    Args:
        name: a registered name.
        **options: keyword options of its factory.

    Raises:
        UnknownNameError: the name is not registered, or an option is not known.
        ArgumentError: an option is missing, or its value is refused.
        MissingDataError: it needs data that are not here.

    Examples:
        >>> from bilevel.problem import registry
        >>> registry.make("scalar-product", ridge=2.0).ridge
        2.0
    """
    factory = load(name)
    known = options_of(factory)
    for option in options:
        check_name(option, known, f"option of {name}")
    lacking = [option for option in required_options(factory) if option not in options]
    if lacking:
        raise ArgumentError(
            f"{name} cannot do without {' and '.join(lacking)}: on the command line --set "
            f"{' '.join(f'{option}=...' for option in lacking)}."
        )
    try:
        return factory(**options)
    except TypeError as error:
        raise ArgumentError(f"{name} refuses {options}: {error}") from error


def options_of(factory: Callable[..., Any]) -> dict[str, Any]:
    """The options of a factory with their defaults; `REQUIRED` where there is none."""
    return {p.name: p.default for p in inspect.signature(factory).parameters.values()}


def required_options(factory: Callable[..., Any]) -> list[str]:
    """The options that have no default."""
    return [name for name, default in options_of(factory).items() if default is REQUIRED]


def summary(factory: Callable[..., Any]) -> str:
    """The first line of a factory's docstring."""
    return (inspect.getdoc(factory) or "").partition("\n")[0]
