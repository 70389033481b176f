"""What a convex set is."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from bilevel import trees
from bilevel.errors import IncompatibleError
from bilevel.problem.sets.face import Face
from bilevel.trees import Tree

Derivative = Callable[[Tree], Tree]


class ConvexSet(abc.ABC):
    """A closed convex set W or Theta that a level must stay in.

    A problem states its sets for one run; projections work on trees with a leading run axis.

    Examples:
        >>> import torch, bilevel
        >>> from bilevel import trees
        >>> class Halfspace(bilevel.ConvexSet):    # numbers that sum to at most zero, leaf by leaf
        ...     def project(self, tree):
        ...         return trees.tree_map(lambda x: x - x.mean(-1, keepdim=True).clamp(min=0), tree)
        >>> Halfspace().project(torch.tensor([[3.0, 1.0], [-3.0, 1.0]]))
        tensor([[ 1., -1.],
                [-3.,  1.]])
    """

    @abc.abstractmethod
    def project(self, tree: Tree) -> Tree:
        r"""The nearest point of the set, $\arg\min_{y} \lVert y - x\rVert$, per run.

        Args:
            tree: leaves of shape (R, ...).

        Returns:
            A tree of the same structure and shapes; points of the set come back unchanged.
        """

    def free(self, tree: Tree, direction: Tree) -> Tree | None:
        """Which coordinates stay off the boundary, for derivatives of a minimiser (a hook).

        Args:
            tree: points of the set, leaves (R, ...).
            direction: where they are pushed, such as the negative gradient there.

        Returns:
            A tree of booleans, False where a point is on the boundary and pushed outwards; None
            if every coordinate is free.

        Raises:
            IncompatibleError: the boundary is no coordinate plane: the set has no `bounds`.
        """
        found = self.bounds(tree)
        if found is not None:

            def one(leaf: Tensor, push: Tensor, low: Tensor, high: Tensor) -> Tensor:
                held = ((leaf <= low) & (push < 0)) | ((leaf >= high) & (push > 0))
                return ~(held | (low == high))

            return trees.tree_map(one, tree, direction, *found)
        raise IncompatibleError(
            f"Derivatives of a head on {type(self).__name__} are not available: its boundary is "
            "no coordinate plane. Use a Box or Nonnegative, FiniteDifferences(), which asks for "
            "values of Phi only, or the whole space with a penalty."
        )

    def linearised(self, tree: Tree) -> tuple[Tree, Derivative]:
        """The projection of points and its derivative there, which is symmetric (a hook).

        Needed by `Unrolled`. By default that of a set whose boundary is made of coordinate planes,
        see `free`: 1 on the coordinates that the projection leaves alone, and 0 on the others.

        Args:
            tree: any points, leaves (R, ...).

        Returns:
            The projected points, and a function from trees like them to trees like them. It should
            hold no more tensors of their size than the projected points.

        Raises:
            IncompatibleError: the derivative is not known.
        """
        try:
            self.free(tree, tree)
        except IncompatibleError:
            raise IncompatibleError(
                f"{type(self).__name__} does not say what the derivative of its projection is, "
                "which Unrolled needs. Define `linearised(tree)`, use a set of the library, or the "
                "whole space with a penalty."
            ) from None
        projected = self.project(tree)
        kept = trees.tree_map(torch.eq, projected, tree)
        return projected, lambda vector: trees.tree_map(torch.mul, vector, kept)

    def bounds(self, tree: Tree) -> tuple[Tree, Tree] | None:
        r"""The bounds of a set $\text{low} \le x \le \text{high}$, entry by entry (a hook).

        `ProjectedNewton` solves the heads of such a set, and `Implicit` differentiates them.

        Args:
            tree: leaves of any shapes.

        Returns:
            Two trees whose leaves broadcast against those of `tree`; None for other sets.
        """
        return None

    def face(self, tree: Tree, slope: Tree, step: Tensor) -> Face | None:
        """The face of the set that a minimiser near a point lies on (a hook).

        Solvers use it to remove what is left of their error by Newton steps.

        Args:
            tree: points of the set, leaves (R, ...).
            slope: the gradient there.
            step: a length, (R,): the face is that of the projection of `tree - step * slope`.

        Returns:
            None if it is not known.
        """
        return None

    def constraints(self, variable: Any) -> list[Any]:
        """The set as cvxpy constraints, for `Cvxpy` (a hook).

        Args:
            variable: a `cvxpy.Variable` of the shape of one run's head.

        Raises:
            IncompatibleError: the set has no such form.
        """
        raise IncompatibleError(
            f"{type(self).__name__} has no cvxpy form. Define `constraints(variable)`, which "
            "returns a list of cvxpy constraints, or use a solver that projects, such as FastSGD."
        )

    def check(self, tree: Tree) -> None:  # noqa: B027 - a hook: most sets fit any tree
        """Raise `ShapeError` if the set does not fit a tree of this shape (no run axis)."""


@dataclasses.dataclass(frozen=True, eq=False)
class Everywhere(ConvexSet):
    """The whole space: the projection is the identity.

    Examples:
        >>> import torch, bilevel
        >>> bilevel.Everywhere().project(torch.tensor([[3.0, -4.0]]))
        tensor([[ 3., -4.]])
    """

    @override
    def project(self, tree: Tree) -> Tree:
        return tree

    @override
    def free(self, tree: Tree, direction: Tree) -> None:
        return None

    def linearised(self, tree: Tree) -> tuple[Tree, Derivative]:
        """The tree itself, and the identity."""
        return tree, lambda vector: vector

    @override
    def face(self, tree: Tree, slope: Tree, step: Tensor) -> Face:
        points = trees.flatten(tree)
        return Face(torch.ones_like(points, dtype=torch.bool), points)

    @override
    def constraints(self, variable: Any) -> list[Any]:
        return []
