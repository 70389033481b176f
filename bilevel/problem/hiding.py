"""Methods of a problem, which data under their names would hide."""

import inspect

from bilevel.errors import ProblemError


def refuse_hiding(problem: type, name: str, value: object) -> None:
    """Raise if `value`, data, would take the place of a method that the library calls.

    Functions and descriptors may: they are how methods are overridden.

    Args:
        problem: the class.
        name: of the attribute.
        value: what it is to be.

    Raises:
        ProblemError: it would.
    """
    if callable(value) or hasattr(type(value), "__get__"):
        return
    for base in problem.__mro__:
        if base.__module__.startswith("bilevel.") and inspect.isfunction(vars(base).get(name)):
            raise ProblemError(
                f"`{name}` of {problem.__name__} is {type(value).__name__}, which would hide the "
                f"method of {base.__name__} of that name. Define the method, or choose another "
                "name for the data."
            )
