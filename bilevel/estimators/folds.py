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


def class_folds(cv: Any, random_state: Any, x: Any, labels: Integers) -> Folds:
    """As `folds_of`, with every class in each fold's training rows.

    For a number of folds the rows of each class are shuffled and dealt to the folds in turn. The
    row of a class that has no other one is never left out.

    Args:
        cv: as in `folds_of`.
        random_state: of the shuffle.
        x: what has rows.
        labels: (n,), from 0 to the number of classes.
    """
    classes = np.arange(labels.max() + 1)
    if not (isinstance(cv, numbers.Integral) or cv is None):
        folds = split_by(cv, x, labels)
        if any(len(np.setdiff1d(classes, labels[train])) for train, _ in folds):
            raise ArgumentError("`cv` has a fold whose training rows lack a class.")
        return folds
    count, random = checked_count(cv), shuffler(random_state)
    members = [random.permutation(np.flatnonzero(labels == one)) for one in classes]
    dealt = np.concatenate([rows for rows in members if len(rows) > 1] or [members[0][:0]])
    if not len(dealt):
        raise ArgumentError("`y` has no class with two rows: none can be left out.")
    parts = [np.sort(dealt[k::count]) for k in range(min(count, len(dealt)))]
    return [(np.setdiff1d(np.arange(len(labels)), part), part) for part in parts]
