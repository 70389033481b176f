"""Gradients by autograd, for trees of tensors."""

import torch
from torch import Tensor

from bilevel import trees
from bilevel.trees import Tree


def variable(tree: Tree) -> Tree:
    """Fresh leaves of a graph."""
    return trees.tree_map(lambda leaf: leaf.detach().requires_grad_(), tree)


def gradients(
    values: list[Tensor],
    wanted: list[Tensor],
    along: list[Tensor] | None = None,
    *,
    create_graph: bool = False,
    keep: bool = False,
) -> list[Tensor]:
    """Gradients of the sum of `values` (times `along`), zero where it does not depend on a leaf."""
    kept = [i for i, value in enumerate(values) if value.requires_grad]
    if not kept:
        return [torch.zeros_like(leaf) for leaf in wanted]
    outputs, weights = [values[i] for i in kept], along and [along[i] for i in kept]
    return list(
        torch.autograd.grad(
            outputs,
            wanted,
            weights,
            retain_graph=keep or create_graph,
            create_graph=create_graph,
            materialize_grads=True,
        )
    )
