"""Trees as named leaves, for storage: what gives them back their structure is a tree that fits."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from bilevel import trees
from bilevel.trees import Tree

PLAIN = bool | int | float | str


class StoredTree(NamedTuple):
    """A tree that was read from a file.

    Attributes:
        tensors: the tensors by their place in the tree.
        plain: the other leaves, built-in numbers and strings, by their place.
    """

    tensors: dict[str, Tensor]
    plain: dict[str, Any]

    @classmethod
    def of(cls, tree: Tree) -> "StoredTree":
        """The leaves of a tree by their place in it; objects that no file can hold are left out."""
        named = trees.named_leaves(tree)
        tensors = {place: leaf for place, leaf in named if isinstance(leaf, Tensor)}
        plain = {place: leaf for place, leaf in named if isinstance(leaf, PLAIN)}
        return cls(tensors, plain)

    def fill(self, like: Tree, device: torch.device | str | None = None) -> Tree | None:
        """The tree, in the structure of `like`; None unless the places are the same."""
        places = [place for place, leaf in trees.named_leaves(like) if leaf is not None]
        leaves = {place: x.to(device) for place, x in self.tensors.items()} | self.plain
        if set(places) != {place for place, leaf in leaves.items() if leaf is not None}:
            return None
        return trees.rebuild(like, [leaves[place] for place in places])
