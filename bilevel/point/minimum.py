"""What `minimize` returns."""

import dataclasses

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.status import Status
from bilevel.errors import counted
from bilevel.point.found import Hypergradient
from bilevel.trees import Tree


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Minimum:
    r"""The lowest point that `minimize` found, for one run.

    Attributes:
        body: w, a tree without a run axis.
        head: $\theta^*(w)$.
        value: $\Phi(w) = F(w, \theta^*(w))$.
        gradient_norm: $\lVert w - P(w - \nabla\Phi)\rVert$, the norm of the projected gradient; P
            is the projection onto `body_set`. `gradient.bound` bounds its error, too.
        gradient: $\nabla\Phi(w)$, made anew at the end, with the bounds on its error and the
            head's.
        at_bound: a tree of booleans like the body: which numbers are at a bound of `body_set` that
            the gradient pushes them against.
        status: CONVERGED, STALLED, OUT_OF_ITERATIONS or INTERRUPTED, whose numbers can be used; or
            the worst of the heads there, such as INEXACT_HEAD; or why there is none at the start.
        message: what scipy said, or why the search was ended before.
        iterations: how many were made.
        head_solves: how often a head was solved on the way.
        history: "value" and "gradient_norm" at the start and after each iteration, (T,), float64.

    Examples:
        >>> import bilevel
        >>> from problems.analytic import analytic
        >>> found = bilevel.minimize(analytic("A5"))
        >>> found.body, found.status.name, found.gradient.bound < 1e-6
        (tensor(1., dtype=torch.float64), 'CONVERGED', True)
    """

    body: Tree
    head: Tree
    value: float
    gradient_norm: float
    gradient: Hypergradient
    at_bound: Tree
    status: Status
    message: str
    iterations: int
    head_solves: int
    history: dict[str, Tensor]

    def __repr__(self) -> str:
        """How it ended, where, and how far that can be relied on."""
        held = sum(int(leaf.sum()) for leaf in trees.leaves(self.at_bound))
        size = sum(leaf.numel() for leaf in trees.leaves(self.at_bound))
        found = self.gradient
        bound = "" if found.bound != found.bound else f" +- {found.bound:.2g} ({found.bound_kind})"
        return "\n".join(
            [
                f"Minimum after {counted(self.iterations, 'iteration')} and "
                f"{counted(self.head_solves, 'head solve')}: {self.value:.6g}",
                f"  {self.status.name}: {self.status.message}",
                f"  {self.message}",
                f"  |projected gradient| {self.gradient_norm:.2g}{bound}",
                f"  {held} of {counted(size, 'number')} at a bound",
            ]
        )


def at_bounds(body: Tree, held: Tree | None) -> Tree:
    """Booleans like the body; None: nothing is held."""
    if held is None:
        return trees.tree_map(lambda leaf: torch.zeros_like(leaf, dtype=torch.bool), body)
    return held
