"""Learning rates of several steps, checked: what every function of this package takes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bilevel.core.checks import is_ordered
from bilevel.errors import ArgumentError, ShapeError, spell

Steps = Sequence[Any] | Tensor
"""For each step, a rate for each layer: floats, or tensors that may carry gradients."""


def broadcast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors, all of one shape."""
    return tuple(torch.broadcast_tensors(*tensors))  # type: ignore[no-untyped-call]


def checked_number(name: str, value: Any) -> Tensor:
    """A real number, or several, as a float64 tensor that keeps its graph."""
    try:
        found = torch.as_tensor(value, dtype=None if isinstance(value, Tensor) else torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        found = None
    if found is None or not is_ordered(found):
        raise ArgumentError(f"`{name}` must be a number or a tensor, got {spell(value)}.")
    return found.double()


def checked_rate(name: str, value: Any) -> Tensor:
    """A rate as a float64 tensor that keeps its graph; finite and not negative."""
    rate = checked_number(name, value)
    found = rate.detach()
    if not bool(found.isfinite().all()) or bool((found < 0).any()):
        raise ArgumentError(f"`{name}` must be finite and at least 0, got {found.tolist()}.")
    return rate


def _length(given: Any) -> int:
    """How many there are; -1 if it is no sequence of numbers or steps."""
    if isinstance(given, Tensor):
        return len(given) if given.ndim else -1
    listed = isinstance(given, Sequence) and not isinstance(given, str | bytes)
    return len(given) if listed else -1


def checked_step(name: str, step: Any, layers: int) -> list[Tensor]:
    """The rates of one step, one for each layer."""
    if _length(step) != layers:
        raise ShapeError(
            f"`{name}` must hold {layers} rates, one for each layer, got {spell(step)}. "
            "A layer that does not move has rate 0."
        )
    return [checked_rate(name, rate) for rate in step]


def checked_steps(lrs: Steps, layers: int) -> list[list[Tensor]]:
    """The rates of all steps; each step has one for each layer.

    Raises:
        ShapeError: it is no sequence of steps, or a step has another number of rates.
        ArgumentError: a rate is negative or not finite.
    """
    if _length(lrs) < 0:
        raise ShapeError(
            f"`lrs` must be a sequence of steps such as [(1.0, 2.0)], got {spell(lrs)}."
        )
    return [checked_step(f"lrs[{k}]", step, layers) for k, step in enumerate(lrs)]
