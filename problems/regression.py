"""Regression with a network whose last layer is a ridge regression, on standard data sets."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from sklearn.datasets import load_diabetes, make_friedman1, make_friedman2, make_friedman3

import bilevel
from bilevel.core.arrays import array_of
from bilevel.core.checks import check_positive_integer, single
from bilevel.errors import ArgumentError
from bilevel.problem.network.hidden_layers import Network, NetworkProblem, Width
from bilevel.tables.scaling import Scaling
from problems.splits import Arrays, Splits, last_rows, random_split, sizes_of_fractions


class Regression(NetworkProblem):
    """g = 1/(2n) |z theta + b - y|^2 + lambda/2 |theta|^2 + h(body), z the last hidden layer.

    h = weight_decay/2 sum_l |W_l|^2 over the weights of the hidden layers of a network. It is part
    of both levels, so that Danskin's gradient stays exact, and it leaves the best response as it
    is. Biases are not penalised, neither those of the hidden layers nor that of the head. Inputs
    and targets are standardised with the training rows' mean and standard deviation.

    Args:
        draw: `draw(seed)` gives raw (inputs, targets) arrays by group: "train", "validation",
            "test".
        network: the body.
        ridge: lambda, at least 0.
        note: one sentence on the data.
        weight_decay: of the hidden layers, at least 0.
        names: of the columns of the inputs, for messages; empty: their numbers.
        target: the name of the target, for messages.

    Raises:
        ArgumentError: `ridge` or `weight_decay` is negative, or no number.

    Source: arXiv 2605.15530, equation (8). Differs from the source in: 1. the mean over rows where
    the paper's normalisation could not be read; 2. biases in every layer; 3. any depth and
    activation; 4. an optional weight decay of the body.
    """

    redraws_data = True

    def __init__(
        self,
        draw: Callable[[int], Splits],
        network: Network,
        ridge: float = 1e-4,
        note: str = "",
        weight_decay: float = 0.0,
        names: Sequence[str] = (),
        target: str = "target",
    ) -> None:
        columns = array_of(draw(0)["train"][0], "inputs").shape[1]
        super().__init__(network, columns, ridge, note, weight_decay)
        self.draw, self.names, self.target = draw, tuple(names), target

    def data(self, seed: int | None = None) -> dict[str, Any]:
        """The standardised groups for a seed (0 where none is given).

        Raises:
            DataError: a column cannot be standardised; the message names it.
        """
        splits = self.draw(seed or 0)
        of_inputs, of_targets = self.scalings(splits)
        return {
            name: bilevel.Batch(
                torch.from_numpy(of_inputs(x)),
                torch.from_numpy(of_targets(array_of(y, "targets")[:, None])[:, 0]),
            )
            for name, (x, y) in splits.items()
        }

    def scalings(self, splits: Splits) -> tuple[Scaling, Scaling]:
        """The standardisations of inputs and target by the training rows of some splits."""
        inputs, targets = splits["train"]
        return (
            Scaling.of(inputs, self.names),
            Scaling.of(array_of(targets, "targets")[:, None], (self.target,)),
        )


def friedman1(
    width: Width = 64,
    depth: int = 1,
    activation: str = "relu",
    ridge: float = 1e-4,
    noise: float = 1.0,
    train: int = 800,
    validation: int = 200,
    test: int = 1000,
    weight_decay: float = 0.0,
) -> Regression:
    """Friedman 1: 10 inputs, 5 of them relevant, additive noise.

    Args:
        width: units per hidden layer, one number for all or one for each.
        depth: hidden layers.
        activation: one of relu, tanh, softplus, silu, gelu.
        ridge: lambda, at least 0.
        noise: its standard deviation, at least 0.
        train: rows of each seed.
        validation: further rows; 0 for none.
        test: further rows.
        weight_decay: of the hidden layers, at least 0.

    Raises:
        ArgumentError: a number is out of its range, or `activation` is not known.

    Source: J. H. Friedman, Multivariate adaptive regression splines, Ann. Statist. 19 (1991), as in
    scikit-learn. Differs from the source in: None.

    Examples:
        >>> import bilevel
        >>> problem = bilevel.load_problem("friedman1", width=8, train=50)
        >>> {group: tuple(rows.inputs.shape) for group, rows in problem.data(0).items()}
        {'train': (50, 10), 'test': (1000, 10), 'validation': (200, 10)}
    """
    return _friedman(1, make_friedman1, locals())


def friedman2(
    width: Width = 64,
    depth: int = 1,
    activation: str = "relu",
    ridge: float = 1e-4,
    noise: float = 125.0,
    train: int = 800,
    validation: int = 200,
    test: int = 1000,
    weight_decay: float = 0.0,
) -> Regression:
    """Friedman 2: 4 inputs of very different scales, a signal dominated by one product.

    Args:
        width: units per hidden layer, one number for all or one for each.
        depth: hidden layers.
        activation: one of relu, tanh, softplus, silu, gelu.
        ridge: lambda, at least 0.
        noise: its standard deviation, at least 0.
        train: rows of each seed.
        validation: further rows; 0 for none.
        test: further rows.
        weight_decay: of the hidden layers, at least 0.

    Raises:
        ArgumentError: a number is out of its range, or `activation` is not known.

    Source: J. H. Friedman, Multivariate adaptive regression splines, Ann. Statist. 19 (1991), as in
    scikit-learn. Differs from the source in: None.

    Examples:
        >>> import bilevel
        >>> problem = bilevel.load_problem("friedman2", width=8, train=50)
        >>> {group: tuple(rows.inputs.shape) for group, rows in problem.data(0).items()}
        {'train': (50, 4), 'test': (1000, 4), 'validation': (200, 4)}
    """
    return _friedman(2, make_friedman2, locals())


def friedman3(
    width: Width = 64,
    depth: int = 1,
    activation: str = "relu",
    ridge: float = 1e-4,
    noise: float = 0.1,
    train: int = 800,
    validation: int = 200,
    test: int = 1000,
    weight_decay: float = 0.0,
) -> Regression:
    """Friedman 3: 4 inputs, the arc tangent of a ratio.

    Args:
        width: units per hidden layer, one number for all or one for each.
        depth: hidden layers.
        activation: one of relu, tanh, softplus, silu, gelu.
        ridge: lambda, at least 0.
        noise: its standard deviation, at least 0.
        train: rows of each seed.
        validation: further rows; 0 for none.
        test: further rows.
        weight_decay: of the hidden layers, at least 0.

    Raises:
        ArgumentError: a number is out of its range, or `activation` is not known.

    Source: J. H. Friedman, Multivariate adaptive regression splines, Ann. Statist. 19 (1991), as in
    scikit-learn. Differs from the source in: None.

    Examples:
        >>> import bilevel
        >>> problem = bilevel.load_problem("friedman3", width=8, train=50)
        >>> {group: tuple(rows.inputs.shape) for group, rows in problem.data(0).items()}
        {'train': (50, 4), 'test': (1000, 4), 'validation': (200, 4)}
    """
    return _friedman(3, make_friedman3, locals())


def diabetes(
    width: Width = 64,
    depth: int = 1,
    activation: str = "relu",
    ridge: float = 1e-4,
    validation: float = 0.2,
    test: float = 0.2,
    weight_decay: float = 0.0,
) -> Regression:
    """Diabetes progression of 442 patients from 10 measurements (real data).

    Args:
        width: units per hidden layer, one number for all or one for each.
        depth: hidden layers.
        activation: one of relu, tanh, softplus, silu, gelu.
        ridge: lambda, at least 0.
        validation: share of the rows for validation; 0 for none.
        test: share of the rows for testing.
        weight_decay: of the hidden layers, at least 0.

    Raises:
        ArgumentError: a number is out of its range, or `activation` is not known.

    Source: Efron, Hastie, Johnstone and Tibshirani, Least angle regression (2004), as in
    scikit-learn.

    Examples:
        >>> import bilevel
        >>> problem = bilevel.load_problem("diabetes", width=8)
        >>> {group: tuple(rows.inputs.shape) for group, rows in problem.data(0).items()}
        {'train': (266, 10), 'test': (88, 10), 'validation': (88, 10)}
    """
    inputs, targets = load_diabetes(return_X_y=True, scaled=False)
    draw = random_split(inputs, targets, sizes_of_fractions(len(targets), validation, test))
    note = (
        "Diabetes (Efron et al. 2004, in scikit-learn): 442 patients, 10 measurements, target: "
        f"disease progression after a year. Split anew for every seed, {float(validation):.0%} "
        f"validation, {float(test):.0%} test; standardised with training rows."
    )
    return Regression(draw, Network(width, depth, activation), ridge, note, weight_decay)


def _friedman(number: int, make: Callable[..., Arrays], options: dict[str, Any]) -> Regression:
    sizes = {name: options[name] for name in ("train", "validation", "test")}
    for name, size in sizes.items():
        check_positive_integer(size, f"`{name}`")
    noise = single(options["noise"], "`noise`", zero_allowed=True)
    if min(sizes.values()) < 2:
        raise ArgumentError(f"Friedman data need at least 2 rows per group: {sizes}.")

    def draw(seed: int) -> Splits:
        total = sum(sizes.values())
        inputs, targets = make(n_samples=total, noise=noise, random_state=seed)
        return last_rows(
            inputs, targets, {"test": sizes["test"], "validation": sizes["validation"]}
        )

    note = (
        f"Friedman {number} (Friedman 1991, Breiman 1996, in scikit-learn), noise "
        f"{noise:g}, {sizes['train']} training, {sizes['validation']} validation and "
        f"{sizes['test']} test rows, drawn anew for every seed; standardised with training rows."
    )
    network = Network(options["width"], options["depth"], options["activation"])
    return Regression(draw, network, options["ridge"], note, options["weight_decay"])
