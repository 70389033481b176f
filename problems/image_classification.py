"""Classification of images: MNIST, Fashion-MNIST and CIFAR-10, from files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bilevel.core.checks import check_flag, check_instance, check_positive_integer
from bilevel.errors import ArgumentError
from bilevel.problem.network.hidden_layers import Network, Width
from problems.classification import Classification, Labelled, standardised
from problems.images import load
from problems.images.formats import Bytes
from problems.images.sources import CIFAR10, FASHION_MNIST, MNIST, Source

CLASSES = 10
ROWS = {"train": "training", "validation": "validation", "test": "test"}


def mnist(
    width: Width = (128, 64),
    depth: int = 1,
    activation: str = "relu",
    ridge: float = 1e-3,
    train: int = 5000,
    validation: int = 5000,
    test: int = 0,
    standardise: bool = False,
    weight_decay: float = 0.0,
    data_dir: str | Path = "",
    download: bool = True,
) -> Classification:
    """MNIST: handwritten digits of 28 x 28 pixels; needs its files, or downloads them.

    Options: see `image_problem`.

    Raises:
        MissingDataError: the files are nowhere, and may not be, or cannot be, downloaded.
        DataError: a file is damaged.
        ArgumentError: an option is out of its range, or asks for more rows than there are.

    Examples:
        >>> from bilevel.errors import ArgumentError
        >>> from problems.image_classification import mnist
        >>> try: problem = mnist(train=1000, width=0)
        ... except ArgumentError as error: print(error)
        `width` must be a positive integer, got 0.
    """
    return image_problem(MNIST, locals())


def fashion_mnist(
    width: Width = (128, 64),
    depth: int = 1,
    activation: str = "relu",
    ridge: float = 1e-3,
    train: int = 5000,
    validation: int = 5000,
    test: int = 0,
    standardise: bool = False,
    weight_decay: float = 0.0,
    data_dir: str | Path = "",
    download: bool = True,
) -> Classification:
    """Fashion-MNIST: clothes in 28 x 28 pixels; needs its files, or downloads them.

    Options: see `image_problem`.

    Raises:
        MissingDataError: the files are nowhere, and may not be, or cannot be, downloaded.
        DataError: a file is damaged.
        ArgumentError: an option is out of its range, or asks for more rows than there are.

    Examples:
        >>> from bilevel.errors import ArgumentError
        >>> from problems.image_classification import fashion_mnist
        >>> try: problem = fashion_mnist(train=1000, width=0)
        ... except ArgumentError as error: print(error)
        `width` must be a positive integer, got 0.
    """
    return image_problem(FASHION_MNIST, locals())


def cifar10(
    width: Width = (128, 64),
    depth: int = 1,
    activation: str = "relu",
    ridge: float = 1e-3,
    train: int = 5000,
    validation: int = 5000,
    test: int = 0,
    standardise: bool = False,
    weight_decay: float = 0.0,
    data_dir: str | Path = "",
    download: bool = True,
) -> Classification:
    """CIFAR-10: things and animals in 32 x 32 colour pixels; needs its files, or downloads them.

    Options: see `image_problem`.

    Raises:
        MissingDataError: the files are nowhere, and may not be, or cannot be, downloaded.
        DataError: a file is damaged.
        ArgumentError: an option is out of its range, or asks for more rows than there are.

    Examples:
        >>> from bilevel.errors import ArgumentError
        >>> from problems.image_classification import cifar10
        >>> try: problem = cifar10(train=1000, width=0)
        ... except ArgumentError as error: print(error)
        `width` must be a positive integer, got 0.
    """
    return image_problem(CIFAR10, locals())


def image_problem(source: Source, options: Mapping[str, Any]) -> Classification:
    """A problem on an image data set with its standard split into training and test images.

    Args:
        source: the data set.
        options: `width`, `depth`, `activation`, `ridge`, `weight_decay`: as for `digits`.
            `train`: training rows, the first ones of the data set; 0: all that are not for
            validation. `validation`: rows, the last ones of the training images; 0 for none.
            `test`: test rows, the first ones; 0: all. `standardise`: False: pixels over 255, then
            less the mean and over the standard deviation of all pixels of a channel (fixed
            numbers); True: every pixel standardised with the training rows. `data_dir`,
            `download`: see `problems.images.load`.

    Raises:
        MissingDataError: the files are nowhere.
        DataError: a file is damaged.
        ArgumentError: more rows than there are.
    """
    for name in ("standardise", "download"):
        check_flag(options[name], name)
    for name in ROWS:
        rows = options[name]
        check_positive_integer(rows, f"`{name}`", zero_allowed=True)
        if rows == 1:
            raise ArgumentError(f"`{name}` is a number of rows, 0 or at least 2, got {rows!r}.")
    check_instance(options["data_dir"], str | Path | None, "data_dir", '"folder"')
    network = Network(options["width"], options["depth"], options["activation"])
    images = load(source, options["data_dir"] or None, download=options["download"])
    there, validation = len(images.train[0]), options["validation"]
    train, test = options["train"] or there - validation, options["test"] or len(images.test[0])
    if train + validation > there or train < 2:
        raise ArgumentError(
            f"{source.title} has {there:,} training images: `train` {options['train']:,} and "
            f"`validation` {validation:,} do not fit into them. Ask for fewer, or for `train` 0: "
            "all that are not for validation."
        )
    if test > len(images.test[0]):
        raise ArgumentError(
            f"{source.title} has {len(images.test[0]):,} test images, fewer than `test` {test:,}. "
            "Ask for fewer, or for 0: all."
        )

    def draw(_: int) -> Labelled:
        groups = {"train": tuple(part[:train] for part in images.train)}
        if validation:
            groups["validation"] = tuple(part[there - validation :] for part in images.train)
        groups["test"] = tuple(part[:test] for part in images.test)
        splits = {name: (scaled(x, source), y) for name, (x, y) in groups.items()}
        return standardised(splits) if options["standardise"] else splits

    how = "every pixel standardised with training rows" if options["standardise"] else "scaled"
    note = (
        f"{source.title} ({source.reference}): the first {train:,} of {there:,} training images, "
        + (f"the last {validation:,} of them for validation, " if validation else "")
        + f"{test:,} test images, of {source.pixels:,} pixels, {how}; ten classes."
    )
    return Classification(draw, CLASSES, network, options["ridge"], note, options["weight_decay"])


def scaled(images: Bytes, source: Source) -> NDArray[np.float32]:
    """(x/255 - mean) / deviation of a channel, float32; channels lie one after the other."""
    channels = len(source.mean)
    found = images.reshape(len(images), channels, -1).astype(np.float32)
    found /= 255
    found -= np.array(source.mean, dtype=np.float32)[:, None]
    found /= np.array(source.deviation, dtype=np.float32)[:, None]
    return found.reshape(len(images), -1)
