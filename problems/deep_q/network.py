"""What a Q network is, a body and a linear head with a column for each action; one of layers."""

import dataclasses
import itertools
from typing import Protocol

import torch
from torch import Tensor

from bilevel.core.checks import check_positive_integer
from bilevel.trees import Tree


class QNetwork(Protocol):
    """Features z(s) of the body; Q(s, .) = z(s) Theta with a bias in the last row of Theta."""

    def init_body(self, generator: torch.Generator) -> Tree:
        """The body of one run, drawn with `generator` only."""

    def init_head(self, actions: int, generator: torch.Generator) -> Tensor:
        """Its head, (M + 1, actions), likewise; the last row is the bias."""

    def features(self, body: Tree, observations: Tensor) -> Tensor:
        """The features (n, M) of `observations` (n, ...) for one run.

        It is mapped over runs and differentiated: operations of tensors only, none in place.
        Observations come as the environment gives them, uint8 too.
        """

    def features_of_runs(self, body: Tree, observations: Tensor) -> Tensor:
        """The same for R runs: bodies with leaves (R, ...), (R, n, ...) to (R, n, M), no graph.

        Called at every step to act and for the targets, so it is to be quick; a run's features
        must not depend on the others.
        """


@dataclasses.dataclass(frozen=True)
class Layers:
    """Fully connected layers with ReLU, initialised as torch's `Linear` is.

    Args:
        inputs: numbers of an observation.
        widths: of the hidden layers; the last one is the number of features.
    """

    inputs: int
    widths: tuple[int, ...] = (64, 64)

    def __post_init__(self) -> None:
        for width in (self.inputs, *self.widths):
            check_positive_integer(width, "a width of `Layers`")

    def init_body(self, generator: torch.Generator) -> Tree:
        """Weights (i, o) and biases (1, o) of each layer, uniform within 1/sqrt(i)."""
        sizes = itertools.pairwise((self.inputs, *self.widths))
        layers = {number: _layer(i, o, generator) for number, (i, o) in enumerate(sizes)}
        weights = {f"w{number}": layer[:-1].clone() for number, layer in layers.items()}
        return weights | {f"b{number}": layer[-1:].clone() for number, layer in layers.items()}

    def init_head(self, actions: int, generator: torch.Generator) -> Tensor:
        """Likewise, the bias in the last row."""
        return _layer(self.widths[-1], actions, generator)

    def features(self, body: Tree, observations: Tensor) -> Tensor:
        """The last hidden layer, (n, M)."""
        z = observations.flatten(1)
        for number in range(len(self.widths)):
            z = (z @ body[f"w{number}"] + body[f"b{number}"]).relu()
        return z

    def features_of_runs(self, body: Tree, observations: Tensor) -> Tensor:
        """The same for R runs, (R, n, M)."""
        z = observations.flatten(2)
        for number in range(len(self.widths)):
            z = torch.baddbmm(body[f"b{number}"], z, body[f"w{number}"]).relu_()
        return z


def _layer(inputs: int, outputs: int, generator: torch.Generator) -> Tensor:
    """Weights, and biases in the last row, (inputs + 1, outputs)."""
    bound = inputs**-0.5
    drawn = torch.rand(inputs + 1, outputs, generator=generator, dtype=torch.float64)
    found: Tensor = (2 * drawn - 1) * bound
    return found


def values(features: Tensor, head: Tensor) -> Tensor:
    """Q of all actions from features (R, n, M) and heads (R, M + 1, A): (R, n, A)."""
    return torch.baddbmm(head[:, -1:], features, head[:, :-1])
