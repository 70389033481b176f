"""Gram matrices of more rows than fit in memory: added up chunk by chunk, in float64."""

from typing import NamedTuple

import torch
from torch import Tensor

from bilevel.linear.system import by_output, gram, weighted
from bilevel.oracles import Oracles
from bilevel.rows import Rows
from bilevel.trees import Tree

ROWS_AT_ONCE = 1024
"""Rows that are multiplied at once: with 256 columns their float64 copy stays in the cache."""
COLUMNS_AT_ONCE = 64
"""Columns of a block; only blocks that meet the lower triangle are multiplied."""


class Sums(NamedTuple):
    """Sums over rows [a u], for R runs, float64.

    Attributes:
        products: [A u]'[A u], (R, m + K, m + K); right in the lower triangle, nothing above the
            blocks on its diagonal.
        rows: how many rows were added.
    """

    products: Tensor
    rows: int

    def gram(self, m: int) -> tuple[Tensor, Tensor]:
        """A'A/n (R, m, m) and A'u/n (R, m, K), as `bilevel.linear.system.gram` gives them."""
        lower = self.products.tril()
        whole = (lower + self.products.tril(-1).mT) / self.rows
        return whole[:, :m, :m], whole[:, :m, m:]

    def squares(self, m: int) -> tuple[Tensor, Tensor]:
        """|A|^2 and |u|^2, the sums of all squares, (R,)."""
        diagonal = self.products.diagonal(dim1=1, dim2=2)
        return diagonal[:, :m].sum(1), diagonal[:, m:].sum(1)


def nothing(runs: int, columns: int, device: torch.device | str = "cpu") -> Sums:
    """No rows yet."""
    return Sums(torch.zeros(runs, columns, columns, dtype=torch.float64, device=device), 0)


def add_rows(sums: Sums, design: Tensor, targets: Tensor) -> Sums:
    """The sums with further rows in them; `sums.products` is changed in place.

    A product is as exact as one of float64 numbers, whatever the type of the rows: they are cast
    first, a few at a time.

    Args:
        sums: so far.
        design: A, (R, c, m), any floating type.
        targets: u, (R, c, K).
    """
    runs, count, m = design.shape
    some = sums.products.new_empty(runs, min(ROWS_AT_ONCE, count), m + targets.shape[2])
    for start in range(0, count, ROWS_AT_ONCE):
        size = min(ROWS_AT_ONCE, count - start)
        joined = some[:, :size]
        joined[..., :m] = design[:, start : start + size]
        joined[..., m:] = targets[:, start : start + size]
        _add_products(sums.products, joined)
    return Sums(sums.products, sums.rows + count)


def _add_products(products: Tensor, joined: Tensor) -> None:
    """Add [A u]'[A u] to the lower triangle, a block of its rows after the other."""
    columns = joined.shape[2]
    for low in range(0, columns, COLUMNS_AT_ONCE):
        high = min(low + COLUMNS_AT_ONCE, columns)
        block = products[:, low:high, :high]
        left, right = joined[..., low:high].mT, joined[..., :high]
        if len(products) == 1:  # in place, without a matrix of its own for the product
            torch.addmm(block[0], left[0], right[0], out=block[0])
        else:
            block += left @ right


def row_moments(oracles: Oracles, body: Tree, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    """Z'SZ/n (R, m, m), Z'St/n (R, m, K) and the penalty (R, J, m) of a linear head, float64.

    Of rows in chunks, the features of one are forgotten before the next one is looked at.
    """
    if rows.chunks is None:
        design, p = weighted(oracles.linear_parts(body, rows))
        return *gram(design, p.shape[2]), p
    sums: Sums | None = None
    penalty: Tensor | None = None
    for _, some in rows.split(body, oracles.report):
        parts = oracles.linear_parts(body, some)
        targets = parts.targets if parts.targets.ndim == 3 else parts.targets.unsqueeze(2)
        runs, _, m = parts.design.shape
        if sums is None:
            sums = nothing(runs, m + targets.shape[2], parts.design.device)
            penalty = by_output(parts.penalty.double())
        sums = add_rows(sums, parts.design, targets)
    assert sums is not None
    assert penalty is not None
    return *sums.gram(m), penalty
