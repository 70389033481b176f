"""Heads at their bodies: the point at which g and its derivatives are taken."""

import copy
import dataclasses

import torch
from torch import Tensor

from bilevel import trees
from bilevel.data.rows import Rows
from bilevel.derivatives.kept import Kept
from bilevel.derivatives.oracles import Oracles
from bilevel.problem.base import StackelbergProblem
from bilevel.trees import Tree

SLOPES = "slopes of F"


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class HeadPoint:
    """R heads at their bodies, on the rows that g is meant on.

    Args:
        oracles: of the problem.
        body: leaves (R, ...).
        head: likewise.
        rows: of a step, or all of them.
    """

    oracles: Oracles
    body: Tree
    head: Tree
    rows: Rows

    @property
    def problem(self) -> StackelbergProblem:
        """Whose point it is."""
        return self.oracles.problem

    @property
    def size(self) -> int:
        """P, how many numbers a head has."""
        return trees.flatten(self.head).shape[1]

    @property
    def full(self) -> "HeadPoint":
        """The same heads on all rows."""
        return self.on(self.rows.full)

    @property
    def apart(self) -> "HeadPoint":
        """The same heads, each with a body of its own where they are of tasks."""
        if not self.oracles.tasks:
            return self
        runs, heads = (len(trees.leaves(level)[0]) for level in (self.body, self.head))
        body = trees.tree_map(lambda leaf: leaf.repeat_interleave(heads // runs, 0), self.body)
        return HeadPoint(self.oracles.apart(), body, self.head, self.rows.apart(runs))

    def take(self, runs: list[int]) -> "HeadPoint":
        """Some of the runs."""
        index = torch.tensor(runs, device=trees.leaves(self.head)[0].device)
        body, head = trees.part(self.body, index), trees.part(self.head, index)
        return HeadPoint(self.oracles, body, head, self.rows.take(index))

    def on(self, rows: Rows) -> "HeadPoint":
        """The same heads on other rows."""
        return HeadPoint(self.oracles, self.body, self.head, rows)

    def at(self, head: Tree) -> "HeadPoint":
        """Other heads at the same bodies."""
        return HeadPoint(self.oracles, self.body, head, self.rows)

    def moved(self, body: Tree) -> "HeadPoint":
        """The same heads at other bodies, which take the place of nothing that is shared."""
        oracles = copy.copy(self.oracles)
        oracles.kept = Kept()
        oracles.parts = None if oracles.parts is None else oracles.parts.alone()
        oracles.features = None if oracles.features is None else oracles.features.alone()
        return HeadPoint(oracles, body, self.head, self.rows)

    def cast(self, dtype: torch.dtype) -> "HeadPoint":
        """The same point in another floating type."""
        body, head = trees.cast(self.body, dtype), trees.cast(self.head, dtype)
        return HeadPoint(self.oracles, body, head, self.rows.cast(dtype))

    def value(self) -> Tensor:
        """g, (R,)."""
        return self.oracles.head_value(self.body, self.head, self.rows)

    def gradient(self) -> Tree:
        """d_theta g."""
        at = self.body, self.head, self.rows
        return self.oracles.kept.once(
            self.body, self.rows, "slope", lambda: self.oracles.head_gradient(*at), self.head
        )

    def hessian(self) -> Tensor:
        """H = d2_{theta theta} g, (R, P, P)."""
        return self.oracles.head_hessian(self.body, self.head, self.rows)

    def hvp(self, vector: Tree) -> Tree:
        """H v."""
        return self.oracles.head_hvp(self.body, self.head, vector, self.rows)

    def cross_vjp(self, vector: Tree) -> Tree:
        """C v, C = d2_{w theta} g, for v like the head; the result is like the body."""
        at, made = (self.body, self.head, vector, self.rows), self.oracles.cross_vjp
        kept = self.oracles.kept
        return kept.first(self.body, self.rows, "cross", lambda: made(*at), self.head, vector)

    def body_value(self) -> Tensor:
        """F, (R,)."""
        at = self.body, self.head, self.rows
        known = self.oracles.kept.known(self.body, self.rows, SLOPES, self.head)
        value: Tensor = self.oracles.body_value(*at) if known is None else known[2]
        return self.oracles.body_value(*at) if value is None else value

    def body_gradients(self) -> tuple[Tree, Tree]:
        """d_w F and d_theta F."""
        at, made = (self.body, self.head, self.rows), self.oracles.body_slopes
        found: tuple[Tree, ...] = self.oracles.kept.first(
            self.body, self.rows, SLOPES, lambda: made(*at), self.head
        )
        return found[0], found[1]
