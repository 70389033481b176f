"""What a network is made of: its linear layers, and what cannot be trained as body and head."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import is_lazy

from bilevel.core.checks import check_instance, check_positive_integer, is_ordered
from bilevel.errors import ArgumentError, ShapeError, spell, unknown_name
from bilevel.problem.network.masks import draws_masks

_BACKWARD = {"backward hooks": "_backward_hooks", "backward pre-hooks": "_backward_pre_hooks"}
_HOOKS = {"forward hooks": "_forward_hooks", "forward pre-hooks": "_forward_pre_hooks", **_BACKWARD}
"""The hooks that see what a module computes, by kind: where torch keeps them."""


def linear_layers(module: nn.Module) -> dict[str, nn.Linear]:
    """All linear layers by name. Layers derived from `nn.Linear` may compute something else."""
    return {
        name: child
        for name, child in module.named_modules(remove_duplicate=False)
        if type(child) is nn.Linear and name
    }


def head_layer(module: nn.Module, head: str) -> nn.Linear:
    """The linear layer called `head`."""
    known = linear_layers(module)
    if not isinstance(head, str) or head not in known:
        children = dict(module.named_modules(remove_duplicate=False))
        if isinstance(head, str) and head and head in children:
            raise ArgumentError(
                f"The head {head!r} must be an `nn.Linear` (not a class derived from it), got "
                f"{type(children[head]).__name__}. Linear layers: {', '.join(sorted(known))}."
            )
        raise unknown_name("linear layer", head, known)
    return known[head]


def extras(layer: nn.Linear) -> list[str]:
    """What a layer is made of beside its weight and bias, in words, but for hooks."""
    # `layer.forward = ...` and the like: the layer computes something else than its class
    replaced = [name for name in vars(layer) if callable(getattr(nn.Linear, name, None))]
    weight = isinstance(layer._parameters.get("weight"), nn.Parameter)
    return [
        *(f"the parameter {key!r}" for key in layer._parameters if key not in ("weight", "bias")),
        *(f"the buffer {name!r}" for name in layer._buffers),
        *(f"the module {name!r}" for name in layer._modules),
        *(f"a {name!r} of its own" for name in replaced),
        *(["a weight that is no parameter"] * (not weight)),
    ]


def refuse_head(layer: nn.Linear, head: str) -> None:
    """Raise unless a layer is its weight and bias and nothing else.

    Raises:
        ArgumentError: hooks, masks, parameters or a `forward` of its own are attached to it.
    """
    attached = [*extras(layer), *(kind for kind, hooks in _HOOKS.items() if getattr(layer, hooks))]
    if attached:
        raise ArgumentError(
            f"The head {head!r} has {', '.join(attached)} beside its weight and bias, so that it "
            "is not the linear layer that the lower level solves for. Weight norm, spectral norm, "
            "pruning and adapters belong to layers of the body; penalties of the head belong to "
            "the problem. Attach hooks that only look after training, to the module that `assign` "
            "returns."
        )
    sizes = (layer.out_features, layer.in_features)
    bias = sizes[:1] if layer.bias is None else tuple(layer.bias.shape)
    if not is_lazy(layer.weight) and (tuple(layer.weight.shape), bias) != (sizes, sizes[:1]):
        raise ArgumentError(
            f"The head {head!r} says {sizes[1]} inputs and {sizes[0]} outputs, but its weight has "
            f"the shape {tuple(layer.weight.shape)} and its bias {bias}. Make a new `nn.Linear` "
            "instead of replacing its parameters."
        )


def layout(module: nn.Module) -> dict[str, str]:
    """Names, shapes and types of the parameters and buffers, in words."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return {name: f"{tuple(x.shape)} {x.dtype}" for name, x in tensors}


def refuse(module: nn.Module, layer: nn.Linear, head: str, *, masks: bool = False) -> None:
    """Raise unless the module is a function of floating parameters that can be batched.

    With `masks`, plain dropout is one of a key, too.
    """
    own = {id(p) for p in layer.parameters()}
    for name, child in module.named_modules():
        kind = f"{name or 'The module itself'} ({type(child).__name__})"
        if isinstance(child, _BatchNorm) and (child.training or child.running_mean is None):
            raise ArgumentError(
                f"{kind} uses statistics of the batch, so that a row's features depend on the "
                "other rows and change with every call. Use `nn.LayerNorm` or `nn.GroupNorm`, or "
                "freeze trained statistics: `lambda: Net().eval()`."
            )
        if _draws(child) and not (masks and draws_masks(child)):
            raise ArgumentError(
                f"{kind} draws random numbers in training mode, inside the objective. Set its "
                "probability to 0, or make the module with `.eval()`: `lambda: Net().eval()`. A "
                "plain `nn.Dropout` may stay with `split(..., masks=True)`, and its masks are then "
                "drawn for each run and step."
            )
        if isinstance(child, nn.Embedding | nn.EmbeddingBag) and child.max_norm is not None:
            raise ArgumentError(
                f"{kind} writes to its weight when it is called (`max_norm`), so that its own code "
                "moves the body beside the gradient. Leave `max_norm` out, and bound the rows by "
                "the problem's `body_set` or divide by their norms in `forward`."
            )
        for what, hooks in _BACKWARD.items():
            if getattr(child, hooks):
                raise ArgumentError(
                    f"{kind} has {what}, which change gradients where torch's own `backward()` "
                    "runs, and only there. Write the change into the objective, or into "
                    "`forward`."
                )
        if isinstance(child, nn.RNNBase | nn.LSTMCell):
            raise ArgumentError(
                f"{kind} is fused and cannot be batched over runs. Write the recurrence with "
                "`nn.Linear` layers, in a loop over time."
            )
        for leaf, parameter in child.named_parameters(recurse=False):
            path = f"{name}.{leaf}" if name else leaf
            if is_lazy(parameter):
                raise ArgumentError(
                    f"The parameter {path!r} has no shape yet. Give layers their sizes, or call "
                    "the module once on an example before `make_module` returns it."
                )
            if child is not layer and id(parameter) in own:
                raise ArgumentError(
                    f"The head {head!r} shares its parameter {path!r} with the body, so the two "
                    "levels are not separate. Give the head weights of its own."
                )
            if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
                raise ArgumentError(
                    f"The parameter {path!r} has hooks, which change gradients where torch's own "
                    "`backward()` runs, and only there. Write the change into the objective, or "
                    "make what does not move a buffer."
                )
            if not parameter.requires_grad:
                raise ArgumentError(
                    f"The parameter {path!r} is frozen, but the body is trained. Make it a buffer, "
                    "or compute the frozen layers once and use their outputs as inputs."
                )
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.device.type != "cpu":
            raise ArgumentError(
                f"{name!r} is on {tensor.device}. Make the module on the CPU, where a seed means "
                "the same everywhere; `solve(device=...)` moves what it trains."
            )


def refuse_shared(first: nn.Module, second: nn.Module) -> None:
    """Raise if two modules that should be new have a parameter in common."""
    known = {id(p) for p in first.parameters()}
    shared = [name for name, p in second.named_parameters() if id(p) in known]
    if shared:
        raise ArgumentError(
            f"`make_module` returned the parameter {shared[0]!r} twice; every call must make a new "
            "module, because every seed has a start of its own. Make all layers inside it."
        )


def _draws(child: nn.Module) -> bool:
    """Whether a layer draws random numbers when it is called."""
    return child.training and (
        isinstance(child, nn.RReLU)
        or (isinstance(child, _DropoutNd) and child.p > 0)
        or (isinstance(child, nn.MultiheadAttention) and child.dropout > 0)
    )


def unfuse(module: nn.Module) -> None:
    """Keep attention layers from their fused inference path, which cannot be batched over runs.

    Layers in training mode do not take it; without dropout they compute the same in both modes.
    """
    for child in module.modules():
        if type(child) in (nn.MultiheadAttention, nn.TransformerEncoderLayer):
            if isinstance(child, nn.MultiheadAttention):
                child.dropout = 0.0  # in training mode it was 0, or the module was refused
            child.training = True


def check_solution(module: object, body: Any, head: Any, run: int | None) -> None:
    """Raise unless a module can be given a body and a head, those of one `run` or of all."""
    check_instance(module, nn.Module, "module", "the network that was split")
    check_instance(body, Mapping, "body", "a dict of tensors by name")
    for name, leaf in (*body.items(), ("the head", head)):
        if not isinstance(leaf, Tensor) or not is_ordered(leaf):
            raise ShapeError(
                f"A solution is made of tensors of numbers, but {name} is {spell(leaf)}."
            )
    if isinstance(run, Tensor) and run.ndim == 0 and is_ordered(run):  # of an argmin, say
        run = run.item()
    if run is not None:
        check_positive_integer(run, "`run`", zero_allowed=True)
        runs = len(head) if head.ndim else 0
        if run >= runs:
            raise ArgumentError(f"`run` must be from 0 to {runs - 1}, got {run}.")
        if short := [name for name, leaf in body.items() if not leaf.ndim or run >= len(leaf)]:
            raise ShapeError(f"There is no run {run} of {', '.join(short)}.")
