"""A solution written back into the network that was split."""

import torch
from torch import Tensor, nn

from bilevel.errors import ShapeError
from bilevel.problem.network import layers


def assign(
    module: nn.Module, body: dict[str, Tensor], head: Tensor, *, run: int | None = None
) -> nn.Module:
    """Write a solution into a module, in place.

    The head goes to the linear layer whose parameters the body lacks.

    Args:
        module: of the architecture that was split.
        body: of one run; of all runs, (R, ...), with `run`.
        head: of the same, in the shape of `SplitModule.head_shape`, with `run` (R, ...).
        run: which run to take from bodies and heads with a run axis; None: they have none.

    Returns:
        The module, which now predicts what the solution predicts.

    Raises:
        ShapeError: names or shapes do not fit the module; nothing is written then.
        ArgumentError: there is no such run.

    Examples:
        >>> import bilevel, torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1))
        >>> body = {"0.weight": torch.full((1, 1), 2.0), "0.bias": torch.zeros(1)}
        >>> _ = bilevel.assign(net, body, torch.tensor([3.0, 1.0]))    # weight 3, bias 1
        >>> net(torch.ones(1, 1)).item()
        7.0
    """
    layers.check_solution(module, body, head, run)
    if run is not None:
        body, head = {name: leaf[run] for name, leaf in body.items()}, head[run]
    named = dict(module.named_parameters())
    name, layer = _missing_layer(module, body)
    layers.refuse_head(layer, name)
    rows, outputs = layer.in_features + (layer.bias is not None), layer.out_features
    wrong = [
        f"{name} is {tuple(leaf.shape)} for {tuple(named[name].shape)}"
        for name, leaf in body.items()
        if leaf.shape != named[name].shape
    ]
    if tuple(head.shape) != (rows, outputs) and (outputs > 1 or tuple(head.shape) != (rows,)):
        wrong.append(f"the head is {tuple(head.shape)} for ({rows}, {outputs})")
    if wrong:
        raise ShapeError(
            f"The solution does not fit the module: {'; '.join(wrong)}. Bodies and heads of a "
            "`Solution` have a run axis: pass `run=0` for its first run."
        )
    columns = head.reshape(rows, outputs)
    with torch.no_grad():
        for name, leaf in body.items():
            named[name].copy_(leaf)
        layer.weight.copy_(columns[: layer.in_features].T)
        if layer.bias is not None:
            layer.bias.copy_(columns[-1])
    return module


def _missing_layer(module: nn.Module, body: dict[str, Tensor]) -> tuple[str, nn.Linear]:
    """The linear layer whose parameters are the ones that `body` lacks, after its name."""
    named = dict(module.named_parameters())
    missing = {name for name in named if name not in body}
    ids = {id(named[name]) for name in missing}
    found = [
        (name, layer)
        for name, layer in layers.linear_layers(module).items()
        if {id(p) for p in layer.parameters()} == ids
    ]
    unknown = sorted(set(body) - set(named))
    if unknown or not found:
        raise ShapeError(
            "The body must have the names of all parameters of the module but those of one linear "
            f"layer, its head. It lacks {sorted(missing)}; the module lacks {unknown}."
        )
    return found[0]
