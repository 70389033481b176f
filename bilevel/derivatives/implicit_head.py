"""Solved heads as functions of their body, for autograd."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bilevel import trees
from bilevel.errors import IncompatibleError
from bilevel.trees import Tree

Pull = Callable[[Tree], Tree]


def implicit_head(solve: Callable[[Tree], tuple[Tree, Pull]], body: Tree) -> Tree:
    """The head of a body of which leaves require gradients, with a graph that leads to them.

    Args:
        solve: plain bodies to theta*(w) without a graph, and the map of a cotangent like it to
            -(d2_{w theta} g) H^{-1} of it, like the body.
        body: w.
    """
    found: list[Any] = []  # as solved

    def on_leaves(*leaves: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            head, pull = solve(trees.rebuild(body, list(leaves)))
        found[:] = head, lambda *slopes: trees.leaves(pull(trees.rebuild(head, list(slopes))))
        return tuple(trees.leaves(head))

    apply: Callable[..., tuple[Tensor, ...]] = _Head.apply
    solved = apply(on_leaves, lambda *slopes: tuple(found[1](*slopes)), *trees.leaves(body))
    return trees.rebuild(found[0], list(solved))


class _Head(torch.autograd.Function):
    """A function of tensors, and what pulls cotangents of its values back."""

    @staticmethod
    def forward(solve: Any, pull: Any, *leaves: Tensor) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = solve(*leaves)
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.pull = inputs[1]

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Any, ...]:
        apply: Callable[..., tuple[Tensor, ...]] = _Pulled.apply
        return None, None, *apply(ctx.pull, *slopes)


class _Pulled(torch.autograd.Function):
    """The pull-back itself: for Jacobians one cotangent after the other, and no further."""

    @staticmethod
    def forward(pull: Any, *slopes: Tensor) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = pull(*slopes)
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        raise IncompatibleError(
            "The head of `best_response` has first derivatives only. `bilevel.exact.ridge_head` "
            "has further ones."
        )

    @staticmethod
    def vmap(info: Any, dims: tuple[Any, ...], pull: Any, *slopes: Tensor) -> tuple[Any, Any]:
        apply: Callable[..., tuple[Tensor, ...]] = _Pulled.apply
        found = []
        for i in range(info.batch_size):
            pairs = zip(slopes, dims[1:], strict=True)
            found.append(apply(pull, *(x if d is None else x.select(d, i) for x, d in pairs)))
        columns = tuple(torch.stack(x) for x in zip(*found, strict=True))
        return columns, (0,) * len(columns)
