"""Second derivatives of g in both levels, by their products with vectors."""

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.graph import gradients, variable
from bilevel.derivatives.head_point import HeadPoint
from bilevel.derivatives.over_heads import over_heads
from bilevel.trees import Tree


class BodyProducts:
    """The Hessian of g in body and head at R points, by its products: one graph for all of them.

        (u, v)  to  (g_ww u + g_wt v,  g_tw u + g_tt v)

    Args:
        point: R heads at their bodies; no heads of tasks, and rows that are not in chunks.
    """

    def __init__(self, point: HeadPoint) -> None:
        self._body, self._head = variable(point.body), variable(point.head)
        self._both = [*trees.leaves(self._body), *trees.leaves(self._head)]
        objective = point.problem.head_objective
        with torch.enable_grad():
            values = over_heads(objective, self._body, self._head, point.rows)
            self._slopes = gradients([values.sum()], self._both, create_graph=True)
        self._count = len(trees.leaves(self._body))

    @property
    def body_gradient(self) -> Tree:
        """d_w g."""
        return trees.rebuild(self._body, [slope.detach() for slope in self._slopes[: self._count]])

    @property
    def head_gradient(self) -> Tree:
        """d_theta g."""
        return trees.rebuild(self._head, [slope.detach() for slope in self._slopes[self._count :]])

    def along_body(self, vector: Tree) -> tuple[Tree, Tree]:
        """g_ww u and g_tw u, for u like the bodies, leaves (R, ...)."""
        return self._pulled(self._slopes[: self._count], vector)

    def along_head(self, vector: Tree) -> tuple[Tree, Tree]:
        """g_wt v and g_tt v, for v like the heads."""
        return self._pulled(self._slopes[self._count :], vector)

    def _pulled(self, slopes: list[Tensor], vector: Tree) -> tuple[Tree, Tree]:
        along = [leaf.detach() for leaf in trees.leaves(vector)]
        found = gradients(slopes, self._both, along, keep=True)
        in_body, in_head = found[: self._count], found[self._count :]
        return trees.rebuild(self._body, in_body), trees.rebuild(self._head, in_head)
