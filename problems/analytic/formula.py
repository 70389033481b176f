"""Problems that are written as formulas."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor
from typing_extensions import override

from bilevel import ConvexSet, Everywhere
from problems.analytic.base import AnalyticProblem, Curvature, Lipschitz, Optimum

Constants = tuple[float | Tensor, ...]
EVERYWHERE = Everywhere()


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Formula(AnalyticProblem):
    """A problem without data, given by its formulas; F is g.

    Args:
        name: the entry of the catalogue.
        g: of the body and the head.
        best: theta*(w).
        slope: grad Phi(w).
        bends: the smallest and the largest eigenvalue of d2_{theta theta} g at w.
        constants: of (w, theta*(w), radius): the five numbers of `Lipschitz`, in its order.
        start: a body to check at.
        start_value: Phi there.
        start_gradient: grad Phi there.
        solution: the minimum of Phi.
        source: where it comes from.
        one_sided: Phi'(w; d), for problems with kinks.
        body_set: W.
        head_set: Theta.
        spread: half the edge of the cubes that initial points are drawn from.
        note: what is special, for reports.
    """

    name: str
    g: Callable[[Tensor, Tensor], Tensor]
    best: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    bends: Callable[[Tensor], tuple[float | Tensor, float | Tensor]]
    constants: Callable[[Tensor, Tensor, float], Constants]
    start: Tensor
    start_value: float | None = None
    start_gradient: Tensor | None = None
    solution: Optimum | None = None
    source: str = "A unit test of this library."
    one_sided: Callable[[Tensor, Tensor], Tensor] | None = None
    body_set: ConvexSet = EVERYWHERE
    head_set: ConvexSet = EVERYWHERE
    spread: float = 0.5
    note: str = ""

    @override
    def head_objective(self, body: Tensor, head: Tensor, batch: dict[str, Any]) -> Tensor:
        return self.g(body, head)

    @override
    def best_response(self, body: Tensor) -> Tensor:
        return self.best(body)

    @override
    def phi_gradient(self, body: Tensor) -> Tensor:
        return self.slope(body)

    def directional_derivative(self, body: Tensor, direction: Tensor) -> Tensor:
        """Phi'(w; d), one-sided where there are kinks."""
        if self.one_sided is None:
            return super().directional_derivative(body, direction)
        return self.one_sided(body, direction)

    @override
    def curvature(self, body: Tensor) -> Curvature:
        smallest, largest = self.bends(body)
        return Curvature(float(smallest), float(largest))

    def lipschitz(self, body: Tensor, radius: float = math.inf) -> Lipschitz:
        """The constants, derived by hand."""
        found = self.constants(body, self.best(body), radius)
        return Lipschitz(*(float(number) for number in found))


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class BilevelFormula(Formula):
    """The same with an objective of the body's own.

    Args:
        F: of the body and the head; the others as in `Formula`.
    """

    F: Callable[[Tensor, Tensor], Tensor]

    @override
    def body_objective(self, body: Tensor, head: Tensor, batch: dict[str, Any]) -> Tensor:
        return self.F(body, head)
