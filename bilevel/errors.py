"""Every error the library raises on purpose.

Each derives from `BilevelError` and from the builtin that fits it, so that both `except
BilevelError` and `except ValueError` do what one expects. Numerical trouble of a single run is not
an error but a `bilevel.Status`.
"""

import difflib
from collections.abc import Iterable
from typing import Any

LONGEST = 100
"""Characters of a value that messages show."""


class BilevelError(Exception):
    """Base class of all errors of this library."""


class ArgumentError(BilevelError, ValueError):
    """An argument has a value that cannot work (a negative step size, zero seeds)."""


class ShapeError(BilevelError, ValueError):
    """A tensor has the wrong shape."""


class DataError(BilevelError, ValueError):
    """The data of a problem cannot be used: empty, not finite, constant targets."""


class MissingDataError(DataError):
    """The data of a problem are not on this machine; the message says where they can come from."""


class MissingPackageError(BilevelError, ImportError):
    """An optional package is not installed; the message says how to install it."""


class ProblemError(BilevelError, TypeError):
    """A problem's functions do not return what the contract asks for."""


class FinalMethodError(BilevelError, TypeError):
    """A subclass overrides a method that the library relies on."""


class IncompatibleError(BilevelError, TypeError):
    """Two parts do not go together (an `Envelope` gradient for a true bilevel problem)."""


class SingularHeadError(BilevelError, ArithmeticError):
    """The head has no unique minimiser: its Hessian is singular or indefinite."""


class InexactHeadError(BilevelError, ArithmeticError):
    """A head does not satisfy its optimality condition well enough for an implicit gradient."""


class UnknownNameError(BilevelError, LookupError):
    """A name is not known; the message shows the nearest one."""


def unknown_name(
    kind: str, name: object, known: Iterable[str], where: str = ""
) -> UnknownNameError:
    """The error for a name that is not among `known`, with the nearest one.

    Args:
        kind: what is looked for, such as "problem".
        name: what was given.
        known: the names there are.
        where: for the message, such as " in the table".

    Returns:
        The error, to be raised.

    Raises:
        nothing: what it makes is raised by the caller.

    Examples:
        >>> from bilevel.errors import unknown_name
        >>> print(unknown_name("problem", "friedman", ["friedman1", "digits"]))
        There is no problem 'friedman'. Did you mean 'friedman1'? Known: digits, friedman1.
    """
    names = sorted(known)
    text = name[:LONGEST] if isinstance(name, str) else ""
    near = difflib.get_close_matches(text, names, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    listed = ", ".join(repr(one) if "," in one else one for one in names)
    return UnknownNameError(f"There is no {kind} {spell(name)}{where}.{hint} Known: {listed}.")


def check_name(name: Any, known: Iterable[str], kind: str) -> None:
    """Raise an `UnknownNameError` unless `name` is among those `known`."""
    if not isinstance(name, str) or name not in known:
        raise unknown_name(kind, name, known)


def counted(count: int, noun: str) -> str:
    """A number and what is counted: one of it has no s."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def spell(value: object) -> str:
    """What was given, for a message: on one line, and not a page of it."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # integers of thousands of digits have no repr, nor need other objects
        text = f"an object of {type(value).__name__}"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


class AllRunsFailedError(BilevelError, RuntimeError):
    """Every run of a training failed; `solution` holds what was recorded."""

    def __init__(self, message: str, solution: object = None) -> None:
        super().__init__(message)
        self.solution = solution


class NotEnoughMemoryError(BilevelError, MemoryError):
    """Memory ran out; the message says what to compute less of at once."""


class EngineError(BilevelError, RuntimeError):
    """The engine of a comparison is gone, or could not compute a shard; what is done is kept."""


class CheckError(BilevelError, AssertionError):
    """A conformance check of `bilevel.testing` found something that is wrong."""


class ResultsError(BilevelError, ValueError):
    """A results folder is incomplete or malformed."""


class ResultsExistError(BilevelError, FileExistsError):
    """A results folder exists already; results are never overwritten."""


class ResultsInUseError(ResultsError):
    """Another comparison works in the folder, in this process or in the one that is named."""


class UnwritableError(ResultsError, OSError):
    """A file cannot be written: the disk is full, say, or it is not allowed."""
