"""What a problem with known answers states."""

import abc
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

import bilevel
from bilevel import Curvature as Curvature
from bilevel import Lipschitz as Lipschitz
from bilevel import trees
from bilevel.trees import Tree


def double(*values: float) -> Tensor:
    """A float64 tensor: 0-dim for one value, 1-d for more."""
    return torch.tensor(values[0] if len(values) == 1 else values, dtype=torch.float64)


class Optimum(NamedTuple):
    """The minimum of Phi.

    Attributes:
        body: where.
        value: Phi there.
    """

    body: Tensor
    value: float


class AnalyticProblem(bilevel.StackelbergProblem):
    """A problem whose answers are known: theta*(w), Phi(w) = F(w, theta*(w)) and grad Phi(w).

    The initial bodies are uniform in a cube around `start`, the initial heads in one around
    theta*(start), both projected onto their sets. Everything is float64.
    """

    name: str
    """The entry of the catalogue: "A1", ..."""
    source: str
    """Where the problem comes from."""
    start: Tensor
    """A body to check derivatives at."""
    start_value: float | None = None
    """Phi at `start`, as a number written down beforehand."""
    start_gradient: Tensor | None = None
    """grad Phi at `start`, likewise."""
    solution: Optimum | None = None
    """The minimum of Phi; None if it is not known, or not attained."""
    spread: float = 0.5
    """Half the edge of the cubes that initial points are drawn from."""

    @abc.abstractmethod
    def best_response(self, body: Tensor) -> Tree:
        """theta*(w), differentiable by autograd."""

    @abc.abstractmethod
    def phi_gradient(self, body: Tensor) -> Tensor:
        """grad Phi(w), written down without automatic differentiation; at a kink, one choice."""

    @abc.abstractmethod
    def curvature(self, body: Tensor) -> Curvature:
        """mu and L of g(w, .)."""

    @abc.abstractmethod
    def lipschitz(self, body: Tensor, radius: float = math.inf) -> Lipschitz:
        """Constants that hold for all heads of the head set within `radius` of theta*(w)."""

    def known_curvature(self, body: Tensor) -> Curvature:
        """`curvature`, for the library's bounds."""
        return self.curvature(body)

    def known_lipschitz(self, body: Tensor, head: Tree, radius: float) -> Lipschitz:
        """`lipschitz`, likewise: the heads between `head` and theta*(w) are near theta*(w)."""
        return self.lipschitz(body, radius)

    def phi(self, body: Tensor) -> Tensor:
        """Phi(w), 0-dim."""
        return self.body_objective(body, self.best_response(body), self.rows())

    def directional_derivative(self, body: Tensor, direction: Tensor) -> Tensor:
        """lim (Phi(w + t d) - Phi(w)) / t for t from above: at a kink it is not linear in d."""
        return (self.phi_gradient(body) * direction).sum()

    def rows(self) -> dict[str, Any]:
        """What the objectives see of the data."""
        return {name: group for name, group in self.data().items() if name != "test"}

    @override
    def data(self, seed: int | None = None) -> dict[str, Any]:
        return {}

    @override
    def init_body(self, generator: torch.Generator) -> Tensor:
        drawn: Tensor = self.body_set.project(around(self.start, self.spread, generator))
        return drawn

    def init_head(self, generator: torch.Generator) -> Tree:
        """Uniform around theta*(start)."""
        centre = self.best_response(self.start)
        drawn = trees.tree_map(lambda leaf: around(leaf, self.spread, generator), centre)
        return self.head_set.project(drawn)

    def metrics(self, body: Tensor, head: Tree, data: dict[str, Any]) -> dict[str, Tensor]:
        """Squared distances of body and head to the optimum, where it is known."""
        if self.solution is None:
            return {}
        best = self.solution.body.to(body)
        off = trees.tree_map(torch.sub, head, self.best_response(best))
        squares = [leaf.square().sum() for leaf in trees.leaves(off)]
        return {
            "body_error": (body - best).square().sum(),
            "head_error": torch.stack(squares).sum(),
        }


def around(centre: Tensor, spread: float, generator: torch.Generator) -> Tensor:
    """Uniform in the cube of half edge `spread` around `centre`."""
    drawn = torch.rand(centre.shape, generator=generator, dtype=torch.float64)
    return centre + spread * (2 * drawn - 1)


def grown(at_centre: float | Tensor, slope: float | Tensor, radius: float) -> float:
    """at_centre + slope * radius, where a slope of 0 stays 0 at an infinite radius."""
    return float(at_centre) + (float(slope) * radius if float(slope) else 0.0)


def solved(matrix: Tensor, right: Tensor) -> Tensor:
    """matrix^-1 right."""
    found: Tensor = torch.linalg.solve(matrix, right)
    return found


def spectral(matrix: Tensor) -> float:
    """The largest singular value."""
    return float(torch.linalg.matrix_norm(matrix, ord=2))
