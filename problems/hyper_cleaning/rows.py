"""Rows for cleaning: many with labels that may be wrong, a few clean ones, and test rows."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor

from bilevel.core.checks import check_positive_integer, single
from bilevel.errors import ArgumentError, check_name
from problems.hyper_cleaning.labels import with_wrong_labels
from problems.images import load
from problems.images.sources import FASHION_MNIST, MNIST, Source

CLASSES, FOLDS = 10, 5
SETTLED = 1e-6
"""Directions whose variance is a smaller share of the largest one are left out."""
Part = tuple[NDArray[np.float32], NDArray[np.int64]]


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """The rows of one seed, features float64.

    Attributes:
        noisy: (n, d), the training rows.
        given: (n,), their labels; some are wrong.
        right: (n,), which are not: for measuring alone.
        clean: (V, d), the validation rows.
        labels: (V,), theirs.
        folds: (V,), in which of five folds each is.
        test: (m, d), for measuring alone.
        truth: (m,), its labels.
    """

    noisy: Tensor
    given: Tensor
    right: Tensor
    clean: Tensor
    labels: Tensor
    folds: Tensor
    test: Tensor
    truth: Tensor

    @property
    def count(self) -> int:
        """n."""
        return len(self.noisy)

    @property
    def design(self) -> Tensor:
        """Training rows, then validation rows, (n + V, d)."""
        return torch.cat([self.noisy, self.clean])

    @property
    def targets(self) -> Tensor:
        """Their labels, (n + V,)."""
        return torch.cat([self.given, self.labels])


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set to clean.

    Attributes:
        read: the images that are drawn from, and those for testing; None: what is left is.
        components: principal ones, the features.
        rows: training rows by default.
        title: for readers.
    """

    read: Callable[[str | Path, bool], tuple[Part, Part | None]]
    components: int
    rows: int
    title: str


def _digits(data_dir: str | Path, download: bool) -> tuple[Part, Part | None]:
    inputs, labels = load_digits(return_X_y=True)
    return (inputs.astype(np.float32) / 16, labels.astype(np.int64)), None


def _images(source: Source) -> Callable[[str | Path, bool], tuple[Part, Part | None]]:
    def read(data_dir: str | Path, download: bool) -> tuple[Part, Part | None]:
        found = load(source, data_dir or None, download=download)
        train, test = (
            ((x / np.float32(255)).astype(np.float32), y.astype(np.int64))
            for x, y in (found.train, found.test)
        )
        return train, test

    return read


DATA = {
    "digits": Data(_digits, 32, 800, "Digits of scikit-learn"),
    "fashion-mnist": Data(_images(FASHION_MNIST), 64, 5000, "Fashion-MNIST"),
    "mnist": Data(_images(MNIST), 64, 5000, "MNIST"),
}


def reader(
    name: str,
    rows: int = 0,
    clean: int = 100,
    noise: float = 0.5,
    data_dir: str | Path = "",
    *,
    download: bool = True,
) -> Callable[[int], Rows]:
    """What draws the rows of a seed: all groups anew, and which labels are wrong.

    The features are the leading principal components of the training rows, with deviation one.

    Args:
        name: one of `DATA`.
        rows: training rows; 0: as many as `DATA` says.
        clean: validation rows, at least 10.
        noise: share of the training rows with a wrong label, from 0 to 0.9.
        data_dir: see `problems.images.load`.
        download: likewise.

    Raises:
        ArgumentError: more rows than there are, or a share that is none.
    """
    check_name(name, DATA, "data set")
    data = DATA[name]
    check_positive_integer(rows, "`rows`", zero_allowed=True)
    check_positive_integer(clean, "`clean`")
    noise = single(noise, "`noise`", zero_allowed=True)
    if not noise <= 0.9 or clean < 2 * FOLDS:
        raise ArgumentError(
            f"`noise` is a share from 0 to 0.9 and `clean` at least {2 * FOLDS} rows, got "
            f"{noise!r} and {clean!r}."
        )
    (inputs, labels), test = data.read(data_dir, download)
    n = rows or data.rows
    left = len(labels) - n - clean
    if left < (0 if test else 100):
        raise ArgumentError(
            f"{data.title} has {len(labels):,} rows to draw from: {n:,} for training and "
            f"{clean:,} clean ones leave {left:,} for testing. Ask for fewer."
        )

    def draw(seed: int) -> Rows:
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(labels))
        train, validation, rest = order[:n], order[n : n + clean], order[n + clean :]
        given, right = with_wrong_labels(labels[train], CLASSES, noise, rng)
        folds = rng.permutation(clean) % FOLDS
        judged = (inputs[rest], labels[rest]) if test is None else test
        features = _principal(inputs[train], data.components)

        def tensor(x: NDArray[Any]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(x))

        return Rows(
            noisy=tensor(features(inputs[train])),
            given=tensor(given),
            right=tensor(right),
            clean=tensor(features(inputs[validation])),
            labels=tensor(labels[validation]),
            folds=tensor(folds),
            test=tensor(features(judged[0])),
            truth=tensor(judged[1]),
        )

    return draw


def _principal(
    inputs: NDArray[np.float32], components: int
) -> Callable[[NDArray[np.float32]], NDArray[np.float64]]:
    """Maps rows to their principal components, each over its deviation in these rows."""
    mean = inputs.mean(0, dtype=np.float64)
    centred = inputs - mean
    variances, directions = np.linalg.eigh(centred.T @ centred / len(inputs))
    variances, directions = variances[::-1][:components], directions[:, ::-1][:, :components]
    kept = variances > SETTLED * variances[0]
    scale = directions[:, kept] / np.sqrt(variances[kept])

    def features(x: NDArray[np.float32]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = (x - mean) @ scale
        return found

    return features
