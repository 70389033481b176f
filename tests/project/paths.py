"""Follow a problem through `solve`, and strategies through `compare`, call by call.

    python tests/project/paths.py

prints the calls in `bilevel` to which the problem (a strategy) is handed: as an argument, or as the
object whose method it is. A call of one function by another counts once, what a comprehension
calls as called by the function around it. A call goes up if the function lies in a higher layer of
docs/design.md than the one of the line before.
"""

import itertools
import sys
import warnings
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import layers

import bilevel
from problems.regression import diabetes

LIBRARY = layers.ROOT / "bilevel"
USERS = str(LIBRARY / "problem/network/hidden_layers.py")
"""The hooks of the problem that is followed: in the place of what users write."""
Calls = list[tuple[str, str]]
OPTIONS = {"seeds": 2, "steps": 3}


def name(frame: FrameType | None) -> str:
    """A function of the library by its file and name; that of the user, if there is none."""
    while frame is not None:
        code = frame.f_code
        own = _in_library(code.co_filename)
        if own and not code.co_qualname.endswith(">"):  # <listcomp>, <genexpr> and <lambda>
            return f"{code.co_filename[len(str(LIBRARY)) + 1 : -3]}.{code.co_qualname}"
        frame = frame.f_back
    return "user"


def _in_library(file: str) -> bool:
    return file.startswith(f"{LIBRARY}/") and file != USERS


def walk(concerns: Callable[[Any], bool], function: Callable[[], object]) -> Calls:
    """The calls that are handed something of concern while `function` runs, in their order."""
    found: dict[tuple[str, str], None] = {}

    def look(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event != "call" or not _in_library(code.co_filename):
            return
        given = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        if not code.co_qualname.endswith(">") and any(
            concerns(frame.f_locals.get(argument)) for argument in given
        ):
            found[name(frame.f_back), name(frame)] = None

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        function()
    finally:
        sys.setprofile(before)
    return list(found)


def ups(calls: Calls) -> int:
    """How many of them go up a layer."""
    numbers = {folder: number for number, names in layers.bands() for folder in names}
    heights = [numbers[called.split("/")[0].split(".")[0]] for _, called in calls]
    return sum(above > below for below, above in itertools.pairwise(heights))


def of_problem(strategy: bilevel.AbstractStrategy) -> Calls:
    """The path of a problem through `solve`."""
    problem = diabetes(width=8)
    return walk(lambda x: x is problem, lambda: bilevel.solve(problem, strategy, **OPTIONS))


def of_strategies() -> Calls:
    """The path of strategies, and of a dictionary of them, through `compare`."""
    kind, problem = bilevel.AbstractStrategy, diabetes(width=8)
    given = {"two": bilevel.TwoTimescale(1e-3, 1e-2), "exact": bilevel.BestResponse(1e-3)}

    def concerns(x: Any) -> bool:
        several = isinstance(x, Mapping) and bool(x)
        return isinstance(x, kind) or (several and all(isinstance(y, kind) for y in x.values()))

    return walk(concerns, lambda: bilevel.compare(problem, given, **OPTIONS))


PATHS: dict[str, Callable[[], Calls]] = {
    "A problem through solve, TwoTimescale": lambda: of_problem(bilevel.TwoTimescale(1e-3, 1e-2)),
    "A problem through solve, BestResponse": lambda: of_problem(bilevel.BestResponse(1e-3)),
    "Strategies through compare": of_strategies,
}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for title, path in PATHS.items():
        calls = path()
        print(f"{title}: {len(calls)} calls, {ups(calls)} of them up")
        for number, (caller, called) in enumerate(calls, 1):
            print(f"{number:4} {caller} -> {called}")
