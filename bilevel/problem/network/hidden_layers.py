"""Networks whose hidden layers are the body and whose last linear layer is the head."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from bilevel.core.checks import check_positive_integer, single
from bilevel.errors import ArgumentError, check_name
from bilevel.problem.linear_head import LinearHeadProblem

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "softplus": functional.softplus,
    "silu": functional.silu,
    "gelu": functional.gelu,
}
IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu_, "tanh": torch.tanh_}
"""Activations whose derivative is known from their result: they may write over what they are of."""
Width = int | Sequence[int]
"""Units per hidden layer: one number for all layers, or one for each."""


@dataclasses.dataclass(frozen=True)
class Network:
    """The body: hidden layers, each sigma(x W + b).

    Args:
        width: units per layer, at least 1; one number for all of `depth` layers, or one for each
            layer.
        depth: hidden layers, at least 1; where `width` names every layer it may be left out.
        activation: one of relu, tanh, softplus, silu, gelu.

    Examples:
        >>> Network(64, depth=2).widths, Network((64, 32)).widths
        ((64, 64), (64, 32))
    """

    width: Width = 64
    depth: int = 1
    activation: str = "relu"

    def __post_init__(self) -> None:
        if isinstance(self.width, Sequence) and not isinstance(self.width, str):
            object.__setattr__(self, "width", tuple(self.width))
        check_positive_integer(self.depth, "`depth`")
        for size in self.width if isinstance(self.width, tuple) else [self.width]:
            check_positive_integer(size, "`width`")
        if isinstance(self.width, tuple) and self.depth not in (1, len(self.width)):
            raise ArgumentError(
                f"`width` names {len(self.width)} layers and `depth` {self.depth}: leave out "
                "`depth`, or give one width for all layers."
            )
        if not self.widths:
            raise ArgumentError("`width` is empty: a network has at least one hidden layer.")
        check_name(self.activation, ACTIVATIONS, "activation")

    @property
    def widths(self) -> tuple[int, ...]:
        """Units of every hidden layer, the first one first."""
        if isinstance(self.width, Sequence):
            return tuple(self.width)
        return (int(self.width),) * self.depth

    @property
    def outputs(self) -> int:
        """M, the units of the last hidden layer."""
        return self.widths[-1]

    def init(self, inputs: int, generator: torch.Generator) -> dict[str, Tensor]:
        """torch's default of linear layers: weights and biases uniform in +-1/sqrt(fan-in)."""
        body, fan_in = {}, inputs
        for layer, width in enumerate(self.widths, 1):
            body[f"weight{layer}"] = uniform((fan_in, width), fan_in, generator)
            body[f"bias{layer}"] = uniform((width,), fan_in, generator)
            fan_in = width
        return body

    def features(self, body: dict[str, Tensor], inputs: Tensor) -> Tensor:
        """The last hidden layer, (n, M)."""
        # activations in place: of many runs each further array of this size costs as much as the
        # product; the compiler makes none, and makes less of code that writes over its arrays
        eager, hidden = not torch.compiler.is_compiling(), inputs
        sigma = (eager and IN_PLACE.get(self.activation)) or ACTIVATIONS[self.activation]
        for layer in range(1, len(self.widths) + 1):
            hidden = sigma(hidden @ body[f"weight{layer}"] + body[f"bias{layer}"])
        return hidden

    def weight_squares(self, body: dict[str, Tensor]) -> Tensor:
        """The sum of the squares of all weights, without the biases, 0-dim."""
        weights = [body[f"weight{layer}"] for layer in range(1, len(self.widths) + 1)]
        return torch.stack([weight.square().sum() for weight in weights]).sum()


class NetworkProblem(LinearHeadProblem):
    """A network as a problem: g = loss + lambda/2 |theta|^2 + h(body).

    The bias of the head is penalised only with `penalize_bias`, those of the hidden layers never.

    h = weight_decay/2 sum_l |W_l|^2 over the weights of the hidden layers. It is part of both
    levels, so that Danskin's gradient stays exact, and it leaves the best response as it is.

    Args:
        network: the body.
        columns: D, of the inputs.
        ridge: lambda, at least 0.
        note: one sentence on the data.
        weight_decay: of the hidden layers, at least 0.

    Raises:
        ArgumentError: `ridge` or `weight_decay` is negative, or no number.
    """

    fit_bias = True

    def __init__(
        self, network: Network, columns: int, ridge: float, note: str, weight_decay: float
    ) -> None:
        for name, value in (("ridge", ridge), ("weight_decay", weight_decay)):
            single(value, f"`{name}`", zero_allowed=True)
        self.network, self.columns, self.note = network, columns, note
        self.ridge, self.weight_decay = float(ridge), float(weight_decay)

    def init_body(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Weights and biases of the hidden layers."""
        return self.network.init(self.columns, generator)

    def init_head(self, generator: torch.Generator) -> Tensor:
        """Weights and bias of the last layer, (M + 1,) or (M + 1, K)."""
        width = self.network.outputs
        return uniform(self.head_shape(width + 1), width, generator)

    @override
    def features(self, body: dict[str, Tensor], inputs: Tensor) -> Tensor:
        return self.network.features(body, inputs)

    def body_penalty(self, body: dict[str, Tensor]) -> float | Tensor:
        """The weight decay h of the hidden layers."""
        if self.weight_decay == 0:
            return 0.0
        return 0.5 * self.weight_decay * self.network.weight_squares(body)

    def overrides(self, hook: str) -> bool:
        """Without weight decay there is no `body_penalty` to differentiate."""
        ours = type(self).body_penalty is NetworkProblem.body_penalty
        if hook == "body_penalty" and ours and self.weight_decay == 0:
            return False
        return super().overrides(hook)


def uniform(shape: tuple[int, ...], fan_in: int, generator: torch.Generator) -> Tensor:
    """Uniform in +-1/sqrt(fan-in)."""
    drawn = 2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1
    return drawn / math.sqrt(fan_in)
