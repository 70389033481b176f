"""Derivatives of g in a linear head from what it is made of, without a graph."""

import torch
from torch import Tensor

from bilevel.derivatives.linear_parts import LinearParts
from bilevel.derivatives.reverse import loss_products
from bilevel.problem.criteria import AbstractCriterion


def gradient(parts: LinearParts, head: Tensor, criterion: AbstractCriterion) -> Tensor:
    """d_theta g = Z's c'(Z theta) / n + p o (theta - q), like the heads."""
    return drawn(parts, rows_gradient(parts, head, criterion), head)


def rows_gradient(parts: LinearParts, head: Tensor, criterion: AbstractCriterion) -> Tensor:
    """What the rows add to d_theta g, like the heads."""
    (fitted,) = _products(parts, head)
    slope, _ = loss_products(criterion, fitted, parts.targets, fitted)
    return _summed(parts, slope, head)


def drawn(parts: LinearParts, summed: Tensor, head: Tensor) -> Tensor:
    """With p o (theta - q) added to what the rows give."""
    away = head if parts.prior is None else head - parts.prior
    return penalised(parts.penalty, summed, away)


def penalised(penalty: Tensor, summed: Tensor, vector: Tensor) -> Tensor:
    """With p o v added to what the rows give for v."""
    one = vector.ndim == 2 or penalty.ndim == 3
    return summed + (penalty if one else penalty.unsqueeze(2)) * vector


def product(
    parts: LinearParts, head: Tensor, vector: Tensor, criterion: AbstractCriterion
) -> Tensor:
    """H v = Z's c''(Z theta) Z v / n + p o v, like the heads."""
    if criterion.quadratic:  # c'' is one, whatever the predictions
        (curved,) = _products(parts, vector)
    else:
        fitted, along = _products(parts, head, vector)
        _, curved = loss_products(criterion, fitted, parts.targets, along)
    return penalised(parts.penalty, _summed(parts, curved, vector), vector)


def squared_cross(
    parts: LinearParts, head: Tensor, vector: Tensor, criterion: AbstractCriterion
) -> Tensor:
    """K'K v for K: v to the derivative of d_theta g . v in the features, like the heads.

    K v = s (c' v' + b theta') / n with b = c'' Z v, and K'X = (X's c' + Z'c'' s X theta) / n: no
    array as large as the features is formed.
    """
    fitted, along = _products(parts, head, vector)
    slope, bent = loss_products(criterion, fitted, parts.targets, along)
    theta, v, c, b = (x.unsqueeze(2) if head.ndim == 2 else x for x in (head, vector, slope, bent))
    share = torch.full_like(c[..., :1], 1 / c.shape[1])
    columns = parts.columns
    if columns is not None:
        share = share * columns
    if parts.by_output:  # no longer one factor of c' v' + b theta'
        c, b = share * c, share * b
        weighed = c
        through = share * (c @ (v.mT @ theta) + b @ (theta.mT @ theta))
    else:
        weighed = share.square() * c
        through = weighed @ (v.mT @ theta) + share.square() * b @ (theta.mT @ theta)
    _, last = loss_products(criterion, fitted, parts.targets, through.reshape(fitted.shape))
    found = v @ (c.mT @ weighed) + theta @ (b.mT @ weighed)
    found = found + parts.design.mT @ last.reshape(c.shape)
    return found.reshape(head.shape)


def _products(parts: LinearParts, *vectors: Tensor) -> list[Tensor]:
    """Z v of heads v, (R, n) or (R, n, K)."""
    one = vectors[0].ndim == 2
    columns = torch.cat([x.unsqueeze(2) if one else x for x in vectors], 2)
    found = (parts.design @ columns).tensor_split(len(vectors), 2)
    return [x.squeeze(2) if one else x for x in found]


def _summed(parts: LinearParts, by_rows: Tensor, vector: Tensor) -> Tensor:
    """Z's x / n, like v."""
    one = vector.ndim == 2
    x, columns = by_rows.unsqueeze(2) if one else by_rows, parts.columns
    if columns is not None:
        x = x * columns
    summed = parts.design.mT @ x * (1 / parts.design.shape[1])
    return summed.squeeze(2) if one else summed
