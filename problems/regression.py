"""Regression with a network whose last layer is a ridge regression, on standard data sets."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from sklearn.datasets import load_diabetes, make_friedman1, make_friedman2, make_friedman3
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional

import bilevel
from bilevel.errors import ArgumentError, unknown_name
from problems.splits import Arrays, Splits, last_rows, random_split, sizes_of_fractions

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "softplus": functional.softplus,
    "silu": functional.silu,
    "gelu": functional.gelu,
}


@dataclasses.dataclass(frozen=True)
class Network:
    """The body: `depth` hidden layers of `width` units, each sigma(x W + b).

    Args:
        width: units per layer, at least 1.
        depth: hidden layers, at least 1.
        activation: one of relu, tanh, softplus, silu, gelu.
    """

    width: int = 64
    depth: int = 1
    activation: str = "relu"

    def __post_init__(self) -> None:
        for size in (self.width, self.depth):
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ArgumentError(f"`width` and `depth` must be positive integers, got {self}.")
        if self.activation not in ACTIVATIONS:
            raise unknown_name("activation", self.activation, ACTIVATIONS)

    def init(self, inputs: int, generator: torch.Generator) -> dict[str, Tensor]:
        """torch's default of linear layers: weights and biases uniform in +-1/sqrt(fan-in)."""
        body, fan_in = {}, inputs
        for layer in range(1, self.depth + 1):
            body[f"weight{layer}"] = uniform((fan_in, self.width), fan_in, generator)
            body[f"bias{layer}"] = uniform((self.width,), fan_in, generator)
            fan_in = self.width
        return body

    def features(self, body: dict[str, Tensor], inputs: Tensor) -> Tensor:
        """The last hidden layer, (n, width)."""
        sigma, hidden = ACTIVATIONS[self.activation], inputs
        for layer in range(1, self.depth + 1):
            hidden = sigma(hidden @ body[f"weight{layer}"] + body[f"bias{layer}"])
        return hidden

    def weight_squares(self, body: dict[str, Tensor]) -> Tensor:
        """The sum of the squares of all weights, without the biases, 0-dim."""
        weights = [body[f"weight{layer}"] for layer in range(1, self.depth + 1)]
        return torch.stack([weight.square().sum() for weight in weights]).sum()


class Regression(bilevel.LinearHeadProblem):
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

    Raises:
        ArgumentError: `ridge` or `weight_decay` is negative, or no number.

    Source: arXiv 2605.15530, equation (8). Differs from the source in: 1. the mean over rows where
    the paper's normalisation could not be read; 2. biases in every layer; 3. any depth and
    activation; 4. an optional weight decay of the body.
    """

    redraws_data = True
    fit_bias = True

    def __init__(
        self,
        draw: Callable[[int], Splits],
        network: Network,
        ridge: float = 1e-4,
        note: str = "",
        weight_decay: float = 0.0,
    ) -> None:
        for name, value in (("ridge", ridge), ("weight_decay", weight_decay)):
            if not value >= 0:
                raise ArgumentError(f"`{name}` must be at least 0, got {value}.")
        self.draw, self.network, self.ridge, self.note = draw, network, ridge, note
        self.weight_decay = weight_decay
        self.columns = draw(0)["train"][0].shape[1]

    def data(self, seed: int | None = None) -> dict[str, Any]:
        """The standardised groups for a seed (0 where none is given)."""
        splits = self.draw(seed or 0)
        scale_inputs = StandardScaler().fit(splits["train"][0])
        scale_targets = StandardScaler().fit(splits["train"][1][:, None])
        return {
            name: bilevel.Batch(
                torch.from_numpy(scale_inputs.transform(x)),
                torch.from_numpy(scale_targets.transform(y[:, None])[:, 0]),
            )
            for name, (x, y) in splits.items()
        }

    def init_body(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Weights and biases of the hidden layers."""
        return self.network.init(self.columns, generator)

    def init_head(self, generator: torch.Generator) -> Tensor:
        """Weights and bias of the last layer, (width + 1,)."""
        return uniform((self.network.width + 1,), self.network.width, generator)

    def features(self, body: dict[str, Tensor], inputs: Tensor) -> Tensor:
        """The last hidden layer."""
        return self.network.features(body, inputs)

    def body_penalty(self, body: dict[str, Tensor]) -> float | Tensor:
        """The weight decay h of the hidden layers."""
        if self.weight_decay == 0:
            return 0.0
        return 0.5 * self.weight_decay * self.network.weight_squares(body)

    def overrides(self, hook: str) -> bool:
        """Without weight decay there is no `body_penalty` to differentiate."""
        ours = type(self).body_penalty is Regression.body_penalty
        if hook == "body_penalty" and ours and self.weight_decay == 0:
            return False
        return super().overrides(hook)


def uniform(shape: tuple[int, ...], fan_in: int, generator: torch.Generator) -> Tensor:
    """Uniform in +-1/sqrt(fan-in)."""
    drawn = 2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1
    return drawn / math.sqrt(fan_in)


def friedman1(
    width: int = 64,
    depth: int = 1,
    activation: str = "relu",
    ridge: float = 1e-4,
    noise: float = 1.0,
    train: int = 800,
    validation: int = 200,
    test: int = 1000,
    weight_decay: float = 0.0,
) -> Regression:
    """Friedman 1: 10 inputs, 5 of them relevant, additive noise."""
    return _friedman(1, make_friedman1, locals())


def friedman2(
    width: int = 64,
    depth: int = 1,
    activation: str = "relu",
    ridge: float = 1e-4,
    noise: float = 125.0,
    train: int = 800,
    validation: int = 200,
    test: int = 1000,
    weight_decay: float = 0.0,
) -> Regression:
    """Friedman 2: 4 inputs of very different scales, a signal dominated by one product."""
    return _friedman(2, make_friedman2, locals())


def friedman3(
    width: int = 64,
    depth: int = 1,
    activation: str = "relu",
    ridge: float = 1e-4,
    noise: float = 0.1,
    train: int = 800,
    validation: int = 200,
    test: int = 1000,
    weight_decay: float = 0.0,
) -> Regression:
    """Friedman 3: 4 inputs, the arc tangent of a ratio."""
    return _friedman(3, make_friedman3, locals())


def diabetes(
    width: int = 64,
    depth: int = 1,
    activation: str = "relu",
    ridge: float = 1e-4,
    validation: float = 0.2,
    test: float = 0.2,
    weight_decay: float = 0.0,
) -> Regression:
    """Diabetes progression of 442 patients from 10 measurements (real data)."""
    inputs, targets = load_diabetes(return_X_y=True, scaled=False)
    draw = random_split(inputs, targets, sizes_of_fractions(len(targets), validation, test))
    note = (
        "Diabetes (Efron et al. 2004, in scikit-learn): 442 patients, 10 measurements, target: "
        f"disease progression after a year. Split anew for every seed, {validation:.0%} "
        f"validation, {test:.0%} test; standardised with training rows."
    )
    return Regression(draw, Network(width, depth, activation), ridge, note, weight_decay)


def _friedman(number: int, make: Callable[..., Arrays], options: dict[str, Any]) -> Regression:
    sizes = {name: options[name] for name in ("train", "validation", "test")}
    if min(sizes.values()) < 2 or options["noise"] < 0:
        raise ArgumentError(
            f"Friedman data need at least 2 rows per group and noise >= 0: {sizes}."
        )

    def draw(seed: int) -> Splits:
        total = sum(sizes.values())
        inputs, targets = make(n_samples=total, noise=options["noise"], random_state=seed)
        return last_rows(
            inputs, targets, {"test": sizes["test"], "validation": sizes["validation"]}
        )

    note = (
        f"Friedman {number} (Friedman 1991, Breiman 1996, in scikit-learn), noise "
        f"{options['noise']:g}, {sizes['train']} training, {sizes['validation']} validation and "
        f"{sizes['test']} test rows, drawn anew for every seed; standardised with training rows."
    )
    network = Network(options["width"], options["depth"], options["activation"])
    return Regression(draw, network, options["ridge"], note, options["weight_decay"])
