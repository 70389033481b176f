"""What follows the name of an engine: key=value, separated by commas."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from bilevel.errors import ArgumentError, spell, unknown_name


class Option(NamedTuple):
    """What an option is.

    Attributes:
        kind: int, float or str; numbers are positive.
        says: what it means, for messages.
    """

    kind: type
    says: str


def options_of(text: str, known: Mapping[str, Option], form: str) -> dict[str, Any]:
    """The options that a text such as "time=60,mem=8" gives.

    Args:
        text: what was typed; "" has none.
        known: the options by name.
        form: how all of it is written, for messages.

    Raises:
        UnknownNameError: an option is not known; the nearest one is shown.
        ArgumentError: a value cannot be what it is to be, or an option has none, or two.
    """
    found: dict[str, Any] = {}
    for part in text.split(",") if text else ():
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not key or not value:
            raise ArgumentError(
                f"`engine` is written {form}: options are key=value, got {spell(part)}."
            )
        if key not in known:
            raise unknown_name("option", key, known, " of this engine")
        if key in found:
            raise ArgumentError(f"`engine` is given {key}= twice: leave out one.")
        found[key] = _value(key, value, known[key])
    return found


def _value(key: str, value: str, option: Option) -> Any:
    if option.kind is str:
        return value
    try:
        number = option.kind(value)
    except ValueError:
        number = math.nan
    if not 0 < number < 10**6:
        whole = "a whole number" if option.kind is int else "a number"
        raise ArgumentError(
            f"`engine` needs {whole} above 0 for {key} ({option.says}), got {spell(value)}."
        )
    return number
