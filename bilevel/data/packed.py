"""Rows of many small leaves as one matrix: one look-up for a batch instead of one for each leaf."""

import dataclasses
import math

import torch
from torch import Tensor

from bilevel import trees
from bilevel.trees import Tree

LEAVES, COLUMNS = 3, 256
"""Fewer leaves gain nothing; more columns cost more memory than the look-ups are worth."""


@dataclasses.dataclass(frozen=True, eq=False)
class PackedRows:
    """A copy of a group with its leaves side by side.

    Attributes:
        matrix: (n, columns).
        group: what was packed.
        shapes: of a row of each leaf; () where nothing was packed.
    """

    matrix: Tensor
    group: Tree
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, group: Tree, first: int) -> "PackedRows":
        """Pack a group; the matrix is empty where it has few leaves, long rows or several types.

        Args:
            group: leaves (n, ...), or (S, n, ...) for S seeds.
            first: how many axes number the rows.
        """
        leaves = trees.leaves(group)
        flat = [leaf.reshape(leaf.shape[:first].numel(), -1) for leaf in leaves]
        alike = len({leaf.dtype for leaf in leaves}) == 1
        if len(leaves) < LEAVES or not alike or sum(x.shape[1] for x in flat) > COLUMNS:
            return cls(leaves[0].new_empty(0), group, ())
        return cls(torch.cat(flat, 1), group, tuple(tuple(x.shape[first:]) for x in leaves))

    def rows(self, index: Tensor) -> Tree:
        """The rows `index` (R, B) of the group, leaves (R, B, ...)."""
        picked = self.matrix.index_select(0, index.flatten())
        pieces = torch.split(picked, [math.prod(shape) for shape in self.shapes], 1)
        return trees.rebuild(
            self.group,
            [
                piece.reshape(*index.shape, *shape)
                for piece, shape in zip(pieces, self.shapes, strict=True)
            ],
        )
