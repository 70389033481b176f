"""Options that several commands have."""

import ast
from collections.abc import Iterable
from pathlib import Path
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


def options_of(
    problem: str, csv: Path | None, target: str, given: Iterable[str]
) -> tuple[str, dict[str, Any]]:
    """The problem's name and its options; a file of one's own is the problem `table`."""
    options = dict(parse_option(option) for option in given)
    if csv is None:
        if target:
            raise ArgumentError("--target names a column of a file: give --csv FILE too.")
        return problem, options
    if problem:
        raise ArgumentError(
            f"--csv takes the place of a problem: leave out either {problem!r} or --csv."
        )
    if not target:
        raise ArgumentError("--csv needs --target COLUMN, the column to predict.")
    for name in {"file", "target"} & set(options):
        raise ArgumentError(f"--set {name}=... contradicts --csv and --target: leave it out.")
    return "table", {"file": str(csv), "target": target, **options}


def set_threads(threads: int) -> None:
    """How many threads torch uses from now on."""
    import torch

    if not 1 <= threads <= 1024:
        raise ArgumentError(f"`threads` must be from 1 to 1024, got {threads}.")
    torch.set_num_threads(threads)
