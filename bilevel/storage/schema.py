"""What files that are read back must hold: schemas, and the one check of them.

A schema is a plain value: a type (`float` is any number, `object` anything, a bool no int); a text
or None, that very value; a range, a whole number in it; a tuple, what one of its schemas says;
`[schema]`, a list of such; or `{"key": schema, "other?": schema, "begin*": schema}`, an object with
these keys, where a question mark says "if it is there", and a star "all others that begin so".
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
WORDS = {
    str: "a text", bool: "true or false", int: "a whole number", range: "a whole number from 0",
    float: "a number", list: "a list", dict: "an object", type(None): "null",
}  # fmt: skip


def check(value: object, schema: Schema, path: Path, remedy: str) -> None:
    """Raise unless the content of a file is what its schema says.

    Raises:
        ResultsError: It is not; names the file, the place in it, what is there and what should be,
            and ends with the `remedy`.
    """
    if wrong := _mismatch(value, schema, ""):
        raise ResultsError(f"{path} is malformed: {wrong}. It was edited or cut off. {remedy}")


def _mismatch(value: Any, schema: Schema, place: str) -> str | None:
    """The first place where a value is not what its schema says, and why, in words."""
    if isinstance(schema, dict) and isinstance(value, dict):
        parts = [(f"{place}.{key}".lstrip("."), x, _named(schema, key)) for key, x in value.items()]
        missing = (key for key in schema if not key.endswith(("?", "*")) and key not in value)
        parts += [(f"{place}.{key}".lstrip("."), ..., schema[key]) for key in missing]
    elif isinstance(schema, list) and isinstance(value, list):
        parts = [(f"{place}[{i}]", x, schema[0]) for i, x in enumerate(value)]
    elif _fits(value, schema):
        return None
    elif value is ... or schema is ...:
        return f"`{place}` is {'missing' if value is ... else 'not known'}"
    else:
        found = "null" if value is None else f"{reprlib.repr(value)} ({WORDS[type(value)]})"
        return f"`{place}` is {found}, expected {_said(schema)}"
    found_in = (_mismatch(x, part, where) for where, x, part in parts)
    return next(filter(None, found_in), None)


def _named(schema: dict[str, Schema], key: str) -> Schema:
    """The schema of a key; an ellipsis where it should not be there."""
    begins = (s for k, s in schema.items() if k.endswith("*") and key.startswith(k[:-1]))
    return schema.get(key, schema.get(f"{key}?", next(begins, ...)))


def _fits(value: Any, schema: Schema) -> bool:
    """Whether a value is what its schema says; what is in it is looked at elsewhere."""
    if isinstance(schema, tuple):
        return any(_mismatch(value, part, "") is None for part in schema)
    if schema is float and type(value) is int:
        return abs(value) <= sys.float_info.max
    if isinstance(schema, range):
        return type(value) is int and value in schema
    if schema is None or isinstance(schema, str):
        return type(value) is type(schema) and value == schema
    return value is not ... and (schema is object or type(value) is schema)


def _said(schema: Schema) -> str:
    """A schema in words."""
    if isinstance(schema, tuple | str):
        return repr(schema) if isinstance(schema, str) else " or ".join(map(_said, schema))
    return WORDS[schema if isinstance(schema, type) else type(schema)]
