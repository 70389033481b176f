"""What `bilevel compare` does where little or nothing is asked for."""

import dataclasses
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
    numbers = {key: value for key, value in (FIRST if first else USUAL).items()
               if getattr(command, key) is None}  # fmt: skip
    if not first:
        return dataclasses.replace(command, **numbers)
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


def numbers(command: Any) -> tuple[float, float, int, int]:
    """Rates, seeds and steps of a command that was filled."""
    return command.body_lr, command.head_lr, command.seeds, command.steps
