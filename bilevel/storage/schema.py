"""What files that are read back must hold: schemas, and the one check of them.

A schema is a plain value:

- a type: `str`, `bool`, `int` (a bool is none), `float` (any number); `object`: anything;
- None, or a text: that very value; a range: a whole number in it;
- a tuple of schemas: what one of them says; `[schema]`: a list of such;
- `{"key": schema, "other?": schema, "*": schema}`: an object with these keys. Those with a question
  mark may be missing; "*" stands for keys of any name, of which there are none without it.
"""

import reprlib
import sys
from pathlib import Path
from typing import Any

from bilevel.errors import ResultsError

Schema = Any
ANYTHING: Schema = {"*": object}
NATURAL = range(10**60)
"""A count, a step or a seed."""
_WORDS = {str: "a text", bool: "true or false", int: "a whole number", float: "a number",
          list: "a list", dict: "an object", object: "anything"}  # fmt: skip


def check(value: object, schema: Schema, path: Path, remedy: str) -> None:
    """Raise unless the content of a file is what its schema says.

    Raises:
        ResultsError: It is not; names the file, the place in it, what is there and what should be,
            and ends with the `remedy`.
    """
    wrong = _mismatch(value, schema, "")
    if wrong:
        raise ResultsError(f"{path} is malformed: {wrong}. It was edited or cut off. {remedy}")


def _mismatch(value: Any, schema: Schema, place: str) -> str | None:
    """The first place where a value is not what its schema says, and why, in words."""
    if isinstance(schema, dict) and isinstance(value, dict):
        known = {key.removesuffix("?"): part for key, part in schema.items()}
        for key in known.keys() - value.keys() - {"*"}:
            if key in schema:
                return f"`{_below(place, key)}` is missing, expected {_said(schema[key])}"
        for key in value:
            if key not in known and "*" not in known:
                return f"`{_below(place, key)}` is not known, expected {', '.join(known)} only"
        parts = [(_below(place, k), x, known.get(k, known.get("*"))) for k, x in value.items()]
    elif isinstance(schema, list) and isinstance(value, list):
        parts = [(f"{place}[{i}]", x, schema[0]) for i, x in enumerate(value)]
    elif _fits(value, schema):
        return None
    else:
        found = "null" if value is None else f"{reprlib.repr(value)} ({_WORDS[type(value)]})"
        return f"`{place}` is {found}, expected {_said(schema)}"
    wrong = (_mismatch(x, part, where) for where, x, part in parts)
    return next(filter(None, wrong), None)


def _fits(value: Any, schema: Schema) -> bool:
    """The same of what is neither a list nor an object, or may be one."""
    if isinstance(schema, tuple):
        return any(_mismatch(value, part, "") is None for part in schema)
    if isinstance(schema, range):
        return type(value) is int and value in schema
    if schema is None or isinstance(schema, str):
        return type(value) is type(schema) and value == schema
    if schema is float and type(value) is int:
        return abs(value) <= sys.float_info.max
    return schema is object or type(value) is schema


def _below(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def _said(schema: Schema) -> str:
    """A schema in words."""
    if schema is None or isinstance(schema, str):
        return "null" if schema is None else repr(schema)
    if isinstance(schema, range):
        return f"a whole number from {schema.start}"
    if isinstance(schema, tuple):
        return " or ".join(map(_said, schema))
    if isinstance(schema, list):
        return f"a list of {_said(schema[0]).removeprefix('a ')}"
    return _WORDS[dict if isinstance(schema, dict) else schema]
