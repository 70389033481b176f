"""Classification with a network whose last layer is a logistic or softmax regression."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_digits

import bilevel
from bilevel.core.arrays import array_of, tensor_of
from bilevel.core.checks import check_flag, check_seed
from bilevel.problem.network.hidden_layers import Network, NetworkProblem, Width
from bilevel.tables.scaling import Scaling
from problems.splits import random_split, sizes_of_fractions

Labelled = Mapping[str, tuple[NDArray[Any], NDArray[Any]]]
"""By group: inputs (n, D) and labels (n,), whole numbers from 0."""


class Classification(NetworkProblem):
    """g = 1/n sum_i c(z_i theta + b, y_i) + lambda/2 (|theta|^2 + |b|^2) + h(body).

    z is the last hidden layer of a network. Two classes: c is the logistic loss, theta (M,) and b a
    number. K > 2 classes: c is the softmax loss, theta (M, K) and b (K,). The bias b of the head is
    penalised like its weights: otherwise one number added to all entries of b would change nothing,
    and the softmax head would not be unique. So g is lambda-strongly convex in the head.
    h = weight_decay/2 sum_l |W_l|^2 over the weights of the hidden layers.

    Args:
        draw: `draw(seed)` gives scaled inputs and labels by group: "train", "validation", "test".
        classes: K, at least 2.
        network: the body.
        ridge: lambda, at least 0. With 0 there may be no best response: rows that the features
            separate have none.
        note: one sentence on the data.
        weight_decay: of the hidden layers, at least 0.
        redraws: whether `draw` depends on the seed.

    Raises:
        ArgumentError: `ridge` or `weight_decay` is negative, or no number.

    Source: arXiv 2605.15530, equation (11). Differs from the source in: 1. the mean over rows where
    the paper's normalisation could not be read; 2. biases in every layer, that of the head
    penalised; 3. any depth and activation; 4. an optional weight decay of the body.
    """

    penalize_bias = True

    def __init__(
        self,
        draw: Callable[[int], Labelled],
        classes: int,
        network: Network,
        ridge: float = 1e-3,
        note: str = "",
        weight_decay: float = 0.0,
        *,
        redraws: bool = False,
    ) -> None:
        columns = array_of(draw(0)["train"][0], "inputs").shape[1]
        super().__init__(network, columns, ridge, note, weight_decay)
        self.draw, self.redraws_data = draw, redraws
        self.outputs = None if classes == 2 else classes
        self.criterion = bilevel.LogisticLoss() if classes == 2 else bilevel.SoftmaxLoss()

    def data(self, seed: int | None = None) -> dict[str, Any]:
        """The groups for a seed (0 where none is given), labels int64."""
        return {
            name: bilevel.Batch(
                tensor_of(x, "inputs"), tensor_of(array_of(y, "labels").astype(np.int64), "labels")
            )
            for name, (x, y) in self.draw(seed or 0).items()
        }


def digits(
    width: Width = (64, 32),
    depth: int = 1,
    activation: str = "relu",
    ridge: float = 1e-3,
    validation: float = 0.2,
    test: float = 0.2,
    split: int | None = None,
    standardise: bool = False,
    weight_decay: float = 0.0,
) -> Classification:
    """Handwritten digits: 1,797 images of 8 x 8 pixels, ten classes (real data).

    Args:
        width: units per hidden layer, one number for all or one for each.
        depth: hidden layers.
        activation: one of relu, tanh, softplus, silu, gelu.
        ridge: lambda, at least 0.
        validation: share of the rows for validation; 0 for none.
        test: share of the rows for testing.
        split: None: the rows are split anew for every seed; a number: one split for all seeds.
        standardise: False: pixels over 16; True: standardised with the training rows.
        weight_decay: of the hidden layers, at least 0.

    Raises:
        ArgumentError: a number is out of its range, or `activation` is not known.

    Examples:
        >>> import bilevel
        >>> problem = bilevel.load_problem("digits")
        >>> {group: tuple(rows.inputs.shape) for group, rows in problem.data(0).items()}
        {'train': (1079, 64), 'test': (359, 64), 'validation': (359, 64)}
    """
    check_flag(standardise, "standardise")
    inputs, labels = load_digits(return_X_y=True)
    note = "Digits (Alpaydin, Kaynak 1998, in scikit-learn): 1,797 images of 8 x 8 pixels."
    return _table(inputs if standardise else inputs / 16, labels, note, locals())


def breast_cancer(
    width: Width = 64,
    depth: int = 1,
    activation: str = "relu",
    ridge: float = 1e-3,
    validation: float = 0.2,
    test: float = 0.2,
    split: int | None = None,
    weight_decay: float = 0.0,
) -> Classification:
    """Breast cancer: malignant or benign, from 30 measurements of 569 samples (real data).

    Args:
        width: units per hidden layer, one number for all or one for each.
        depth: hidden layers.
        activation: one of relu, tanh, softplus, silu, gelu.
        ridge: lambda, at least 0.
        validation: share of the rows for validation; 0 for none.
        test: share of the rows for testing.
        split: None: the rows are split anew for every seed; a number: one split for all seeds.
        weight_decay: of the hidden layers, at least 0.

    Raises:
        ArgumentError: a number is out of its range, or `activation` is not known.

    Examples:
        >>> import bilevel
        >>> problem = bilevel.load_problem("breast-cancer")
        >>> {group: tuple(rows.inputs.shape) for group, rows in problem.data(0).items()}
        {'train': (341, 30), 'test': (114, 30), 'validation': (114, 30)}
    """
    inputs, labels = load_breast_cancer(return_X_y=True)
    note = (
        "Breast cancer (Wolberg, Mangasarian, Street 1995, in scikit-learn): 569 samples, "
        "30 measurements of cell nuclei; class 1 is benign, 63 % of the samples."
    )
    return _table(inputs, labels, note, {**locals(), "standardise": True})


def standardised(splits: Labelled) -> Labelled:
    """Inputs with mean 0 and standard deviation 1 in every column of the training rows."""
    scale = Scaling.of(splits["train"][0])
    return {name: (scale(x), y) for name, (x, y) in splits.items()}


def _table(
    inputs: NDArray[np.float64], labels: NDArray[Any], note: str, options: Mapping[str, Any]
) -> Classification:
    """A problem on rows that are split at random."""
    split, standardise = options["split"], options["standardise"]
    check_flag(standardise, "standardise")
    if split is not None:
        check_seed(split, "`split`, the number of one split for all seeds, or None,")
    validation, test = options["validation"], options["test"]
    sizes = sizes_of_fractions(len(labels), validation, test)
    divide = random_split(inputs, labels, sizes, split)

    def draw(seed: int) -> Labelled:
        splits = divide(seed)
        return standardised(splits) if standardise else splits

    how = "Split anew for every seed" if split is None else f"One split (number {split}) for all"
    scaling = "standardised with training rows" if standardise else "pixels divided by 16"
    note += f" {how}, {float(validation):.0%} validation, {float(test):.0%} test; {scaling}."
    network = Network(options["width"], options["depth"], options["activation"])
    return Classification(
        draw,
        len(np.unique(labels)),
        network,
        options["ridge"],
        note,
        options["weight_decay"],
        redraws=split is None,
    )
