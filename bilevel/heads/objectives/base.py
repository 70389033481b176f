"""g of R heads at fixed bodies, as Newton's method sees it: on vectors, in float64."""

import abc
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from bilevel import trees
from bilevel.data.rows import Rows
from bilevel.derivatives.head_point import HeadPoint
from bilevel.derivatives.oracles import Oracles
from bilevel.linear.cholesky import EPS
from bilevel.trees import Tree

LARGEST_GENERAL_HESSIAN = 1024
SINGLE_WORK = 2.0**24
"""Multiplications from which a Hessian is made in float32."""
DEAR = 8
"""Steps that a dear factor costs at least."""


class Place(NamedTuple):
    """Heads, and g there."""

    point: Tensor  # the numbers of each head, (R, P)
    slope: Tensor  # d g, (R, P)
    # of a linear head, (R, n, K), float32 where the slope was made in it; empty for other heads
    predictions: Tensor

    @property
    def size(self) -> Tensor:
        """|slope|, (R,); inf where it is not finite."""
        size: Tensor = torch.linalg.vector_norm(self.slope, dim=1)
        return size.nan_to_num(torch.inf, torch.inf)

    @property
    def largest(self) -> Tensor:
        """The largest entry of |slope|, (R,)."""
        return self.slope.abs().amax(1)

    @property
    def finite(self) -> Tensor:
        """Whether the slope is, (R,)."""
        return self.slope.isfinite().all(1)

    def replaced(self, which: Tensor, some: "Place") -> "Place":
        """With those of the runs `which`, one after the other."""
        return Place(*(_put(x, which, y) for x, y in zip(self, some, strict=True)))


class AbstractObjective(abc.ABC):
    """g of R heads at fixed bodies."""

    blocks: int  # J, how many blocks of H are factored
    whole: bool  # whether they are all of H, not a part of it that preconditions CG
    work: float = 0.0  # multiplications that they take for one run; 0: always float64
    turns: bool = False  # whether `lead` turns the outputs, which takes about a product
    price: float = 0.0  # how many steps by an old factor cost as much as a new one
    has_rough: bool = False  # whether `rough_hessian` is much cheaper than H

    @abc.abstractmethod
    def vector(self, head: Tree) -> Tensor:
        """The numbers of heads (R, ...), (R, P), float64."""

    @abc.abstractmethod
    def head(self, vectors: Tensor) -> Tree:
        """The inverse of `vector`, float64."""

    @abc.abstractmethod
    def at(self, point: Tensor) -> Place:
        """g at (R, P); at points in float32 it may be made in float32."""

    @abc.abstractmethod
    def value(self, place: Place) -> Tensor:
        """g, up to what does not depend on the head, (R,)."""

    @abc.abstractmethod
    def product(self, place: Place, vectors: Tensor) -> Tensor:
        """H v for (R, P), in the type of v."""

    @abc.abstractmethod
    def hessian(self, place: Place, dtype: torch.dtype) -> Tensor:
        """The blocks of H that are factored, (R, J, q, q), computed in `dtype`."""

    @abc.abstractmethod
    def take(self, which: Tensor | slice) -> "AbstractObjective":
        """The same for the runs `which`, a mask (R,) or a slice."""

    @abc.abstractmethod
    def rounding(self, place: Place) -> Tensor:
        """What an entry of `slope` may be off by, (R,)."""

    def part(self, which: Tensor, place: Place) -> "tuple[AbstractObjective, Place]":
        """g of the runs `which`, and their places."""
        if bool(which.all()):
            return self, place
        return self.take(which), trees.take(place, which)

    def at_some(self, point: Tensor, which: Tensor, others: Place) -> Place:
        """g of the runs `which` at (R, P); if these are few, the others stand where they are."""
        count = int(which.sum())
        if 2 * count > len(which) or not count:
            return self.at(point)
        return others.replaced(which, self.take(which).at(point[which]))

    def single_rounding(self) -> Tensor | None:
        """By how much an entry of the last slope would be off in float32, (R,); None: not known."""
        return None

    def lead(self, place: Place) -> tuple[Tensor, Tensor | None]:
        """Blocks to be factored, (R, J, q, q), and how outputs are turned, see `BlockFactor`."""
        return self.hessian(place, torch.float64), None

    def rough_hessian(self, place: Place) -> Tensor:
        """The blocks of a matrix like H, good enough to begin with."""
        return self.hessian(place, torch.float64)

    def fit(self, predictions: Tensor) -> Tensor | None:
        """Heads (R, P) whose predictions are close to these; None: heads that make none."""
        return None

    def majorant(self, place: Place) -> Tensor | None:
        """The blocks of a quadratic above g that touches it, (R, J, q, q); None: not known."""
        return None

    @property
    def dear(self) -> bool:
        """Whether a factor costs as much as many steps by an old one."""
        return self.price >= DEAR

    @property
    def penalised(self) -> Tensor:
        """Whether a penalty keeps every number of a run from running away, (R,) or one for all."""
        return torch.tensor(True)

    @property
    def falling(self) -> Tensor:
        """The signs with which g falls for ever along single numbers, else 0, (R, P) or (1, 1)."""
        return torch.zeros(1, 1)

    def moves(self, step: Tensor) -> Tensor:
        """How much a prediction moves with a step at most, (R,); 0 for heads without any."""
        return torch.zeros_like(step[:, 0])

    def reach(self, place: Place, step: Tensor) -> Tensor:
        """Likewise of unpenalised predictions; 0 where the loss of some row rises far along it."""
        return torch.zeros_like(step[:, 0])


class GeneralObjective(AbstractObjective):
    """Any head, by the oracles; `head` is for its shapes only."""

    def __init__(self, oracles: Oracles, body: Tree, head: Tree, rows: Rows) -> None:
        at = HeadPoint(oracles, body, head, rows).cast(torch.float64).apart  # `take` takes any
        self.oracles, self.body, self.like, self.rows = at.oracles, at.body, at.head, at.rows
        self.count = trees.flatten(self.like).shape[1]
        self.blocks = general_blocks(self.count)
        self.whole = self.count <= LARGEST_GENERAL_HESSIAN
        self.price = float(self.count)  # a Hessian is made of as many gradients

    @override
    def vector(self, head: Tree) -> Tensor:
        return trees.flatten(trees.cast(head, torch.float64))

    @override
    def head(self, vectors: Tensor) -> Tree:
        return trees.unflatten(vectors, self.like)

    def at(self, point: Tensor) -> Place:
        """By automatic differentiation."""
        slope = self.oracles.head_gradient(self.body, self.head(point), self.rows)
        return Place(point, trees.flatten(slope), point[:, :0])

    @override
    def value(self, place: Place) -> Tensor:
        return self.oracles.head_value(self.body, self.head(place.point), self.rows)

    def product(self, place: Place, vectors: Tensor) -> Tensor:
        """By automatic differentiation."""
        at, along = self.head(place.point), self.head(vectors.double())
        return trees.flatten(self.oracles.head_hvp(self.body, at, along, self.rows)).to(vectors)

    def hessian(self, place: Place, dtype: torch.dtype) -> Tensor:
        """All of it, or ones for a head that is too large."""
        if not self.whole:
            return torch.ones_like(place.point)[:, :, None, None]
        found = self.oracles.head_hessian(self.body, self.head(place.point), self.rows)
        return (0.5 * (found + found.mT)).unsqueeze(1)

    @override
    def take(self, which: Tensor | slice) -> "GeneralObjective":
        body, like = (trees.part(tree, which) for tree in (self.body, self.like))
        return GeneralObjective(self.oracles, body, like, self.rows.take(which))

    def rounding(self, place: Place) -> Tensor:
        """Of a gradient whose terms are as large as the curvature times the head."""
        largest = trees.norm(self.product(place, place.point)) + place.size
        return EPS * (self.count + 10) * (1 + largest)


def _put(whole: Tensor, which: Tensor, some: Tensor) -> Tensor:
    dtype = torch.promote_types(whole.dtype, some.dtype)
    return whole.to(dtype).index_put((which,), some.to(dtype))


def general_blocks(count: int) -> int:
    """One block for a head of up to 1,024 numbers, else its numbers one by one."""
    return 1 if count <= LARGEST_GENERAL_HESSIAN else count
