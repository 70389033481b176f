"""Reverse-mode differentiation outside of `vmap`, for `oracles.py`."""

from collections.abc import Callable

import torch
from torch import Tensor

from bilevel import trees
from bilevel.trees import Tree


def pullback(
    function: Callable[[Tree], Tree], tree: Tree, *, has_aux: bool = False
) -> tuple[Tree, Callable[[Tree], Tree]]:
    """The value of `function` at `tree`, and the map of a cotangent to its pull-back.

    With `has_aux` the function returns what is pulled back, and what to return in its place.
    Recording a graph costs less than `torch.func.vjp`, which the compiler needs.
    """
    if torch.compiler.is_compiling():
        found = torch.func.vjp(function, tree, has_aux=has_aux)
        return found[-1 if has_aux else 0], lambda along: found[1](along)[0]
    with torch.enable_grad():
        at = variable(tree)
        made = function(at)
    value, shown = made if has_aux else (made, made)
    return trees.detach(shown), lambda along: trees.rebuild(
        tree, gradients(trees.leaves(value), trees.leaves(at), trees.leaves(along))
    )


def variable(tree: Tree) -> Tree:
    """Fresh leaves of a graph."""
    return trees.tree_map(lambda leaf: leaf.detach().requires_grad_(), tree)


def gradients(
    values: list[Tensor],
    wanted: list[Tensor],
    along: list[Tensor] | None = None,
    *,
    create_graph: bool = False,
) -> list[Tensor]:
    """Gradients of the sum of `values` (times `along`), zero where it does not depend on a leaf."""
    kept = [i for i, value in enumerate(values) if value.requires_grad]
    if not kept:
        return [torch.zeros_like(leaf) for leaf in wanted]
    outputs, weights = [values[i] for i in kept], along and [along[i] for i in kept]
    return list(
        torch.autograd.grad(
            outputs, wanted, weights, create_graph=create_graph, materialize_grads=True
        )
    )
