"""Gradients by autograd, for trees of tensors, and the modes of torch that they need."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from bilevel import trees
from bilevel.trees import Tree


@contextmanager
def ordinary() -> Iterator[None]:
    """What torch does by default: around every public function that computes, as a decorator.

    Whoever calls it may be in `inference_mode`, `no_grad`, `autocast` or `detect_anomaly`, or have
    another default device; none of them changes a number.
    """
    if not _unusual():
        yield
        return
    with ExitStack() as modes:
        modes.enter_context(torch.inference_mode(False))
        modes.enter_context(torch.enable_grad())
        modes.enter_context(torch.autograd.set_detect_anomaly(False))
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                modes.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            modes.enter_context(torch.device("cpu"))
        yield


def _unusual() -> bool:
    """Whether torch is in another mode than that in which it starts."""
    return (
        torch.is_inference_mode_enabled()
        or not torch.is_grad_enabled()
        or torch.is_anomaly_enabled()
        or torch.is_autocast_enabled("cpu")
        or torch.is_autocast_enabled("cuda")
        or torch.get_default_device().type != "cpu"
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
    keep: bool = False,
    each: bool = False,
) -> list[Tensor]:
    """Gradients of the sum of `values` (times `along`), zero where it does not depend on a leaf.

    With `each`, one for each of what `along` has on a first axis of its own.
    """
    kept = [i for i, value in enumerate(values) if value.requires_grad]
    if not kept:
        count = [len(along[0])] if each and along else []
        return [leaf.new_zeros(*count, *leaf.shape) for leaf in wanted]
    outputs, weights = [values[i] for i in kept], along and [along[i] for i in kept]
    found = torch.autograd.grad(
        outputs,
        wanted,
        weights,
        retain_graph=keep or create_graph,
        create_graph=create_graph,
        is_grads_batched=each,
        materialize_grads=True,
    )
    if not each or not along:
        return list(found)
    # torch makes the zeros of a leaf without the first axis
    pairs = zip(found, wanted, strict=True)
    return [x if x.ndim > leaf.ndim else x.expand(len(along[0]), *leaf.shape) for x, leaf in pairs]
