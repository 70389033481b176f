"""A14: random quadratics of any size and condition."""

import math
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from bilevel.errors import ArgumentError
from bilevel.trees import Tree
from problems.analytic.base import (
    AnalyticProblem,
    Curvature,
    Lipschitz,
    Optimum,
    grown,
    solved,
    spectral,
)


class RandomQuadratic(AnalyticProblem):
    """A14: F = |K theta + M w - k|^2 / 2 + rho |w|^2 / 2, g = theta'H theta / 2 - theta'(C w + c).

    H has eigenvalues from mu to L, evenly spaced on a logarithmic scale, in a random basis; the
    other matrices are Gaussian. With `nonlinear`, tanh(w) takes the place of w in g, and H that
    of H(w) = mu I + s(w) (H - mu I) with s = 1 - tanh(b'w)^2 / 2, so that d2_{w theta} g depends
    on the head.

        theta*(w) = H(w)^-1 (C w + c)
        grad Phi  = M' r + rho w - (d2_{w theta} g) H(w)^-1 K' r,   r = K theta* + M w - k

    Without `nonlinear` Phi is a strongly convex quadratic, and its minimum is known.

    Args:
        body: d, the number of entries of the body.
        head: p, of the head.
        mu: the smallest eigenvalue, positive.
        largest: L, at least mu; it is mu where p is 1.
        seed: of all random numbers.
        tree: the head is {"first": (p // 3 or 1,), "second": the others}; needs p > 1.
        nonlinear: see above.

    Raises:
        ArgumentError: sizes or eigenvalues out of range.

    Source: A unit test of this library.

    Examples:
        >>> from problems.analytic import RandomQuadratic
        >>> problem = RandomQuadratic(body=3, head=5, mu=0.5, largest=20.0)
        >>> problem.curvature(problem.start)
        Curvature(smallest=0.5, largest=20.0)
    """

    name = "A14"
    source = "A unit test of this library."
    note = "Random matrices, no data."
    ridge = 0.1
    """rho."""

    def __init__(
        self,
        body: int = 100,
        head: int = 100,
        mu: float = 1.0,
        largest: float = 10.0,
        seed: int = 0,
        *,
        tree: bool = False,
        nonlinear: bool = False,
    ) -> None:
        if body < 1 or head < 1 + tree or not 0 < mu <= largest < math.inf:
            raise ArgumentError(
                "RandomQuadratic needs body >= 1, head >= 1 (2 with `tree`) and 0 < mu <= largest, "
                f"got {body=}, {head=}, {mu=}, {largest=}, {tree=}."
            )
        source = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=source, dtype=torch.float64)

        self.mu, self.largest = mu, largest if head > 1 else mu
        self.tree, self.nonlinear, self.cut = tree, nonlinear, max(head // 3, 1)
        basis: Tensor = torch.linalg.qr(normal(head, head))[0]
        share = torch.linspace(0, 1, head, dtype=torch.float64)
        values: Tensor = mu ** (1 - share) * self.largest**share - mu
        above = basis * values @ basis.T
        self.above: Tensor = (above + above.T) / 2
        """H - mu I."""
        wide, high = math.sqrt(body), math.sqrt(head)
        self.coupling: Tensor = normal(head, body) / wide
        self.offset: Tensor = normal(head)
        self.head_matrix: Tensor = normal(head, head) / high
        self.body_matrix: Tensor = normal(head, body) / wide
        self.target: Tensor = normal(head)
        self.along: Tensor = normal(body) / wide
        self.start = normal(body)
        self.solution = None if nonlinear else self._minimum()

    @override
    def head_objective(self, body: Tensor, head: Tree, batch: dict[str, Any]) -> Tensor:
        theta = self.vector(head)
        inner = self.scale(body) * (self.above.to(theta) @ theta) + self.mu * theta
        return (theta * inner).sum() / 2 - (theta * self.linear_term(body)).sum()

    @override
    def body_objective(self, body: Tensor, head: Tree, batch: dict[str, Any]) -> Tensor:
        residual = self.residual(body, self.vector(head))
        return residual.square().sum() / 2 + self.ridge * body.square().sum() / 2

    def vector(self, head: Tree) -> Tensor:
        """The head as one vector."""
        vector: Tensor = torch.cat([head["first"], head["second"]]) if self.tree else head
        return vector

    def shaped(self, theta: Tensor) -> Tree:
        """The inverse of `vector`."""
        if not self.tree:
            return theta
        return {"first": theta[: self.cut], "second": theta[self.cut :]}

    def scale(self, body: Tensor) -> float | Tensor:
        """s(w)."""
        if not self.nonlinear:
            return 1.0
        return 1 - (self.along.to(body) * body).sum().tanh() ** 2 / 2

    def linear_term(self, body: Tensor) -> Tensor:
        """C w + c."""
        moved = body.tanh() if self.nonlinear else body
        return self.coupling.to(body) @ moved + self.offset.to(body)

    def residual(self, body: Tensor, theta: Tensor) -> Tensor:
        """K theta + M w - k."""
        fit = self.head_matrix.to(theta) @ theta + self.body_matrix.to(body) @ body
        return fit - self.target.to(body)

    def hessian(self, body: Tensor) -> Tensor:
        """H(w)."""
        return self.scale(body) * self.above.to(body) + self.mu * torch.eye(len(self.above)).to(
            body
        )

    @override
    def best_response(self, body: Tensor) -> Tree:
        return self.shaped(solved(self.hessian(body), self.linear_term(body)))

    def cross(self, body: Tensor, theta: Tensor) -> Tensor:
        """d2_{w theta} g, (d, p): minus the derivative of C w + c, plus that of H(w) theta."""
        if not self.nonlinear:
            return -self.coupling.T.to(body)
        moved = -(self.coupling.to(body) * (1 - body.tanh() ** 2)).T
        return moved + torch.outer(self.scale_slope(body), self.above.to(body) @ theta)

    def scale_slope(self, body: Tensor) -> Tensor:
        """The derivative of s, (d,)."""
        bent = (self.along.to(body) * body).sum().tanh()
        return -bent * (1 - bent**2) * self.along.to(body)

    def phi_gradient(self, body: Tensor) -> Tensor:
        """The formula of the class docstring."""
        theta = self.vector(self.best_response(body))
        residual = self.residual(body, theta)
        adjoint = solved(self.hessian(body), self.head_matrix.T.to(body) @ residual)
        direct = self.body_matrix.T.to(body) @ residual + self.ridge * body
        return direct - self.cross(body, theta) @ adjoint

    def curvature(self, body: Tensor) -> Curvature:
        """mu, and mu + s(w) (L - mu)."""
        return Curvature(self.mu, float(self.mu + self.scale(body) * (self.largest - self.mu)))

    def lipschitz(self, body: Tensor, radius: float = math.inf) -> Lipschitz:
        """d2_{w theta} g is affine in the head, with the slope (L - mu) |s'(w)|."""
        theta = self.vector(self.best_response(body))
        slope = 0.0
        if self.nonlinear:
            slope = (self.largest - self.mu) * float(self.scale_slope(body).norm())
        return Lipschitz(
            spectral(self.body_matrix.T @ self.head_matrix),
            spectral(self.head_matrix) ** 2,
            slope,
            0.0,
            grown(spectral(self.cross(body, theta)), slope, radius),
        )

    def _minimum(self) -> Optimum:
        """Phi = |T w + e|^2 / 2 + rho |w|^2 / 2 with T = K H^-1 C + M, e = K H^-1 c - k."""
        zero = torch.zeros_like(self.start)
        inverse: Tensor = torch.linalg.inv(self.hessian(zero))
        total = self.head_matrix @ inverse @ self.coupling + self.body_matrix
        constant = self.head_matrix @ inverse @ self.offset - self.target
        normal = total.T @ total + self.ridge * torch.eye(len(zero), dtype=torch.float64)
        best = solved(normal, -total.T @ constant)
        value = (total @ best + constant).square().sum() / 2 + self.ridge * best.square().sum() / 2
        return Optimum(best, float(value))
