"""Reverse-mode differentiation outside of `vmap`, for `oracles.py`."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.graph import gradients, variable
from bilevel.core.live_bytes import LiveBytes
from bilevel.problem.criteria import AbstractCriterion
from bilevel.trees import Tree


def pullback(
    function: Callable[[Tree], Tree], tree: Tree, *, has_aux: bool = False, keep: bool = False
) -> tuple[Tree, Callable[..., Tree]]:
    """The value of `function` at `tree`, and the map of a cotangent to its pull-back.

    With `has_aux` the function returns what is pulled back, and what to return in its place. With
    `keep` the graph is kept, for several cotangents; `each=True` of the map takes them at once, on
    a first axis of their own (not in compiled code). Recording a graph costs less than
    `torch.func.vjp`, which the compiler needs.
    """
    if torch.compiler.is_compiling():
        found = torch.func.vjp(function, tree, has_aux=has_aux)
        return found[-1 if has_aux else 0], lambda along: found[1](along)[0]
    with torch.enable_grad():
        at = variable(tree)
        made = function(at)
    value, shown = made if has_aux else (made, made)

    def pull(along: Tree, *, each: bool = False) -> Tree:
        levels = (trees.leaves(value), trees.leaves(at), trees.leaves(along))
        return trees.rebuild(tree, gradients(*levels, keep=keep, each=each))

    return trees.detach(shown), pull


def loss_gradient(criterion: AbstractCriterion, predictions: Tensor, targets: Tensor) -> Tensor:
    """The derivative of the mean loss of every run in its predictions, (R, n) or (R, n, K)."""
    n = predictions.shape[1]
    if criterion.quadratic:
        return (predictions - targets) * (1 / n)
    rows, flat = predictions.flatten(0, 1), targets.flatten(0, 1)
    found = criterion.slope(rows, flat)
    if found is not None:
        return found.reshape(predictions.shape) * (1 / n)
    total, pull = pullback(lambda p: criterion.rows(p, flat).sum() / n, rows)
    gradient: Tensor = pull(torch.ones_like(total))
    return gradient.reshape(predictions.shape)


def loss_products(
    criterion: AbstractCriterion, predictions: Tensor, targets: Tensor, along: Tensor
) -> tuple[Tensor, Tensor]:
    """c' and c'' a of every row, shaped like the predictions (R, n) or (R, n, K)."""
    if criterion.quadratic:
        return predictions - targets, along
    rows, flat, a = (x.flatten(0, 1) for x in (predictions, targets, along))
    slope, curvature = criterion.slope(rows, flat), criterion.curvature(rows, flat)
    if slope is None or curvature is None:
        with torch.enable_grad():
            at = variable(rows)
            (slope,) = gradients([criterion.rows(at, flat).sum()], [at], create_graph=True)
            (curved,) = gradients([(slope * a).sum()], [at])
            slope = slope.detach()
    else:
        curved = curvature.diagonal * a
        if curvature.outer is not None:
            curved = curved - curvature.outer * (curvature.outer * a).sum(1, keepdim=True)
    return slope.reshape(predictions.shape), curved.reshape(predictions.shape)


def graph_bytes(function: Callable[[], Iterable[Tensor]], shared: list[Tensor]) -> int:
    """How much memory `function` takes.

    Args:
        function: whose graphs are counted, and the tensors that it returns: autograd does not save
            what it needs no derivative of, such as features that are linear in the body.
        shared: what graphs may hold without being counted, as it is there anyway.
    """
    storages: dict[int, torch.UntypedStorage] = {}  # alive, so that no address is used twice

    def keep(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        storages[storage.data_ptr()] = storage
        return saved

    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
            made = function()
    except RuntimeError:  # `torch.func.grad` inside allows no hooks; what else fails, fails again
        with LiveBytes() as live:
            function()
        return int(live.peak)
    for leaf in shared:
        storages.pop(leaf.untyped_storage().data_ptr(), None)
    for tensor in made:
        keep(tensor)
    return sum(storage.nbytes() for storage in storages.values())
