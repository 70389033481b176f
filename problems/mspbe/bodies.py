"""Networks as the features of values: layers without biases, and any `nn.Module`."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

import bilevel
from bilevel.core.checks import check_instance, check_positive_integer
from bilevel.errors import ArgumentError, IncompatibleError, check_name
from bilevel.problem.network.hidden_layers import ACTIVATIONS
from bilevel.trees import Tree
from problems.mspbe.products import multiplied

PullBack = Callable[[Tensor], Tree]
SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": lambda h: 1 - h * h,
    "softplus": lambda h: -torch.expm1(-h),
    "relu": lambda h: (h > 0).to(h.dtype),
}
"""sigma'(x) as a function of h = sigma(x), where it is one."""


@runtime_checkable
class Body(Protocol):
    """What a network must know: how a body is drawn, and its features."""

    def init_body(self, generator: torch.Generator) -> Tree:
        """A body."""

    def features(self, body: Any, inputs: Tensor) -> Tensor:
        """phi, (n, M), of inputs (n, D)."""

    def features_of_runs(self, body: Any, inputs: Tensor) -> Tensor:
        """phi of R runs, (R, n, M), of inputs (R, n, D)."""

    def closed_form(self, body: Any, inputs: Tensor) -> tuple[Tensor, PullBack] | None:
        """The same, and the map of a cotangent (R, n, M) to the bodies; None: not known."""

    @property
    def width(self) -> int:
        """M."""


@dataclasses.dataclass(frozen=True)
class Layers:
    r"""$\phi = \sigma(\dots \sigma(x W_1) W_2 \dots)$, without biases.

    $W_1$ is standard normal, for inputs of norm about 1; the others are standard normal divided by
    the root of their fan-in.

    Args:
        columns: D, of the inputs.
        widths: of the layers; M is the last.
        activation: one of relu, tanh, softplus, silu, gelu.

    Examples:
        >>> import torch
        >>> from problems.mspbe.bodies import Layers
        >>> body = Layers(8, (5,)).init_body(torch.Generator().manual_seed(0))
        >>> {name: tuple(weight.shape) for name, weight in body.items()}
        {'weight1': (8, 5)}
    """

    columns: int
    widths: tuple[int, ...] = (5,)
    activation: str = "tanh"

    def __post_init__(self) -> None:
        check_instance(self.widths, tuple | list, "widths", "(5,)")
        for size in (self.columns, *self.widths):
            check_positive_integer(size, "`columns` and `widths`")
        if not self.widths:
            raise ArgumentError("`widths` is empty: there must be a layer.")
        check_name(self.activation, ACTIVATIONS, "activation")

    @property
    def width(self) -> int:
        """M."""
        return self.widths[-1]

    def init_body(self, generator: torch.Generator) -> dict[str, Tensor]:
        """The weights of all layers."""
        body, fan_in = {}, self.columns
        for layer, size in enumerate(self.widths, 1):
            drawn = torch.randn(fan_in, size, generator=generator, dtype=torch.float64)
            body[f"weight{layer}"] = drawn if layer == 1 else drawn / math.sqrt(fan_in)
            fan_in = size
        return body

    def features(self, body: dict[str, Tensor], inputs: Tensor) -> Tensor:
        """The last layer."""
        sigma, hidden = ACTIVATIONS[self.activation], inputs
        for layer in range(1, len(self.widths) + 1):
            hidden = sigma(hidden @ body[f"weight{layer}"])
        return hidden

    # matrices multiply with a run axis as they do without
    features_of_runs = features

    def closed_form(
        self, body: dict[str, Tensor], inputs: Tensor
    ) -> tuple[Tensor, PullBack] | None:
        r"""The derivative of dense layers by hand.

        That of one layer along u is $x\, (u \circ \sigma'(W^\top x))^\top$, and so on.

        None for activations whose slope is no function of their value.
        """
        if self.activation not in SLOPES:
            return None
        sigma, slope = ACTIVATIONS[self.activation], SLOPES[self.activation]
        hidden = [inputs]
        for layer in range(1, len(self.widths) + 1):
            hidden.append(sigma(multiplied(hidden[-1], body[f"weight{layer}"])))

        def pull(along: Tensor) -> dict[str, Tensor]:
            found = {}
            for layer in range(len(self.widths), 0, -1):
                along = along * slope(hidden[layer])
                found[f"weight{layer}"] = multiplied(hidden[layer - 1].mT, along)
                if layer > 1:
                    along = along @ body[f"weight{layer}"].mT
            return {name: found[name] for name in body}

        return hidden[-1], pull


class Module:
    """Any `nn.Module` that `bilevel.split` takes: what it feeds to its last linear layer.

    Where that layer has a bias, a constant feature is appended.

    Args:
        make_module: makes a new module with one output.
        head: the name of the last linear layer.

    Raises:
        IncompatibleError: the module has several outputs.

    Examples:
        >>> from torch import nn
        >>> from problems.mspbe.bodies import Module
        >>> Module(lambda: nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 1)), "2").width
        6
    """

    def __init__(self, make_module: Callable[[], nn.Module], head: str) -> None:
        self._split = bilevel.split(make_module, head=head)
        if self._split.outputs is not None:
            raise IncompatibleError(
                f"The head {head!r} has {self._split.outputs} outputs; a value function has one."
            )

    @property
    def width(self) -> int:
        """M, the constant feature included."""
        return self._split.head_shape[0]

    def init_body(self, generator: torch.Generator) -> dict[str, Tensor]:
        """The parameters of a new module, but for its last layer."""
        return self._split.init_body(generator)

    def features(self, body: dict[str, Tensor], inputs: Tensor) -> Tensor:
        """What the last layer sees."""
        z = self._split.features(body, inputs)
        return torch.cat([z, torch.ones_like(z[:, :1])], dim=1) if self._split.fit_bias else z

    def features_of_runs(self, body: dict[str, Tensor], inputs: Tensor) -> Tensor:
        """The same for many runs."""
        found: Tensor = torch.func.vmap(self.features)(body, inputs)
        return found

    def closed_form(
        self, body: dict[str, Tensor], inputs: Tensor
    ) -> tuple[Tensor, PullBack] | None:
        """Not known."""
        return None
