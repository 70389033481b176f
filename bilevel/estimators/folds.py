"""Rows that are left out in turn."""

import numbers
from typing import Any

import numpy as np
from sklearn.model_selection import KFold, check_cv
from sklearn.utils import check_random_state

from bilevel.core.checks import check_positive_integer
from bilevel.errors import ArgumentError
from bilevel.estimators.columns import Integers

Folds = list[tuple[Integers, Integers]]


def folds_of(cv: Any, random_state: Any, x: Any, y: Any) -> Folds:
    """Training and validation rows of each fold: shuffled ones for a number, never above the rows.

    Args:
        cv: a number of folds, a splitter of scikit-learn, or pairs of row numbers.
        random_state: of the shuffle.
        x: what has rows.
        y: what a splitter may look at.
    """
    if isinstance(cv, numbers.Integral) or cv is None:
        count = checked_count(cv)
        folds = KFold(min(count, len(x)), shuffle=True, random_state=shuffler(random_state))
        return list(folds.split(x))
    return split_by(cv, x, y)


def checked_count(cv: Any) -> int:
    """`cv` as a number of folds."""
    check_positive_integer(cv, "`cv`", ", a splitter of scikit-learn, or pairs of row numbers")
    if cv < 2:
        raise ArgumentError("`cv` must be at least 2 folds, got 1.")
    return int(cv)


def split_by(cv: Any, x: Any, y: Any) -> Folds:
    """The folds of a splitter, or of pairs of row numbers."""
    try:
        pairs = [(np.arange(len(x))[a], np.arange(len(x))[b]) for a, b in check_cv(cv).split(x, y)]
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise ArgumentError(
            "`cv` must be a number of folds, a splitter of scikit-learn, or pairs of row numbers: "
            f"{error}"
        ) from error
    if not pairs or any(len(a) == 0 or len(b) == 0 for a, b in pairs):
        raise ArgumentError("`cv` has a fold without rows to train on, or without rows left out.")
    return pairs


def shuffler(random_state: Any) -> np.random.RandomState:
    """What `random_state` means."""
    try:
        found: np.random.RandomState = check_random_state(random_state)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"`random_state`: {error}") from error
    return found
