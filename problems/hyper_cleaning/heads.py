"""Softmax heads on weighted rows, many at once, and the one rule by which their ridge is chosen."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from bilevel.exact import softmax_head
from problems.hyper_cleaning.rows import CLASSES, FOLDS, Rows

RIDGES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)


def heads(
    rows: Rows,
    weights: Tensor,
    ridge: float | Tensor,
    *,
    total: float | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """argmin of sum_i s_i c(z_i theta, y_i) / N + ridge/2 |theta|^2, bias included, (R, d + 1, 10).

    Args:
        rows: i runs over the training rows, then the validation rows.
        weights: s, (R, n + V).
        ridge: a number, or (R,).
        total: N; None: the sum of the weights.
        start: near the answer.
    """
    used = (weights > 0).any(0)
    design, targets, s = rows.design[used], rows.targets[used], weights[:, used]
    runs, size = len(s), design.shape[1] + 1
    by_head = torch.as_tensor(ridge, dtype=s.dtype).reshape(-1, 1).expand(runs, size)
    divided = s.sum(1, keepdim=True) if total is None else total
    return softmax_head(
        design.expand(runs, -1, -1),
        targets.expand(runs, -1),
        by_head,
        row_weights=s * (len(design) / divided),
        fit_bias=True,
        penalize_bias=True,
        classes=CLASSES,
        start=start,
    )


def scores(design: Tensor, theta: Tensor) -> Tensor:
    """z theta with the bias, (..., n, 10)."""
    return design @ theta[..., :-1, :] + theta[..., -1:, :]


def held_out(rows: Rows) -> Tensor:
    """Which validation rows each fold holds out, (5, V)."""
    return rows.folds == torch.arange(FOLDS).unsqueeze(1)


def with_folds(rows: Rows, weights: Tensor, own: float = 1.0) -> Tensor:
    """Weights of the heads of the folds, (5, n + V): validation rows count where not held out."""
    clean = own * (~held_out(rows)).to(weights.dtype)
    return torch.cat([weights.expand(FOLDS, -1), clean], 1)


def fold_loss(rows: Rows, theta: Tensor) -> Tensor:
    """The cross-entropy of validation rows by the heads (5, ...) that did not see them, 0-dim."""
    found = scores(rows.clean, theta).flatten(0, 1)
    each = cross_entropy(found, rows.labels.repeat(FOLDS), reduction="none")
    return (each.reshape(FOLDS, -1) * held_out(rows)).sum() / len(rows.labels)


def chosen_ridge(rows: Rows, weights: Tensor, own: float = 1.0) -> float:
    """The ridge with the least cross-entropy of validation rows, by five folds.

    Args:
        rows: of a seed.
        weights: of the training rows, (n,).
        own: of the validation rows; 0: heads are trained on training rows alone.
    """
    apart = with_folds(rows, weights, own)
    apart = apart if own else apart[:1]
    every = torch.tensor(RIDGES, dtype=weights.dtype).repeat_interleave(len(apart))
    found = heads(rows, apart.repeat(len(RIDGES), 1), every)
    by_ridge = found.reshape(len(RIDGES), -1, *found.shape[1:]).expand(-1, FOLDS, -1, -1)
    losses = torch.stack([fold_loss(rows, theta) for theta in by_ridge])
    return RIDGES[int(losses.argmin())]


def whole_head(rows: Rows, weights: Tensor, ridge: float, own: float = 1.0) -> Tensor:
    """The head on all weighted training rows and all validation rows, (d + 1, 10)."""
    clean = torch.full_like(rows.labels, own, dtype=weights.dtype)
    return heads(rows, torch.cat([weights, clean]).unsqueeze(0), ridge)[0]


def out_of_fold(rows: Rows, weights: Tensor, ridge: float, seed: int = 0) -> Tensor:
    """Log-probabilities (n, 10) of training rows, by heads that did not see them.

    Each fifth is predicted by a head on the weighted rows of the other four and on all validation
    rows.
    """
    source = torch.Generator().manual_seed(seed)
    fold = torch.randperm(rows.count, generator=source) % FOLDS
    seen = fold != torch.arange(FOLDS).unsqueeze(1)
    clean = torch.ones(FOLDS, len(rows.labels), dtype=weights.dtype)
    theta = heads(rows, torch.cat([weights * seen, clean], 1), ridge)
    found = scores(rows.noisy, theta).log_softmax(2)
    return found[fold, torch.arange(rows.count)]


def of_given(rows: Rows, found: Tensor) -> Tensor:
    """The logit of the probability of the given label, (n,), from log-probabilities (n, 10)."""
    log_p = found.gather(1, rows.given.unsqueeze(1)).squeeze(1).clamp(-12, -1e-4)
    return log_p - torch.log(-torch.expm1(log_p))


def accuracy(rows: Rows, theta: Tensor) -> float:
    """Of the test rows."""
    return float((scores(rows.test, theta).argmax(1) == rows.truth).double().mean())
