"""Oracles on rows in chunks."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

from bilevel import trees
from bilevel.trees import Tree

Oracle = TypeVar("Oracle", bound=Callable[..., Any])


def in_chunks(oracle: Oracle) -> Oracle:
    """An oracle `oracle(self, body, ..., rows)` of g, summed over the chunks of the rows."""

    @functools.wraps(oracle)
    def summed(self: Any, body: Tree, *more: Any) -> Any:
        *between, rows = more
        if rows.chunks is None:
            return oracle(self, body, *more)
        total = None
        for share, part in rows.split(body, self.report):
            found = oracle(self, body, *between, part)
            found = trees.tree_map(lambda leaf, share=share: leaf * share, found)
            total = found if total is None else trees.tree_map(torch.add, total, found)
        return total

    return cast(Oracle, summed)


def of_body(oracle: Oracle) -> Oracle:
    """The same for F, which knows all rows at once where it is not g."""
    summed = in_chunks(oracle)

    @functools.wraps(oracle)
    def either(self: Any, body: Tree, *more: Any) -> Any:
        *between, rows = more
        if rows.chunks is None or self.is_stackelberg:
            return summed(self, body, *more)
        return oracle(self, body, *between, rows.whole(body))

    return cast(Oracle, either)
