"""Features that are given."""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Fixed:
    """The network of fixed features: phi = x. Its body is a number without effect.

    Args:
        width: M, the columns of the inputs.
    """

    width: int

    def init_body(self, generator: torch.Generator) -> Tensor:
        """A random number, so that seeds differ in something."""
        return torch.rand((), generator=generator, dtype=torch.float64)

    def features(self, body: Tensor, inputs: Tensor) -> Tensor:
        """The inputs."""
        return inputs

    def features_of_runs(self, body: Tensor, inputs: Tensor) -> Tensor:
        """The inputs."""
        return inputs

    def closed_form(
        self, body: Tensor, inputs: Tensor
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The inputs, and a derivative of zero."""
        return inputs, lambda along: torch.zeros_like(body)
