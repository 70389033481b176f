"""Compiled calls that are made again with other tensors, past the guards of the compiler.

At every call torch asks whether all that it compiled for still holds, and makes the objects that
the function returns: for small networks a quarter of the time. While nothing but the loop of a
training runs, only tensors change, and what was compiled can be called with these alone.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bilevel import trees
from bilevel.trees import Tree


class Seen(NamedTuple):
    """A call of a compiled graph, which is a function of tensors and keeps nothing.

    Attributes:
        graph: what was called.
        inputs: with these.
        outputs: what it returned.
    """

    graph: Callable[..., Sequence[Any]]
    inputs: Sequence[Any]
    outputs: Sequence[Any]


_seen: ContextVar[list[Seen] | None] = ContextVar("seen", default=None)


Backend = Callable[[torch.fx.GraphModule, list[Any]], Callable[..., Sequence[Any]]]


def _backend(**patches: bool) -> Backend:
    """The compiler of torch with some of its options, as a backend whose graphs can be `watched`.

    Made once for all functions: torch keeps every backend forever.
    """

    def compiled(graph: torch.fx.GraphModule, examples: list[Any]) -> Callable[..., Sequence[Any]]:
        from torch._dynamo import lookup_backend  # whose import takes more than a second

        inductor: Any = lookup_backend("inductor")
        made: Callable[..., Sequence[Any]] = inductor(graph, examples, config_patches=patches)

        def call(*inputs: Any) -> Sequence[Any]:
            outputs = made(*inputs)
            seen = _seen.get()
            if seen is not None:
                seen.append(Seen(made, inputs, outputs))
            return outputs

        return call

    return compiled


in_python = _backend()
"""Kernels are called from Python."""
in_cpp = _backend(cpp_wrapper=True)
"""And from C++: for calls of many small kernels, at some seconds more of compilation."""


@contextmanager
def watched() -> Iterator[list[Seen]]:
    """The graphs that are called in the block."""
    calls: list[Seen] = []
    token = _seen.set(calls)
    try:
        yield calls
    finally:
        _seen.reset(token)


class Recalled:
    """The call that was seen, with the tensors of another step in their places.

    Args:
        seen: the call.
        places: for each leaf of what changes from call to call, its place among the inputs; None
            where the graph does not ask for it.
        sources: for each leaf of the state that was returned, its place among the outputs; where it
            is none of them, minus one minus that of the leaf of the old state that it is.
        kinds: of the leaves of what changes.
    """

    def __init__(
        self, seen: Seen, places: list[int | None], sources: list[int], kinds: list[Any]
    ) -> None:
        self.graph, self.sources, self.kinds = seen.graph, sources, kinds
        # the tensors that do not change: data and hyper-parameters
        self.inputs = list(seen.inputs)
        self.places = places
        self._fill([None] * len(places))

    @classmethod
    def of(cls, calls: Sequence[Seen], state: Tree, rest: Tree, made: Tree) -> "Recalled | None":
        """How the one call made `made` of `state` and `rest`; None: there is no telling.

        It can be made again if each tensor is one leaf only, and the new state has the kinds of
        leaves of the old one (its first step may change them). Leaves that are no tensors, such as
        what was decided before the first step, are part of what was compiled: they must be the same
        before and after.
        """
        old, given, new = trees.leaves(state), trees.leaves((state, rest)), trees.leaves(made)
        found = kinds(given)
        alike = kinds(new) == found[: len(old)] and trees.same_structure(state, made)
        if len(calls) != 1 or not alike:
            return None
        tensors = [id(leaf) for leaf in given if isinstance(leaf, Tensor)]
        if len(set(tensors)) < len(tensors):
            return None
        places = {id(x): i for i, x in enumerate(calls[0].inputs) if isinstance(x, Tensor)}
        origins = {id(x): -1 - i for i, x in enumerate(old) if isinstance(x, Tensor)}
        origins |= {id(x): i for i, x in enumerate(calls[0].outputs)}
        sources = [
            origins.get(id(leaf)) if isinstance(leaf, Tensor) else -1 - i
            for i, leaf in enumerate(new)
        ]
        if None in sources or len(set(sources)) < len(sources):
            return None
        known = [source for source in sources if source is not None]
        return cls(calls[0], [places.get(id(leaf)) for leaf in given], known, found)

    def __call__(self, state: Tree, rest: Tree) -> Tree | None:
        """The next state; None where a tensor is not of the kind that the graph was made for."""
        old, given = trees.leaves(state), trees.leaves((state, rest))
        if kinds(given) != self.kinds:
            return None
        self._fill(given)
        outputs = self.graph(*self.inputs)
        self._fill([None] * len(self.places))  # the old state may go
        return trees.rebuild(state, [outputs[i] if i >= 0 else old[-1 - i] for i in self.sources])

    def _fill(self, given: Sequence[Any]) -> None:
        for place, leaf in zip(self.places, given, strict=True):
            if place is not None:
                self.inputs[place] = leaf


def kinds(leaves: Sequence[Any]) -> list[Any]:
    """What compiled code relies on of tensors; of what is none, all."""
    return [
        (x.shape, x.stride(), x.dtype, x.device, x.requires_grad)
        if isinstance(x, Tensor)
        else (type(x), x)
        for x in leaves
    ]
