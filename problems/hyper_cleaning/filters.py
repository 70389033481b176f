"""Cleaning without bilevel optimisation: rows are kept or dropped by what heads say of them."""

import torch
from torch import Tensor

from problems.hyper_cleaning.heads import out_of_fold, scores
from problems.hyper_cleaning.rows import Rows


def trivial(rows: Rows, theta: Tensor) -> Tensor:
    """The rows (n,) that a head on validation rows does not contradict."""
    return scores(rows.noisy, theta).argmax(1) == rows.given


def cross_fitted(rows: Rows, kept: Tensor | None, ridge: float, seed: int = 0) -> Tensor:
    """The rows (n,) whose out-of-fold prediction is their label.

    Args:
        rows: of a seed.
        kept: the training rows that heads are fitted on, beside the validation rows; None: all.
        ridge: of these heads.
        seed: of the folds.
    """
    ones = torch.ones(rows.count, dtype=rows.noisy.dtype)
    found = out_of_fold(rows, ones if kept is None else ones * kept, ridge, seed)
    return found.argmax(1) == rows.given


def iterated(rows: Rows, kept: Tensor, ridge: float, times: int = 3) -> Tensor:
    """`cross_fitted` again, on what was kept, with other folds each time."""
    for time in range(times):
        kept = cross_fitted(rows, kept, ridge, seed=time + 1)
    return kept
