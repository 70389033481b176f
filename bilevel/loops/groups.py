"""Groups of parameters for the optimisers of torch: a rate for the body, a rate for the head."""

from typing import Any

from torch import Tensor, nn

from bilevel.core.checks import Number, check_flag, positive
from bilevel.errors import ArgumentError, spell
from bilevel.loops.modules import check_model, head_of, owners, refuse_shared_head

NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)
RESERVED = ("params", "lr", "name")


def param_groups(
    model: nn.Module,
    head: str | nn.Module,
    body_lr: float | Tensor,
    head_lr: float | Tensor,
    *,
    decay_all: bool = True,
    **options: Any,
) -> list[dict[str, Any]]:
    """Groups for any optimiser of torch: the body at one rate, the head at another.

    Every parameter of the model is in one group, those that are frozen now too: they move when
    `requires_grad` is set again. Groups have names, "body" and "head", which `group_rates` shows.

    Args:
        model: a module, also one in `DataParallel`, `DistributedDataParallel` or `torch.compile`.
        head: the name of a part of it, dots included ("fc", "classifier.2"), or that module. It
            need not be linear; all of its parameters are the head's.
        body_lr: at least 0, a number, or a 0-dim tensor as some optimisers take it.
        head_lr: the same.
        decay_all: False: `weight_decay` is 0 for biases, for the parameters of normalising layers
            and for all others that are vectors or numbers, in groups of their own ("body, no
            decay").
        options: for all groups, such as `weight_decay=1e-2`: what the optimiser takes in a group.

    Returns:
        Two groups, four with `decay_all=False`, less those that are empty; the body's come first.

    Raises:
        UnknownNameError: the model has no part of that name.
        ArgumentError: the head is all of the model or none of it, has no parameters, or shares one
            with the body (tied weights); a rate is negative or not finite.

    Examples:
        >>> import torch
        >>> from bilevel import loops
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(),
        ...                             torch.nn.Linear(8, 1))
        >>> optimizer = torch.optim.AdamW(loops.param_groups(model, "2", 1e-3, 1e-2))
        >>> [(group["name"], group["lr"]) for group in optimizer.param_groups]
        [('body', 0.001), ('head', 0.01)]
    """
    check_model(model)
    check_flag(decay_all, "decay_all")
    rates = {"body": _rate(body_lr, "body_lr"), "head": _rate(head_lr, "head_lr")}
    _check_options(options)
    part = head_of(model, head)
    refuse_shared_head(model, part)
    own = set(part.module.parameters())
    groups = {
        f"{level}{more}": {"params": [], "lr": rates[level], "name": f"{level}{more}", **options}
        for level in rates
        for more in ("", ", no decay")
    }
    for parameter, held in owners(model).items():
        exempt = not decay_all and _exempt(parameter, held)
        level = "head" if parameter in own else "body"
        groups[f"{level}{', no decay' * exempt}"]["params"].append(parameter)
    for name, group in groups.items():
        if name.endswith("no decay"):
            group["weight_decay"] = 0.0
    if not any(group["params"] for name, group in groups.items() if name.startswith("body")):
        raise ArgumentError(
            f"All parameters of the model are those of its head {part.name!r}: there is no body."
        )
    return [group for group in groups.values() if group["params"]]


def _exempt(parameter: Tensor, held: list[tuple[str, nn.Module]]) -> bool:
    """Whether a parameter is a bias or part of a normalisation."""
    return parameter.ndim < 2 or any(
        isinstance(module, NORMS) or name.rpartition(".")[2] == "bias" for name, module in held
    )


def _rate(value: float | Tensor, name: str) -> Number:
    """A rate as a number, or as the tensor that was given."""
    checked = positive(value, f"`{name}`", zero_allowed=True)
    if isinstance(checked, Tensor) and checked.ndim:
        raise ArgumentError(f"`{name}` must be a single number, got {spell(value)}.")
    return value if isinstance(value, Tensor) else checked


def _check_options(options: dict[str, Any]) -> None:
    taken = [name for name in RESERVED if name in options]
    if taken:
        raise ArgumentError(
            f"`{taken[0]}` is set by `param_groups` itself: rates are `body_lr` and `head_lr`, and "
            "groups are named after their level."
        )
