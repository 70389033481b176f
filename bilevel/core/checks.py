"""Checks of arguments, once, where they come in."""

import contextlib
import difflib
import inspect
import math
import numbers
import sys
from collections.abc import Iterable, Iterator
from types import UnionType
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from bilevel.errors import ArgumentError, check_name, counted, spell

Number = float | Tensor
"""A hyper-parameter: a float for all runs, or (R,) numbers, one for each run."""
TOO_MANY = 10**9
"""No count of steps, seeds, rows or units comes near to this one."""
THEIRS = {
    "mseloss": "SquaredError",
    "bcewithlogitsloss": "LogisticLoss",
    "crossentropyloss": "SoftmaxLoss",
    "smoothl1loss": "HuberLoss",
}
"""What torch and others call our parts, where the names are not alike."""


def check_positive_integer(
    value: Any,
    name: str,
    otherwise: str = "",
    *,
    zero_allowed: bool = False,
    endless: bool = False,
) -> None:
    """Raise an `ArgumentError` unless `value` is 1, 2, ...; it says what it may be `otherwise`.

    Counts of what is computed have a limit; those that may mean "never" or "all" are `endless`.
    """
    least = 0 if zero_allowed else 1
    if not _is_integer(value) or value < least:
        expected = "an integer of at least 0" if zero_allowed else "a positive integer"
        raise ArgumentError(f"{name} must be {expected}{otherwise}, got {spell(value)}.")
    if value >= TOO_MANY and not endless:
        raise ArgumentError(f"{name} must be below {TOO_MANY:,}{otherwise}, got {spell(value)}.")


def check_batch_size(value: object, name: str) -> None:
    """Raise an `ArgumentError` unless `value` is None or 1, 2, ..."""
    if value is not None:
        check_positive_integer(value, name, " or None (all rows)")


def check_seed(value: Any, name: str) -> None:
    """Raise an `ArgumentError` unless `value` is 0, 1, 2, ..., however large."""
    if not _is_integer(value) or value < 0:
        raise ArgumentError(f"{name} must be an integer of at least 0, got {spell(value)}.")


def float_type(dtype: object) -> torch.dtype:
    """float32 or float64, or a clear error."""
    if not isinstance(dtype, torch.dtype) or dtype not in (torch.float32, torch.float64):
        raise ArgumentError(f"`dtype` must be torch.float32 or torch.float64, got {spell(dtype)}.")
    return dtype


def check_flag(value: object, name: str) -> None:
    """Raise an `ArgumentError` unless `value` is True or False: the word "false" would be true."""
    if not isinstance(value, bool | np.bool_):
        raise ArgumentError(f"`{name}` must be True or False, got {spell(value)}.")


def check_function(value: object, name: str, example: str, arguments: int) -> None:
    """Raise an `ArgumentError` unless `value` can be called with that many arguments."""
    if not callable(value):
        raise ArgumentError(f"`{name}` must be a function, {example}, got {spell(value)}.")
    try:
        inspect.signature(value).bind(*[None] * arguments)
    except TypeError as error:
        raise ArgumentError(
            f"`{name}` must be a function, {example}, but {spell(value)} cannot be called with "
            f"{counted(arguments, 'argument')}: {error}."
        ) from error
    except ValueError:  # callables of compiled code need not tell what they take
        return


def check_instance(value: object, base: type | UnionType, name: str, example: str) -> None:
    """Raise an `ArgumentError` unless `value` is an instance of `base`; it shows an `example`."""
    if not isinstance(value, base):
        raise ArgumentError(
            f"`{name}` must be an object such as {example}, got {spell(value)}.{meant(value, base)}"
        )


def meant(value: object, base: Any) -> str:
    """What to write in the place of a class, a name, or a part of torch; "" if nobody knows."""
    with contextlib.suppress(TypeError):  # a base that is a protocol
        if isinstance(value, type) and issubclass(value, base):
            return "" if inspect.isabstract(value) else f" Call it: {_called(value)}."
    kind = value if isinstance(value, type) else type(value)
    if not isinstance(value, str) and kind.__module__.partition(".")[0] != "torch":
        return ""
    ours = {part.__name__.casefold(): part for part in _parts(base)}
    given = value if isinstance(value, str) else kind.__name__
    name = "".join(filter(str.isalnum, given)).casefold()[:100]
    name = THEIRS.get(name, name).casefold()
    near = difflib.get_close_matches(name, ours, n=1)
    if near:
        return f" Did you mean bilevel.{_called(ours[near[0]])}?"
    known = ", ".join(sorted(f"bilevel.{_called(part)}" for part in ours.values()))
    return f" There are {known}." if known and kind is not Tensor else ""


def _called(part: type) -> str:
    """How an object is made of a class."""
    needed = any(p.default is p.empty for p in inspect.signature(part).parameters.values())
    return f"{part.__name__}({'...' * needed})"


def _parts(base: Any) -> Iterator[type]:
    """The public classes that can stand where `base` is asked for."""
    for one in get_args(base) or (base,):
        for part in one.__subclasses__():
            if part.__name__ in sys.modules["bilevel"].__all__ and not inspect.isabstract(part):
                yield part
            yield from _parts(part)


def check_names(names: Any, known: Iterable[str], kind: str, argument: str) -> None:
    """Raise unless `names` is a sequence of names that are `known`."""
    if isinstance(names, str | Tensor) or not isinstance(names, Iterable):
        raise ArgumentError(f"`{argument}` must be a list of names, got {spell(names)}.")
    for name in names:
        check_name(name, known, kind)


def check_one_of(value: object, choices: Any, name: str) -> None:
    """Raise an `ArgumentError` unless `value` is one of the strings of a `Literal`."""
    if not isinstance(value, str) or value not in get_args(choices):
        *others, last = (f'"{one}"' for one in get_args(choices))
        choice = f"{', '.join(others)} or {last}" if others else last
        raise ArgumentError(f"`{name}` must be {choice}, got {spell(value)}.")


def _is_integer(value: object) -> bool:
    """Whether `value` is an integer of Python or NumPy."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_real(value: object) -> bool:
    """Whether `value` is a number of Python or NumPy on the real line, or not finite."""
    if isinstance(value, np.ndarray) and not np.ma.isMaskedArray(value):
        return value.ndim == 0 and value.dtype.kind in "iuf"
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_ordered(value: Tensor) -> bool:
    """Whether a tensor holds real numbers, each in its place."""
    real = not value.is_complex() and value.dtype != torch.bool
    return real and not value.is_meta and value.layout == torch.strided


def positive(value: Number, name: str, *, zero_allowed: bool = False) -> Number:
    """Return `value` as float or float tensor, or say that it must be positive and finite."""
    expected = "at least 0" if zero_allowed else "positive"
    if isinstance(value, np.ndarray) and not value.ndim and not np.ma.isMaskedArray(value):
        value = value.item()
    if isinstance(value, Tensor):
        value = value.detach()
        if value.ndim > 1 or value.numel() == 0:
            raise ArgumentError(f"{name} must be a number or (R,) numbers, got {value.shape=}.")
        if not is_ordered(value):
            raise ArgumentError(f"{name} must be a number or (R,) numbers, got {spell(value)}.")
        smallest, largest = float(value.min()), float(value.max())
    elif is_real(value):
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
        smallest = largest = value
    else:
        raise ArgumentError(f"{name} must be a number, got {spell(value)}.")
    bad = smallest < 0 or (smallest == 0 and not zero_allowed)
    if bad or not math.isfinite(smallest) or not math.isfinite(largest):
        raise ArgumentError(f"{name} must be {expected} and finite, got {value}.")
    if isinstance(value, Tensor) and not value.is_floating_point():
        return value.to(torch.float32)
    return value


def single(value: Number, name: str, *, zero_allowed: bool = False) -> float:
    """A number that is the same for all runs, as `positive` checks it."""
    checked = positive(value, name, zero_allowed=zero_allowed)
    if isinstance(checked, Tensor) and checked.ndim:
        raise ArgumentError(f"{name} must be a single number, got {spell(value)}.")
    return float(checked)
