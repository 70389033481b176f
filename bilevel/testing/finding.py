"""What checks return and raise, and how they compare numbers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.status import Status
from bilevel.errors import BilevelError, CheckError
from bilevel.trees import Tree


class Finding(NamedTuple):
    """One thing that was looked at and is right.

    Attributes:
        what: was looked at.
        found: what was seen, with numbers.

    Examples:
        >>> from bilevel import SGD, testing
        >>> [what for what, found in testing.check_optimizer(SGD())]
        ['form', 'descent', 'runs', 'a run that is no number']
    """

    what: str
    found: str


def require(condition: bool | Tensor, message: str) -> None:
    """Raise `CheckError` unless the condition holds."""
    if not bool(condition):
        raise CheckError(message)


@contextmanager
def refusals() -> Iterator[None]:
    """What the library refuses fails the check, with the message of the refusal."""
    try:
        yield
    except CheckError:
        raise
    except BilevelError as error:
        raise CheckError(f"{type(error).__name__}: {error}") from error


def random_like(tree: Tree, generator: torch.Generator) -> Tree:
    """Standard normal numbers in the shapes of a tree, float64."""
    return trees.tree_map(
        lambda leaf: torch.randn(leaf.shape, generator=generator, dtype=torch.float64), tree
    )


def add(a: Tree, b: Tree, scale: float = 1.0) -> Tree:
    """a + scale b."""
    return trees.tree_map(lambda x, y: x + scale * y, a, b)


def distance(a: Tree, b: Tree) -> Tensor:
    """|a - b| of every run, (R,)."""
    return trees.norm(trees.tree_map(torch.sub, a, b))


def gap(a: Tree, b: Tree) -> float:
    """The largest |a - b| of a run, relative to 1 or to the larger of the two."""
    size = torch.maximum(trees.norm(a), trees.norm(b)).clamp(min=1.0)
    return float((distance(a, b) / size).max())


def check_like(found: Tree, like: Tree, name: str) -> None:
    """Structure, shapes and types must be those of `like`."""
    require(
        trees.same_structure(found, like),
        f"{name} must have the structure and the shapes {_shapes(like)}, got {_shapes(found)}.",
    )
    for (path, leaf), other in zip(trees.named_leaves(found), trees.leaves(like), strict=True):
        require(
            leaf.dtype == other.dtype,
            f"{name}{path} must have the type of what came in, {other.dtype}, got {leaf.dtype}.",
        )
        require(not leaf.requires_grad, f"{name}{path} carries a graph: use `torch.no_grad()`.")


def check_codes(status: Tensor, runs: int, name: str) -> list[Status]:
    """The statuses of R runs, or what is wrong with them."""
    require(
        isinstance(status, Tensor) and status.shape == (runs,) and not status.is_floating_point(),
        f"`status` of {name} must be an integer tensor of shape ({runs},), a `bilevel.Status` for "
        f"each run, got {status!r}.",
    )
    known = {int(code) for code in Status}
    require(
        all(int(code) in known for code in status),
        f"`status` of {name} holds {status.tolist()}; the codes are those of `bilevel.Status`.",
    )
    return [Status(int(code)) for code in status]


def _copied(leaf: object) -> object:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


@contextmanager
def unchanged(name: str, **arguments: Tree) -> Iterator[None]:
    """Trees that are looked at meanwhile must stay as they are, NaN included."""
    before = {
        what: trees.tree_map(_copied, tree)
        for what, tree in arguments.items()
        if not isinstance(tree, float | None)
    }
    yield
    for what, then in before.items():
        now = arguments[what]
        same = trees.same_structure(now, then) and all(
            torch.equal(x.nan_to_num(nan=7e77), y.nan_to_num(nan=7e77))
            for x, y in zip(trees.leaves(now), trees.leaves(then), strict=True)
        )
        require(
            same,
            f"`{what}` of {name} was changed in place. Return new tensors: `x - lr * g`, not "
            "`x -= lr * g`.",
        )


def spoiled(tree: Tree) -> Tree:
    """A copy in which run 1 is no number."""
    tree = trees.tree_map(torch.clone, tree)
    for leaf in trees.leaves(tree):
        leaf[1] = torch.nan
    return tree


def gap_of_others(mixed: Tree, together: Tree) -> float:
    """The `gap` of the runs beside run 1."""
    others = torch.tensor([0, 2])
    return gap(trees.take(mixed, others), trees.take(together, others))


def check_run_axis(state: Tree, runs: int, name: str) -> None:
    """Every tensor of a state must have the run axis first, so that it can be cut by runs."""
    for path, leaf in trees.named_leaves(state):
        if isinstance(leaf, Tensor):
            require(
                leaf.shape[:1] == (runs,),
                f"The state of {name} holds a tensor of shape {tuple(leaf.shape)} at "
                f"{path or 'its top'}: every tensor of a state must have the run axis first, here "
                f"{runs}, because states are cut and joined by runs.",
            )


def _shapes(tree: Tree) -> str:
    leaves = trees.named_leaves(tree)
    return ", ".join(
        f"{path or 'tensor'} {tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__}"
        for path, x in leaves
    )
