"""Balls around the origin."""

import dataclasses
import sys
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from bilevel import trees
from bilevel.core.checks import is_real
from bilevel.core.optional import extra
from bilevel.errors import ArgumentError, spell
from bilevel.problem.sets.base import ConvexSet, Derivative
from bilevel.problem.sets.face import Face, flat_pair
from bilevel.problem.sets.simplex import centred, on_simplex, rounding
from bilevel.trees import Tree

LARGEST = 2**53
"""Larger integers are rounded to floats: their squares may be too large for tensors."""


@dataclasses.dataclass(frozen=True, eq=False)
class Ball(ConvexSet):
    r"""$\lVert x\rVert \le \text{radius}$, the norm taken over all leaves together.

    It projects by $x \min(1, \text{radius} / \lVert x\rVert)$.

    Args:
        radius: positive.

    Raises:
        ArgumentError: `radius` is not positive and finite.

    Examples:
        >>> import torch
        >>> from bilevel import Ball
        >>> Ball(1.0).project(torch.tensor([[3.0, 4.0]]))
        tensor([[0.6000, 0.8000]])
    """

    radius: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "radius", _radius(self.radius, "A ball"))

    def project(self, tree: Tree) -> Tree:
        """Shrink the runs that lie outside."""
        flat = trees.flatten(tree)
        wide = flat.double()
        norm = trees.norm(wide).unsqueeze(1)
        inside = norm <= self.radius * (1 + rounding(flat))
        found = torch.where(inside, flat, (wide * (self.radius / norm)).to(flat.dtype))
        return trees.unflatten(found, tree)

    def linearised(self, tree: Tree) -> tuple[Tree, Derivative]:
        """Outside radius/|x| (I - u u') with u = x/|x|, inside the identity."""
        flat = trees.flatten(tree)
        projected = self.project(tree)
        norm = trees.norm(flat.double()).unsqueeze(1)
        inside = norm <= self.radius * (1 + rounding(flat))
        shrink = (self.radius / norm).to(flat.dtype)

        def derivative(vector: Tree) -> Tree:
            along, unit = trees.flatten(vector), trees.flatten(projected) / self.radius
            across = along - unit * (unit * along).sum(1, keepdim=True)
            return trees.unflatten(torch.where(inside, along, shrink * across), vector)

        return projected, derivative

    def face(self, tree: Tree, slope: Tree, step: Tensor) -> Face:
        """The sphere, for runs that would leave the ball."""
        points, landed = flat_pair(tree, slope, step)
        outside = trees.norm(landed) > self.radius
        square = points.square().sum(1)
        multiplier = -(points * trees.flatten(slope)).sum(1) / square
        return Face(
            torch.ones_like(points, dtype=torch.bool),
            points,
            normal=torch.where(outside.unsqueeze(1), points, 0.0),
            gap=torch.where(outside, (self.radius * self.radius - square) / 2, 0.0),
            shift=torch.where(outside, multiplier.clamp(min=0), 0.0),
        )

    @override
    def constraints(self, variable: Any) -> list[Any]:
        cvxpy = extra("cvxpy", "cvxpy", "The cvxpy form of Ball")
        return [cvxpy.norm(cvxpy.vec(variable, order="C"), 2) <= self.radius]


@dataclasses.dataclass(frozen=True, eq=False)
class L1Ball(ConvexSet):
    r"""$\sum_i |x_i| \le \text{radius}$ over all numbers of all leaves together.

    The projection of a point outside is $\operatorname{sign}(x)$ times that of $|x|$ onto the
    numbers that are not negative and sum to the radius: it sets small numbers to zero.

    Args:
        radius: positive and finite.

    Raises:
        ArgumentError: `radius` is not positive and finite.

    Source: Duchi, Shalev-Shwartz, Singer, Chandra, Efficient projections onto the l1-ball (2008),
    figure 1. Differs from the source in: None.

    Examples:
        >>> import torch
        >>> from bilevel import L1Ball
        >>> L1Ball(1.0).project(torch.tensor([[1.5, -1.0, 0.1], [0.2, 0.3, -0.1]]))
        tensor([[ 0.7500, -0.2500,  0.0000],
                [ 0.2000,  0.3000, -0.1000]])
    """

    radius: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "radius", _radius(self.radius, "An l1 ball", float("inf")))

    def project(self, tree: Tree) -> Tree:
        """Shrink the runs that lie outside."""
        flat = trees.flatten(tree)
        wide = flat.double()
        sizes = wide.abs()
        inside = sizes.sum(1) <= self.radius * (1 + rounding(flat))
        # only differences matter, and sizes / radius could overflow
        weights = on_simplex((sizes - sizes.amax(1, keepdim=True)) / self.radius)
        # + 0: what is zero has no sign
        shrunk = wide.sign() * self.radius * weights + 0.0
        found = torch.where(inside.unsqueeze(1), flat, shrunk.to(flat.dtype))
        return trees.unflatten(found, tree)

    def linearised(self, tree: Tree) -> tuple[Tree, Derivative]:
        """Outside, with s the k signs that are left: I - s s'/k on these, 0 on the zeros."""
        flat = trees.flatten(tree)
        projected = self.project(tree)
        inside = flat.double().abs().sum(1) <= self.radius * (1 + rounding(flat))

        def derivative(vector: Tree) -> Tree:
            along, signs = trees.flatten(vector), trees.flatten(projected).sign()
            across = centred(along, signs)
            return trees.unflatten(torch.where(inside.unsqueeze(1), along, across), vector)

        return projected, derivative

    def face(self, tree: Tree, slope: Tree, step: Tensor) -> Face:
        """Signs and zeros of the projection, for runs that would leave the ball."""
        points, landed = flat_pair(tree, slope, step)
        outside = (landed.abs().sum(1) > self.radius).unsqueeze(1)
        signs = torch.where(outside, self.project(landed).sign(), 0.0)
        gap = self.radius - (signs * points).sum(1)
        return Face(
            (signs != 0) | ~outside,
            torch.zeros_like(points),
            normal=signs,
            gap=torch.where(outside.squeeze(1), gap, 0.0),
        )

    @override
    def constraints(self, variable: Any) -> list[Any]:
        cvxpy = extra("cvxpy", "cvxpy", "The cvxpy form of L1Ball")
        return [cvxpy.norm(cvxpy.vec(variable, order="C"), 1) <= self.radius]


def _radius(given: float, what: str, limit: float | None = None) -> float:
    """One positive number, below `limit`, that tensors take: integers may be larger than theirs."""
    if not is_real(given) or not given > 0 or (limit is not None and given >= limit):
        raise ArgumentError(f"{what} needs a positive radius, got {spell(given)}.")
    plain = isinstance(given, int | float) and (given < LARGEST or given == float("inf"))
    return given if plain else float(min(given, sys.float_info.max))
