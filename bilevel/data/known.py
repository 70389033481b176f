"""What is known of a problem from an earlier call at a point, and forgotten with the problem.

A loop of one's own asks for one gradient after the other of one problem. What was looked at or made
once holds as long as it was made of the same things, and that is asked each time: objects are told
apart by identity, tensors by their version too, and rows that were multiplied by their numbers.
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.generators import generator
from bilevel.trees import Tree

MOST = 10
"""Things known by one name or another; more are forgotten, the oldest one first."""
DEEPEST, LONGEST = 6, 100
"""Containers that are looked into; what is in others may have changed."""
PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


class Mark:
    """Tells whether something is what it was, without holding what is not plain."""

    __slots__ = ("_kind", "_of")

    def __init__(self, thing: Any, depth: int = 0) -> None:
        self._kind, self._of = type(thing), _told(thing, depth)

    def holds(self, thing: Any) -> bool:
        """Whether `thing` is the same; where that cannot be told it is another one."""
        if type(thing) is not self._kind or self._of is None:
            return False
        if isinstance(thing, PLAIN):
            return bool(self._of[0] == thing)
        if isinstance(thing, dict):
            keys, marks = self._of
            return keys == list(thing) and all(map(Mark.holds, marks, thing.values()))
        if isinstance(thing, list | tuple):
            (marks,) = self._of
            return len(marks) == len(thing) and all(map(Mark.holds, marks, thing))
        seen, *state = self._of
        return seen() is thing and (not isinstance(thing, Tensor) or state == _state(thing))


def _told(thing: Any, depth: int) -> tuple[Any, ...] | list[Any] | None:
    """What identifies a thing; None: nothing does."""
    if isinstance(thing, PLAIN):
        return (thing,)
    if depth > DEEPEST or (isinstance(thing, dict | list | tuple) and len(thing) > LONGEST):
        return None
    if isinstance(thing, dict):
        return list(thing), [Mark(value, depth + 1) for value in thing.values()]
    if isinstance(thing, list | tuple):
        return ([Mark(value, depth + 1) for value in thing],)
    if isinstance(thing, Tensor):
        state = _state(thing)
        return None if state is None else [weakref.ref(thing), *state]
    try:
        return (weakref.ref(thing),)
    except TypeError:
        return None


def _state(tensor: Tensor) -> list[Any] | None:
    """What changes with a tensor in place; None: nobody counts its changes."""
    try:
        return [tensor._version, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype]
    except RuntimeError:  # of `inference_mode`, or without memory of its own, as sparse ones
        return None


def _bits(odd: Tensor, rows: Tensor) -> Tensor:
    """Sums of the bits of float64 rows (n, m) with odd weights, as integers modulo 2^64, (m,).

    Any change of one number changes them, by one bit too.
    """
    bits = rows.view(torch.int64)
    if bits.device.type == "cpu":
        return bits.mT @ odd
    return (bits * odd.unsqueeze(1)).sum(0)  # accelerators do not multiply matrices of integers


class Known:
    """What is known of one problem."""

    def __init__(self) -> None:
        self._made: dict[Any, tuple[Any, Any]] = {}

    def holds(self, name: Any, of: Any) -> bool:
        """Whether `of` is what was noted by this name."""
        mark, _ = self._made.get(name, (None, None))
        return mark is not None and mark.holds(of)

    def note(self, name: Any, of: Any, found: Any = None) -> None:
        """Keep what was found by this name, of these things."""
        self._keep(name, Mark(of), found)

    def within(self, name: Any, of: Any) -> "Known":
        """What is known as long as `of` is the same; nothing, where it is another one."""
        mark, found = self._made.get(name, (None, None))
        if mark is None or not mark.holds(of):
            found = Known()
            self._keep(name, Mark(of), found)
        assert isinstance(found, Known)
        return found

    def has(self, name: Any) -> bool:
        """Whether something is known by this name."""
        return name in self._made

    def once(self, name: Any, make: Callable[[], Any]) -> Any:
        """What `make` makes, which depends on nothing but the name."""
        entry = self._made.get(name)
        if entry is not None:
            return entry[1]
        found = make()
        self._keep(name, None, found)
        return found  # another thread may have forgotten it

    def by_numbers(self, name: Any, rows: list[Tensor], make: Callable[[], Any]) -> Any:
        """What `make` made of rows with these numbers, (1, n, ...) each.

        Rows may change where nobody counts it, as by the NumPy array that they share memory with,
        so that their sums with random weights and of their bits are compared: a seventh of the time
        of a Gram matrix of 200 columns, and all of that of one of 20.
        Beside large numbers sums lose what is small, which a centre would not: `_bits` do not.
        """
        before, found = self._made.get(name, (None, None))
        count, shapes = rows[0].shape[1], [some.shape for some in rows]
        if before is None or before[0] != shapes:
            source = generator(0, "weights")
            weights = torch.randn(count, generator=source, dtype=torch.float64)
            odd = torch.randint(-(2**62), 2**62, (count,), generator=source) * 2 + 1
            before = shapes, [x.to(rows[0].device) for x in (weights, odd)], None
        _, (weights, odd), earlier = before
        flat = [some[0].reshape(count, -1) for some in rows]
        sums = [weights @ some.double() for some in flat]
        sums += [_bits(odd, some) for some in flat if some.dtype == torch.float64]
        if earlier is not None and all(map(torch.equal, earlier, sums)):
            return found
        found = make()
        self._keep(name, (shapes, (weights, odd), sums), found)
        return found

    def of_equal(self, name: Any, tree: Tree) -> Any:
        """What was noted of a tree of these numbers; None if nothing was."""
        before, found = self._made.get(name, (None, None))
        if before is None:
            return None
        if isinstance(tree, Tensor) and isinstance(before, Tensor):
            same = tree.dtype == before.dtype and torch.equal(tree, before)
        else:
            same = trees.structure(tree) == trees.structure(before) and trees.equal(tree, before)
        return found if same else None

    def note_equal(self, name: Any, tree: Tree, found: Any) -> None:
        """Keep what was found of few numbers, which are copied."""
        self._keep(name, trees.tree_map(torch.clone, trees.detach(tree)), found)

    def _keep(self, name: Any, mark: Any, found: Any) -> None:
        self._made.pop(name, None)
        while len(self._made) >= MOST:
            self._made.pop(next(iter(self._made)), None)
        self._made[name] = mark, found


_KNOWN: dict[int, tuple[weakref.ref[object], Known]] = {}
"""By the identity of problems, which need not have a hash."""


def known_of(problem: object) -> Known:
    """What is known of a problem, for whoever finds out more."""
    key = id(problem)
    entry = _KNOWN.get(key)
    if entry is None or entry[0]() is not problem:
        entry = weakref.ref(problem, lambda _: _KNOWN.pop(key, None)), Known()
        _KNOWN[key] = entry
    return entry[1]
