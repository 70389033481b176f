"""Checks of arguments, once, where they come in."""

import math
from types import UnionType
from typing import Any, get_args

import torch
from torch import Tensor

from bilevel.errors import ArgumentError

Number = float | Tensor
"""A hyper-parameter: a float for all runs, or (R,) numbers, one for each run."""


def check_positive_integer(value: object, name: str, otherwise: str = "") -> None:
    """Raise an `ArgumentError` unless `value` is 1, 2, ...; it says what it may be `otherwise`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ArgumentError(f"{name} must be a positive integer{otherwise}, got {value!r}.")


def check_batch_size(value: object, name: str) -> None:
    """Raise an `ArgumentError` unless `value` is None or 1, 2, ..."""
    if value is not None:
        check_positive_integer(value, name, " or None (all rows)")


def check_instance(value: object, base: type | UnionType, name: str, example: str) -> None:
    """Raise an `ArgumentError` unless `value` is an instance of `base`; it shows an `example`."""
    if not isinstance(value, base):
        raise ArgumentError(f"`{name}` must be an object such as {example}, got {value!r}.")


def check_one_of(value: object, choices: Any, name: str) -> None:
    """Raise an `ArgumentError` unless `value` is one of the strings of a `Literal`."""
    if value not in get_args(choices):
        *others, last = (f'"{choice}"' for choice in get_args(choices))
        raise ArgumentError(f"`{name}` must be {', '.join(others)} or {last}, got {value!r}.")


def positive(value: Number, name: str, *, zero_allowed: bool = False) -> Number:
    """Return `value` as float or float tensor, or say that it must be positive and finite."""
    expected = "at least 0" if zero_allowed else "positive"
    if isinstance(value, Tensor):
        value = value.detach()
        if value.ndim > 1 or value.numel() == 0:
            raise ArgumentError(f"{name} must be a number or (R,) numbers, got {value.shape=}.")
        smallest, largest = float(value.min()), float(value.max())
    else:
        try:
            smallest = largest = value = float(value)
        except (TypeError, ValueError):
            raise ArgumentError(f"{name} must be a number, got {value!r}.") from None
    bad = smallest < 0 or (smallest == 0 and not zero_allowed)
    if bad or not math.isfinite(smallest) or not math.isfinite(largest):
        raise ArgumentError(f"{name} must be {expected} and finite, got {value}.")
    if isinstance(value, Tensor) and not value.is_floating_point():
        return value.to(torch.get_default_dtype())
    return value
