"""A linear system that remembers its factor."""

import dataclasses
import functools

from torch import Tensor

from bilevel.linear.factor import Factor
from bilevel.linear.systems import AbstractSystem, PrimalSystem


@dataclasses.dataclass(frozen=True, eq=False)
class KeptSystem(AbstractSystem):
    """A system that is factored once, however often its minimiser or its factor is asked for.

    Args:
        system: any other.
    """

    system: AbstractSystem

    @functools.cached_property
    def _made(self) -> tuple[Tensor, Tensor, Factor]:
        return self.system.factorised()

    def factorised(self) -> tuple[Tensor, Tensor, Factor]:
        """Those of the first time."""
        return self._made

    def gradient_norm(self, theta: Tensor) -> Tensor:
        """As the system tells it."""
        return self.system.gradient_norm(theta)

    def curvature(self) -> tuple[Tensor, Tensor]:
        """As the system tells it."""
        return self.system.curvature()

    def definite(self) -> Tensor:
        """As the system tells it."""
        return self.system.definite()

    def primal(self) -> PrimalSystem:
        """Of the system."""
        return self.system.primal()
