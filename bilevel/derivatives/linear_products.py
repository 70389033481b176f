"""Derivatives of g in a linear head from what it is made of, without a graph."""

import torch
from torch import Tensor

from bilevel.derivatives.linear_parts import LinearParts
from bilevel.derivatives.reverse import loss_products
from bilevel.problem.criteria import AbstractCriterion


def gradient(parts: LinearParts, head: Tensor, criterion: AbstractCriterion) -> Tensor:
    """d_theta g = Z's c'(Z theta) / n + p o theta, like the heads."""
    slope, _ = _by_rows(parts, head, head, criterion)
    return _collected(parts, slope, head)


def product(
    parts: LinearParts, head: Tensor, vector: Tensor, criterion: AbstractCriterion
) -> Tensor:
    """H v = Z's c''(Z theta) Z v / n + p o v, like the heads."""
    _, curved = _by_rows(parts, head, vector, criterion)
    return _collected(parts, curved, vector)


def _by_rows(
    parts: LinearParts, head: Tensor, vector: Tensor, criterion: AbstractCriterion
) -> tuple[Tensor, Tensor]:
    """c' and c'' a of every row, (R, n) or (R, n, K), a = Z v."""
    one = head.ndim == 2
    columns = [x.unsqueeze(2) if one else x for x in (head, vector)]
    if criterion.quadratic and vector is not head:  # c'' is one, whatever the predictions
        along = parts.design @ columns[1]
        return along, along.squeeze(2) if one else along
    both = parts.design @ (torch.cat(columns, 2) if vector is not head else columns[0])
    u, a = both.tensor_split(2, 2) if vector is not head else (both, both)
    u, a = (x.squeeze(2) if one else x for x in (u, a))
    return loss_products(criterion, u, parts.targets, a)


def _collected(parts: LinearParts, by_rows: Tensor, vector: Tensor) -> Tensor:
    """Z's x / n + p o v."""
    one = vector.ndim == 2
    x = by_rows.unsqueeze(2) if by_rows.ndim == 2 else by_rows
    if parts.weights is not None:
        x = x * parts.weights.unsqueeze(2)
    summed = parts.design.mT @ x * (1 / parts.design.shape[1])
    penalty = parts.penalty if one or parts.penalty.ndim == 3 else parts.penalty.unsqueeze(2)
    return (summed.squeeze(2) if one else summed) + penalty * vector
