"""Trees of tensors with a leading run axis, and arithmetic on them.

A tree is a tensor, None (no leaf: nothing is there), or a dict, list, tuple or NamedTuple of trees.
`torch.func` speaks the same trees, but for None, and this is the only file that knows how they are
taken apart.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.utils import _pytree

Tree = Any
FLOATS = {torch.float64, torch.float32, torch.float16, torch.bfloat16}
WHOLE = {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
         torch.uint16, torch.uint32}  # fmt: skip


def tree_map(function: Callable[..., Any], tree: Tree, *more: Tree) -> Tree:
    """The tree of `function(leaf, ...)`, over trees of one structure.

    Tensors, dicts and (named) tuples, the common trees, are walked here: it is several times faster
    than the general way, and a training step walks a dozen trees.
    """
    if isinstance(tree, Tensor):
        return function(tree, *more)
    if type(tree) is dict and all(type(other) is dict for other in more):
        return {
            key: tree_map(function, value, *(other[key] for other in more))
            for key, value in tree.items()
        }
    if isinstance(tree, tuple) and all(type(other) is type(tree) for other in more):
        mapped = [tree_map(function, *same) for same in zip(tree, *more, strict=True)]
        return type(tree)(*mapped) if hasattr(tree, "_fields") else tuple(mapped)
    if tree is None:
        return None

    def unless_none(leaf: Any, *same: Any) -> Any:
        return None if leaf is None else function(leaf, *same)

    return _pytree.tree_map(unless_none, tree, *more)


def register(kind: type, fields: tuple[str, ...]) -> None:
    """Let trees hold objects of a class that is made of these fields, all of them trees."""

    def branches(tree: Any) -> tuple[list[Any], None]:
        return [getattr(tree, name) for name in fields], None

    def named(tree: Any) -> tuple[list[Any], None]:
        return [(_pytree.GetAttrKey(name), getattr(tree, name)) for name in fields], None

    def made(found: Any, _: Any) -> Any:
        return kind(*found)

    _pytree.register_pytree_node(kind, branches, made, flatten_with_keys_fn=named)


def leaves(tree: Tree) -> list[Tensor]:
    """The tensors of a tree, in a fixed order."""
    if isinstance(tree, Tensor):
        return [tree]
    if _is_flat_dict(tree):
        return list(tree.values())
    if isinstance(tree, tuple):
        return [leaf for branch in tree for leaf in leaves(branch)]
    return [leaf for leaf in _pytree.tree_leaves(tree) if leaf is not None]


def named_leaves(tree: Tree) -> list[tuple[str, Tensor]]:
    """The tensors of a tree, and what is in the place of some, with readable names."""
    if isinstance(tree, Tensor):
        return [("", tree)]
    pairs, _ = _pytree.tree_flatten_with_path(tree)
    return [(_pytree.keystr(path), leaf) for path, leaf in pairs]


def rebuild(like: Tree, new_leaves: Sequence[Tensor]) -> Tree:
    """A tree of the structure of `like` with other leaves."""
    if isinstance(like, Tensor):
        return new_leaves[0]
    if _is_flat_dict(like):
        return dict(zip(like, new_leaves, strict=True))
    if hasattr(like, "_fields") and all(isinstance(leaf, Tensor) for leaf in like):
        return type(like)(*new_leaves)
    remaining = iter(new_leaves)
    return tree_map(lambda _: next(remaining), like)


def structure(tree: Tree) -> Any:
    """The containers of a tree with their keys, the shapes and types of its leaves; hashable."""
    if isinstance(tree, Tensor):
        return tree.shape, tree.dtype
    if type(tree) is dict:
        return dict, tuple((key, structure(value)) for key, value in tree.items())
    if isinstance(tree, list | tuple):
        return type(tree), tuple(map(structure, tree))
    return str(_pytree.tree_structure(tree)), tuple(map(structure, leaves(tree)))


def same_structure(a: Tree, b: Tree) -> bool:
    """Whether two trees have the same structure and tensors of the same shapes."""
    if _pytree.tree_structure(a) != _pytree.tree_structure(b):
        return False
    pairs = leaves(a), leaves(b)
    if len(pairs[0]) != len(pairs[1]):
        return False
    shapes = [[leaf.shape if isinstance(leaf, Tensor) else None for leaf in some] for some in pairs]
    return shapes[0] == shapes[1]


def shared(a: Tree, b: Tree) -> bool:
    """Whether all leaves are tensors that hold the same memory in the same way."""
    pairs = zip(leaves(a), leaves(b), strict=True)
    return all(
        isinstance(x, Tensor) and x.dtype == y.dtype and x.data_ptr() == y.data_ptr()
        for x, y in pairs
    )


def equal(a: Tree, b: Tree) -> bool:
    """Whether two trees have the same structure, shapes and numbers."""
    if not same_structure(a, b):
        return False
    return all(torch.equal(x, y) for x, y in zip(leaves(a), leaves(b), strict=True))


def per_run(number: float | Tensor, leaf: Tensor) -> float | Tensor:
    """Shape a number, or (R,) numbers, so that they multiply a leaf (R, ...), or (R T, ...)."""
    if isinstance(number, Tensor) and number.ndim == 1:
        if len(number) != len(leaf):  # those of a run hold for all of its heads
            number = number.repeat_interleave(len(leaf) // len(number))
        return number.reshape(-1, *[1] * (leaf.ndim - 1))
    return number


def where(mask: Tensor, yes: Tree, no: Tree) -> Tree:
    """Per run, `yes` where `mask` (R,) holds, else `no`; what is no tensor comes from `no`."""

    def choose(a: Any, b: Any) -> Any:
        if not isinstance(b, Tensor):
            return b
        return torch.where(mask.reshape(-1, *[1] * (b.ndim - 1)), a, b)

    return tree_map(choose, yes, no)


def nan_where(mask: Tensor, tree: Tree) -> Tree:
    """NaN in the runs where `mask` (R,) holds."""
    return where(mask, tree_map(lambda leaf: torch.full_like(leaf, torch.nan), tree), tree)


def dot(a: Tree, b: Tree) -> Tensor:
    """Inner product per run, shape (R,)."""
    parts = [(x * y).flatten(1).sum(1) for x, y in zip(_lift(a), _lift(b), strict=True)]
    return torch.stack(parts).sum(0)


def norm(a: Tree) -> Tensor:
    """Euclidean norm per run over all leaves, shape (R,); scaled, so that it does not overflow."""
    # sums over strides would be made in another order
    plain = isinstance(a, Tensor) and a.ndim == 2 and a.is_contiguous()
    flat = a if plain else flatten(a)
    if flat.shape[1] == 0:
        return flat.new_zeros(len(flat))
    asked = not (torch.compiler.is_compiling() or is_functorch_wrapped_tensor(flat))
    if asked and flat.device.type == "cpu":  # who maps or compiles cannot be asked for numbers
        found: Tensor = torch.linalg.vector_norm(flat, dim=1)
        low, high = _SAFE.get(flat.dtype, (1.0, 0.0))
        if len(found) == 1:
            safe = low < found.item() < high
        else:
            safe = bool(((found > low) & (found < high)).all())
        if safe or not flat.any():  # the scaled one has the same bits
            return found
    # a power of two: scaling by it is exact; runs that are zero or not finite are left alone
    scale = flat.abs().amax(1).log2().floor().exp2()
    scale = torch.where(scale.isfinite() & (scale > 0), scale, torch.ones_like(scale))
    total: Tensor = scale * torch.linalg.vector_norm(flat / scale.unsqueeze(1), dim=1)
    return total


def finite(tree: Tree) -> Tensor:
    """Whether all numbers of a run are finite, shape (R,)."""
    found = [_finite(x.flatten(1)) for x in _lift(tree)]
    return found[0] if len(found) == 1 else torch.stack(found).all(0)


def all_finite(tree: Tree) -> bool:
    """Whether all numbers are finite, by their sums; ones that overflow count as infinite."""
    # no sum with a number that is not finite is finite; it is quicker than to look at each
    return all(math.isfinite(leaf.sum().item()) for leaf in leaves(tree))


def _finite(numbers: Tensor) -> Tensor:
    """Whether all numbers of a row are finite, (R,) for (R, P)."""
    if torch.compiler.is_compiling() or not numbers.is_floating_point():
        return numbers.isfinite().all(1)
    # x - x is zero, or NaN where x is not finite: a third of the time of asking each number
    return (numbers - numbers).sum(1) == 0


def flatten(tree: Tree) -> Tensor:
    """All numbers of a run as a vector, shape (R, P)."""
    return torch.cat([x.flatten(1) for x in _lift(tree)], dim=1)


def unflatten(vector: Tensor, like: Tree) -> Tree:
    """The inverse of `flatten`, with the structure and shapes of `like` (leading R)."""
    shapes = [x.shape[1:] for x in leaves(like)]
    pieces = torch.split(vector, [shape.numel() for shape in shapes], dim=1)
    return rebuild(
        like,
        [p.reshape(vector.shape[0], *s) for p, s in zip(pieces, shapes, strict=True)],
    )


def stack(trees: Sequence[Tree]) -> Tree:
    """Stack trees of single runs on a new leading run axis."""
    return tree_map(lambda *same: torch.stack(same), *trees)


def take(tree: Tree, index: Tensor | int) -> Tree:
    """The runs `index` of a tree; an int drops the run axis."""
    return tree_map(lambda leaf: leaf[index], tree)


def join(parts: Sequence[Tree]) -> Tree:
    """The runs of all parts in one tree; what is no tensor is the smallest: True if all are."""

    def one(*same: Any) -> Any:
        return torch.cat(same) if isinstance(same[0], Tensor) else min(same)

    return tree_map(one, *parts)


def part(tree: Tree, runs: slice | Tensor | tuple[Tensor, ...]) -> Tree:
    """Some of the runs of a tree; what is no tensor is left as it is."""
    return tree_map(lambda leaf: leaf[runs] if isinstance(leaf, Tensor) else leaf, tree)


def fold(tree: Tree) -> Tree:
    """Leaves (R, T, ...) as (R T, ...); what is no tensor is left as it is."""
    return tree_map(lambda leaf: leaf.flatten(0, 1) if isinstance(leaf, Tensor) else leaf, tree)


def unfold(tree: Tree, runs: int) -> Tree:
    """The inverse of `fold`, for R runs."""

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return leaf.reshape(runs, len(leaf) // runs, *leaf.shape[1:])

    return tree_map(one, tree)


def single(tree: Tree) -> Tree:
    """Add a run axis of length one."""
    return tree_map(lambda leaf: leaf.unsqueeze(0), tree)


def cast(tree: Tree, dtype: torch.dtype, device: torch.device | str | None = None) -> Tree:
    """Floating leaves in another dtype; all leaves on another device; nothing else changes."""

    def one(leaf: Tensor) -> Tensor:
        return leaf.to(device=device, dtype=dtype if leaf.is_floating_point() else None)

    return tree_map(one, tree)


def detach(tree: Tree) -> Tree:
    """The same numbers without a graph; those of `inference_mode`, which never have one, anew."""
    if torch.compiler.is_compiling():  # where none of `inference_mode` arrives; it cannot be asked
        return tree_map(lambda leaf: leaf.detach(), tree)
    return tree_map(lambda leaf: leaf.clone() if leaf.is_inference() else leaf.detach(), tree)


def check(tree: Tree, name: str, error: Callable[[str], Exception]) -> None:
    """Raise `error` unless `tree` has leaves and all of them are finite floating tensors."""
    try:
        pairs = named_leaves(tree)
    except RecursionError:
        raise error(f"`{name}` holds itself.") from None
    if not pairs:
        raise error(f"`{name}` holds no tensor.")
    for path, leaf in pairs:
        if not isinstance(leaf, Tensor):
            raise error(f"`{name}{path}` must be a tensor, got {type(leaf).__name__}.")
        wrong = unusable(leaf)
        if wrong:
            raise error(f"`{name}{path}` is {wrong}.")
        if not leaf.is_floating_point():
            raise error(f"`{name}{path}` must be floating point, got {leaf.dtype}.")
        if not (all_finite(leaf) or leaf.isfinite().all()):
            raise error(f"`{name}{path}` holds values that are not finite.")


def unusable(leaf: Tensor) -> str:
    """What a tensor is whose numbers cannot be computed with, and a remedy; empty if they can."""
    if type(leaf).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return f"a {type(leaf).__name__}, which hides its numbers: make a plain tensor of them"
    if leaf.is_nested or leaf.layout != torch.strided:
        return f"a {'nested' if leaf.is_nested else leaf.layout} tensor: use `.to_dense()`"
    if leaf.is_meta:
        return "a tensor on the device meta, which holds no numbers"
    if leaf.dtype not in FLOATS | WHOLE:
        return f"a tensor of {leaf.dtype}, which few operations know: `.float()`, say, converts it"
    return ""


_SAFE = {torch.float64: (1e-140, 1e150), torch.float32: (1e-15, 1e18)}
"""Norms whose squares neither overflow nor lose digits at the lower end."""


def _is_flat_dict(tree: Tree) -> bool:
    return type(tree) is dict and all(isinstance(leaf, Tensor) for leaf in tree.values())


def _lift(tree: Tree) -> list[Tensor]:
    """Leaves with at least two dimensions, so that 0-dim heads flatten like all others."""
    return [x.unsqueeze(1) if x.ndim == 1 else x for x in leaves(tree)]
