"""Wrong labels, and how well they are found."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def with_wrong_labels(
    labels: NDArray[np.int64], classes: int, rate: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Labels of which exactly round(rate n) are another class, each other one equally likely.

    Returns:
        The labels, and which of them are still right.
    """
    count = round(rate * len(labels))
    wrong = rng.permutation(len(labels))[:count]
    given, right = labels.copy(), np.ones(len(labels), bool)
    given[wrong] = (given[wrong] + rng.integers(1, classes, count)) % classes
    right[wrong] = False
    return given, right


def f1(kept: Tensor, right: Tensor) -> Tensor:
    """2 |kept and right| / (|kept| + |right|), 0-dim, of the rows that count as right."""
    both = (kept & right).sum()
    return 2 * both / (kept.sum() + right.sum()).clamp(min=1)


def auc(scores: Tensor, right: Tensor) -> Tensor:
    """The probability that a right label has the larger score than a wrong one, 0-dim.

    Ties count one half.
    """
    ordered = scores.sort().values
    below = torch.searchsorted(ordered, scores) + torch.searchsorted(ordered, scores, right=True)
    ranks, truth = (below + 1) / 2, right.to(scores.dtype)  # of ties their mean
    many, few = truth.sum(), (1 - truth).sum()
    return ((ranks * truth).sum() - many * (many + 1) / 2) / (many * few).clamp(min=1)
