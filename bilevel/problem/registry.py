"""Problems and commands that installed packages offer, by entry points.

A package registers a problem with

    [project.entry-points."bilevel.problems"]
    my-problem = "my_package.my_module:my_factory"

where the factory takes keyword options and returns a problem; its docstring's first line is what
`bilevel problems` shows. Options without a default are what it cannot do without. Commands are
registered under `bilevel.commands` and take the list of their arguments.
"""

import contextlib
import importlib.util
import inspect
import weakref
from collections.abc import Callable
from importlib import metadata
from importlib.machinery import ModuleSpec
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
    package = found.module.partition(".")[0]
    spec = importlib.util.find_spec(package)
    if spec is not None and package != found.module and spec.submodule_search_locations is None:
        # found before it is imported: a script of that name would run once more
        raise _in_the_way(name, found, f"{package} is no package", spec)
    try:
        return found.load()  # type: ignore[no-any-return]
    except (ImportError, AttributeError) as error:
        raise _in_the_way(name, found, str(error), spec) from error


def _in_the_way(
    name: str, found: metadata.EntryPoint, why: str, spec: ModuleSpec | None
) -> ProblemError:
    """The error for a module that is not what was registered."""
    where = f" `{spec.name}` is imported from {spec.origin}." if spec and spec.origin else ""
    return ProblemError(
        f"{name!r} is registered as {found.value}, which cannot be imported: {why}.{where} "
        "If that is a file of yours, rename it, or run the `bilevel` command instead of "
        "`python -m bilevel`."
    )


def load_problem(name: str, /, **options: Any) -> Any:
    """A problem by its name: one of those that `bilevel problems` lists.

    Args:
        name: a registered name; packages register theirs by the entry-point group
            `bilevel.problems`.
        **options: keyword options of its factory, such as `ridge=1e-3`; its page says which.

    Returns:
        The problem, a new object each time.

    Raises:
        UnknownNameError: the name is not registered, or an option is not known; the nearest one
            is shown.
        ArgumentError: an option is missing, or its value is refused.
        MissingDataError: it needs data that are not here.
        ProblemError: its module cannot be imported: a file of yours has its name, say, which is
            named then.

    Examples:
        >>> import bilevel
        >>> bilevel.load_problem("scalar-product", ridge=2.0).ridge
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
            f"{' '.join(f'{option}=...' for option in lacking)}, in Python "
            f"load_problem({name!r}, {', '.join(f'{option}=...' for option in lacking)})."
        )
    try:
        made = factory(**options)
    except TypeError as error:
        raise ArgumentError(f"{name} refuses {options}: {error}") from error
    with contextlib.suppress(TypeError):  # what knows no weak references
        place = id(made)
        _ORIGINS[place] = weakref.ref(made, lambda _: _ORIGINS.pop(place, None)), name, options
    return made


_ORIGINS: dict[int, tuple[weakref.ref[Any], str, dict[str, Any]]] = {}


def origin(problem: object) -> tuple[str, dict[str, Any]] | None:
    """The name and the options that `load_problem` made an object with; it may have been changed.

    None: it was made otherwise.
    """
    found = _ORIGINS.get(id(problem))
    return None if found is None or found[0]() is not problem else found[1:]


def options_of(factory: Callable[..., Any]) -> dict[str, Any]:
    """The options of a factory with their defaults; `REQUIRED` where there is none."""
    return {p.name: p.default for p in inspect.signature(factory).parameters.values()}


def required_options(factory: Callable[..., Any]) -> list[str]:
    """The options that have no default."""
    return [name for name, default in options_of(factory).items() if default is REQUIRED]


def summary(factory: Callable[..., Any]) -> str:
    """The first line of a factory's docstring."""
    return (inspect.getdoc(factory) or "").partition("\n")[0]
