"""Modules of a loop as they are, whatever was wrapped around them, and their heads."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import is_lazy

from bilevel.core.checks import check_instance
from bilevel.errors import ArgumentError, spell, unknown_name
from bilevel.problem.network.layers import extras

COMPILED = "_orig_mod"
"""Where `torch.compile` keeps what it compiled."""
WRAPPERS = ("module", COMPILED)
"""The names of what is in a wrapper: parts of the names of parameters, too."""


class Part(NamedTuple):
    """A module inside of another one.

    Attributes:
        name: without the names that wrappers add.
        module: itself, not its wrapper.
    """

    name: str
    module: nn.Module


def check_model(model: object) -> None:
    """Raise unless it is a module with parameters that have shapes."""
    check_instance(model, nn.Module, "model", "an `nn.Module`")
    assert isinstance(model, nn.Module)
    lazy = [name for name, parameter in model.named_parameters() if is_lazy(parameter)]
    if lazy:
        raise ArgumentError(
            f"The parameter {lazy[0]!r} has no shape yet: call the model once on an example first."
        )


def inner(module: nn.Module) -> nn.Module:
    """What is inside of `DataParallel`, `DistributedDataParallel` and `torch.compile`."""
    while True:
        if isinstance(module, DataParallel | DistributedDataParallel):
            module = module.module
        elif COMPILED in module._modules:  # its class is in the compiler, which takes seconds
            module = module.get_submodule(COMPILED)
        else:
            return module


def wrappers(module: nn.Module) -> list[str]:
    """The names of the classes around a module, the outermost first."""
    found: list[str] = []
    while inner(module) is not module:
        found.append(type(module).__name__)
        module = module.get_submodule(COMPILED if COMPILED in module._modules else "module")
    return found


def bare(model: nn.Module, name: str) -> str:
    """The name of a parameter or module of `model` without the names that wrappers add."""
    kept, at = [], model
    for part in name.split("."):
        below = at._modules.get(part)
        if not (below is not None and inner(at) is not at):
            kept.append(part)
        at = at if below is None else below
    return ".".join(kept)


def named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """All modules under all of their names, as `bare` says them; wrappers are left out."""
    for name, module in model.named_modules(remove_duplicate=False):
        if inner(module) is module:
            yield bare(model, name), module


def head_of(model: nn.Module, head: Any) -> Part:
    """The head of a model, given by its name or as the module itself.

    Raises:
        UnknownNameError: there is no module of that name.
        ArgumentError: the module is not part of the model, is all of it, or has no parameters.
    """
    known = dict(named_modules(model))
    if isinstance(head, str):
        name = head if head in known else bare(model, head)
        if name not in known:
            raise unknown_name("module", head, [name for name in known if name])
        found = Part(name, known[name])
    elif isinstance(head, nn.Module):
        names = [name for name, module in known.items() if module is inner(head)]
        if not names:
            raise ArgumentError(
                f"`head` ({type(head).__name__}) is not part of the model: pass its name, or the "
                "module that the model itself holds."
            )
        found = Part(names[0], known[names[0]])
    else:
        raise ArgumentError(
            f"`head` must be the name of a module of the model, or the module, got {spell(head)}."
        )
    if found.module is inner(model):
        raise ArgumentError("The head is the whole model, so that there is no body.")
    if not list(found.module.parameters()):
        raise ArgumentError(
            f"The head {found.name!r} ({type(found.module).__name__}) has no parameters."
        )
    return found


def owners(model: nn.Module) -> dict[Tensor, list[tuple[str, nn.Module]]]:
    """Parameter -> the names it has, each with the module that holds it, every module once."""
    found: dict[Tensor, list[tuple[str, nn.Module]]] = {}
    for path, module in model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            name = bare(model, f"{path}.{leaf}" if path else leaf)
            found.setdefault(parameter, []).append((name, module))
    return found


def shared_with_body(model: nn.Module, head: nn.Module) -> list[tuple[str, str]]:
    """The parameters that the head shares with the body: a name of each in both."""
    inside = set(head.modules())
    found = []
    for held in owners(model).values():
        own = [name for name, module in held if module in inside]
        others = [name for name, module in held if module not in inside]
        if own and others:
            found.append((own[0], others[0]))
    return found


def refuse_shared_head(model: nn.Module, head: Part) -> None:
    """Raise if the head shares a parameter with the body."""
    shared = shared_with_body(model, head.module)
    if shared:
        own, other = shared[0]
        raise ArgumentError(
            f"The head {head.name!r} shares {own!r} with the body, where it is {other!r}: it has "
            "one rate, and belongs to both levels. Give the head weights of its own, or name "
            "another head."
        )


def linear_head(model: nn.Module, head: str | nn.Module) -> nn.Linear:
    """The head, which is a linear layer and nothing else."""
    part = head_of(model, head)
    refuse_shared_head(model, part)
    if type(part.module) is not nn.Linear:
        raise ArgumentError(
            f"The head {part.name!r} must be an `nn.Linear` (not a class derived from it) to be "
            f"solved, got {type(part.module).__name__}."
        )
    attached = extras(part.module)
    if attached:
        raise ArgumentError(
            f"The head {part.name!r} has {', '.join(attached)} beside its weight and bias, so that "
            "it is not the linear layer that is solved."
        )
    return part.module
