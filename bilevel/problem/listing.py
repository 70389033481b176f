"""What registered problems are: read from their source, as importing torch takes seconds."""

import ast
import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

from bilevel.problem import registry


class Listing(NamedTuple):
    """What a list of problems says of one.

    Attributes:
        summary: the first line of the factory's docstring.
        options: its options and their defaults; `registry.REQUIRED` where there is none.
    """

    summary: str
    options: dict[str, Any]


def listing(name: str) -> Listing:
    """The listing of a registered problem.

    Its factory is read where it is a plain function whose defaults are literals; others are
    imported.

    Raises:
        UnknownNameError: nothing is registered under the name.
        ProblemError: it cannot be read, and its module cannot be imported.
    """
    entry = registry.entry(name)
    read = _read(_function(entry.module, entry.attr))
    if read is not None:
        return read
    factory = registry.load(name)
    return Listing(registry.summary(factory), registry.options_of(factory))


def _read(function: ast.FunctionDef | None) -> Listing | None:
    """What a definition says; None: that cannot be told without running it."""
    if function is None or function.decorator_list:
        return None
    given = function.args
    if given.posonlyargs or given.vararg or given.kwarg:
        return None
    needed = [registry.REQUIRED] * (len(given.args) - len(given.defaults))
    names = [argument.arg for argument in (*given.args, *given.kwonlyargs)]
    try:
        defaults = [
            registry.REQUIRED if default is None else ast.literal_eval(default)
            for default in (*given.defaults, *given.kw_defaults)
        ]
    except ValueError:
        return None
    summary = (ast.get_docstring(function) or "").partition("\n")[0]
    return Listing(summary, dict(zip(names, [*needed, *defaults], strict=True)))


def _function(module: str, name: str) -> ast.FunctionDef | None:
    """The definition of a function at the top level of a module, or of where that has it from."""
    path = _source(module)
    if path is None:
        return None
    for node in reversed(ast.parse(path.read_bytes()).body):
        if name in _bound(node):
            return None
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return node
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                if name == (alias.asname or alias.name):
                    return _function(node.module, alias.name)
    return None


def _bound(node: ast.stmt) -> set[str]:
    """The names that a statement gives a value, but for definitions of functions and imports."""
    if isinstance(node, ast.FunctionDef | ast.ImportFrom):
        return set()
    names = {
        x.id for x in ast.walk(node) if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store)
    }
    return names | {node.name} if isinstance(node, ast.ClassDef) else names


def _source(module: str) -> Path | None:
    """The file of a module, whose package is not imported."""
    package, *inside = module.split(".")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin)
    if inside:
        path = path.parent.joinpath(*inside)
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return path if path.suffix == ".py" and path.is_file() else None
