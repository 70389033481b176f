"""Hyper-parameters as tensors with a run axis.

Strategies, head solvers, optimisers and schedules are frozen dataclasses. Their floats and tensors
are numbers, which may differ from run to run; nested parts are looked into; everything else is
static. Objects of equal `structure` can therefore be stacked and trained as one.
"""

import dataclasses
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from bilevel.core.checks import Number

Part = TypeVar("Part")

_MODULES = re.compile(r"\bbilevel\.(?:[a-z_][a-z_0-9]*\.)+(?=[A-Za-z_])")


def is_number(value: object) -> bool:
    """Whether a field is a number that may have a run axis (integers are static)."""
    return isinstance(value, float | Tensor)


def is_part(value: object) -> bool:
    """Whether a field is itself made of hyper-parameters."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def structure(part: Any) -> Hashable:
    """Class, static fields and nested structures: what two parts must share to be stacked."""
    described: list[Any] = [type(part)]
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if field.metadata.get("added") and value == field.default:
            continue  # files of versions without the field stay readable
        if is_number(value):
            described.append((field.name, "number"))
        elif is_part(value):
            described.append((field.name, structure(value)))
        else:
            described.append((field.name, value if isinstance(value, Hashable) else id(value)))
    return tuple(described)


def numbers(part: Any) -> Iterator[Number]:
    """All numbers of a part, in the order of its fields."""
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if is_number(value):
            yield value
        elif is_part(value):
            yield from numbers(value)


def run_counts(found: Iterable[Number]) -> set[int]:
    """The lengths of those numbers that are (R,)."""
    return {len(x) for x in found if isinstance(x, Tensor) and x.ndim == 1}


def spelled(described: Hashable) -> str:
    """A structure as text: what a stored state must fit in every process.

    Parts of the library are spelled without their modules, so that files outlive a module.
    """

    def spell(value: Any) -> str:
        if isinstance(value, tuple):
            return f"({', '.join(map(spell, value))})"
        if callable(value) and hasattr(value, "__qualname__"):
            return f"{value.__module__}.{value.__qualname__}"
        return re.sub(r" at 0x[0-9a-f]+", "", repr(value))  # addresses differ between processes

    return without_modules(spell(described))


def signature(part: Any) -> str:
    """Structure and numbers as text."""
    held = tuple(x.tolist() if isinstance(x, Tensor) else x for x in numbers(part))
    return spelled(structure(part)) + spelled(held)


def without_modules(text: str) -> str:
    """A text whose parts of the library are named without their modules.

    Files of version 0.1 name them: "bilevel.schedules.Constant" is "bilevel.Constant" now.
    """
    return _MODULES.sub("bilevel.", text)


def stack(parts: Sequence[Part], repeats: int) -> Part:
    """One part whose numbers have shape (len(parts) * repeats,), part by part.

    Args:
        parts: parts of equal `structure`, each with plain numbers.
        repeats: how many runs each part trains (the number of seeds).

    Returns:
        A part that trains all of them at once; a number all parts share stays a plain number.
    """

    def join(*values: Any) -> Any:
        if all(isinstance(value, float) and value == values[0] for value in values):
            return values[0]
        numbers = [torch.as_tensor(value, dtype=torch.float64).expand(repeats) for value in values]
        return torch.cat(numbers)

    return _rebuild(join, *parts)


def part(whole: Part, runs: slice, like: Tensor | None = None) -> Part:
    """The part for some of the runs, its tensors of the type and on the device of `like`."""

    def pick(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        some = value[runs] if value.ndim == 1 else value
        return some if like is None else some.to(like)

    return _rebuild(pick, whole)


def as_tensors(part: Part, device: torch.device | str) -> Part:
    """The part with plain floats as 0-dim float64 tensors, which leave other types alone."""

    def lift(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value
        return torch.tensor(value, dtype=torch.float64, device=device)

    return _rebuild(lift, part)


def _rebuild(function: Callable[..., Any], *parts: Part) -> Part:
    """A copy of the first part, its numbers replaced by `function` of all parts' numbers.

    The copy skips `__post_init__`: the numbers were checked when the parts were made.
    """
    first = parts[0]
    copy = object.__new__(type(first))
    for field in dataclasses.fields(first):  # type: ignore[arg-type]
        values = [getattr(part, field.name) for part in parts]
        if is_number(values[0]):
            new = function(*values)
        elif is_part(values[0]):
            new = _rebuild(function, *values)
        else:
            new = values[0]
        object.__setattr__(copy, field.name, new)
    return copy
