"""Options that several commands have."""

import ast
from typing import Any

from bilevel.errors import ArgumentError


def parse_option(text: str) -> tuple[str, Any]:
    """`width=128` as ("width", 128); values that are no Python literal stay strings."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ArgumentError(f"Options of a problem are written key=value, got {text!r}.")
    try:
        return key.strip(), ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key.strip(), value


def set_threads(threads: int) -> None:
    """How many threads torch uses from now on."""
    import torch

    if not 1 <= threads <= 1024:
        raise ArgumentError(f"`threads` must be from 1 to 1024, got {threads}.")
    torch.set_num_threads(threads)
