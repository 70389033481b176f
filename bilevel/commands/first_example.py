"""What `bilevel compare` does where little or nothing is asked for."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

Command = TypeVar("Command", bound=Any)
"""`Compare`, which imports this file."""

USUAL = {"body_lr": 5e-4, "head_lr": 5e-3, "seeds": 20, "steps": 1500}
FIRST = {"body_lr": 5e-3, "head_lr": 1e-2, "seeds": 10, "steps": 600}
"""Without a problem: twenty seconds, and on these seeds no strategy overfits or diverges."""
PROBLEM, OPTION = "friedman1", "ridge=1e-2"


def filled(command: Command) -> Command:
    """The command with everything said; the first example, if no problem is."""
    first = not command.problem and command.csv is None
    if not first:  # what is left out is asked of the problem
        return command
    numbers = {key: value for key, value in FIRST.items() if getattr(command, key) is None}
    return dataclasses.replace(command, problem=PROBLEM, set=(OPTION, *command.set), **numbers)


def spelled(command: Any) -> list[str]:
    """The words that ask for a command again, whatever is not asked for in later versions."""
    words = ["bilevel", "compare", command.problem]
    for field in dataclasses.fields(command):
        value = getattr(command, field.name)
        if field.name in ("problem", "output", "resume") or value == field.default:
            continue
        words.append(f"--{field.name.replace('_', '-')}")
        words += map(str, value) if isinstance(value, tuple) else [str(value)] * (value is not True)
    return words


def numbers(
    command: Any, usual: Mapping[str, float] | None = None
) -> tuple[float, float, int, int]:
    """Rates, seeds and steps: as asked for, as they are `usual` for the problem, or for all."""
    asked = {key: getattr(command, key) for key in USUAL}
    known = {**USUAL, **(usual or {}), **{k: x for k, x in asked.items() if x is not None}}
    return known["body_lr"], known["head_lr"], int(known["seeds"]), int(known["steps"])
