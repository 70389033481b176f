"""Weights of rows by their label."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bilevel.core.checks import is_ordered, single
from bilevel.errors import ArgumentError, ShapeError, spell
from bilevel.problem.criteria.base import AbstractCriterion

ClassWeights = Sequence[float] | None
"""A positive number for each class, in the order of their labels; None: 1."""


def set_weights(criterion: Any, classes: int | None = None) -> None:
    """Check the weights of a criterion, once, and let its constants know of them.

    Args:
        criterion: with `class_weights` as they were given: a list, a tensor or an array.
        classes: how many there must be; None: two or more.
    """
    given = criterion.class_weights
    if given is None:
        return
    listed = is_ordered(given) if isinstance(given, Tensor) else hasattr(given, "tolist")
    found = given.tolist() if listed else given
    if not isinstance(found, list | tuple) or len(found) < 2:
        raise ArgumentError(
            "`class_weights` must be a positive number for each class, in the order of their "
            f"labels, got {spell(given)}."
        )
    weights = tuple(single(weight, "A class weight") for weight in found)
    changed: dict[str, object] = {"class_weights": weights, "largest_weight": max(weights)}
    for name in ("largest_curvature", "curvature_change"):
        changed[name] = getattr(type(criterion), name) * max(weights)
    for name, value in changed.items():
        object.__setattr__(criterion, name, value)
    if classes is not None:
        check_count(criterion, classes)


def check_count(criterion: AbstractCriterion, classes: int) -> None:
    """Raise unless there is a weight for each class."""
    weights = getattr(criterion, "class_weights", None)
    if weights is not None and len(weights) != classes:
        raise ShapeError(
            f"`class_weights` of {type(criterion).__name__} must be {classes} numbers, one for "
            f"each class, got {spell(list(weights))}."
        )


def weighted(weights: ClassWeights, values: Tensor, targets: Tensor, power: float = 1) -> Tensor:
    """Values of rows, (n,) or (n, K), times a power of the weights of their labels."""
    if weights is None:
        return values
    of_class = torch.tensor(weights, dtype=values.dtype, device=values.device) ** power
    of_row = of_class[targets]
    return values * (of_row if values.ndim == 1 else of_row.unsqueeze(1))
