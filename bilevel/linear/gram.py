"""Gram matrices of more rows than fit in memory: added up chunk by chunk, in float64."""

from typing import NamedTuple

import torch
from torch import Tensor

from bilevel import trees
from bilevel.data.rows import Rows
from bilevel.derivatives.linear_parts import LinearParts
from bilevel.derivatives.oracles import Bias, Oracles
from bilevel.errors import IncompatibleError
from bilevel.linear.centre import Centre, Joined
from bilevel.linear.spectrum import GramSpectrum, Spectrum
from bilevel.linear.systems import RowMoments
from bilevel.trees import Tree

ROWS_AT_ONCE = 1024
"""Rows that are multiplied at once: with 256 columns their float64 copy stays in the cache."""
COLUMNS_AT_ONCE = 64
"""Columns of a block; only blocks that meet the lower triangle are multiplied."""
QUICK_ROUNDING = ROWS_AT_ONCE * torch.finfo(torch.float32).eps
"""How far a quick sum of products may be off, relative to the sum of their absolute values."""

LARGEST_KEPT = 2**22
"""Numbers of a Gram matrix that is kept between calls at a point: 32 MiB."""


class Sums(NamedTuple):
    """Sums over rows a and u, for R runs, float64.

    Attributes:
        gram: A'A, (R, m, m); right in the lower triangle, and of no meaning elsewhere.
        cross: A'u, (R, m, K).
        inner: u'u, (R, K, K).
        rows: how many rows were added.
        centre: from where a, which has a one for its last number then, and u are counted.
    """

    gram: Tensor
    cross: Tensor
    inner: Tensor
    rows: int
    centre: Centre | None = None

    def moments(self) -> tuple[Tensor, Tensor]:
        """A'A/n and A'u/n, as `RowMoments` holds them."""
        whole = self.gram.tril() + self.gram.tril(-1).mT
        return whole / self.rows, self.cross / self.rows

    def norms(self) -> tuple[Tensor, Tensor]:
        """|A| and |u|, the roots of the sums of all squares, counted from zero, (R,)."""
        squares = [x.diagonal(dim1=1, dim2=2).sum(1) for x in (self.gram, self.inner)]
        if self.centre is not None:
            moved = zip(self.centre, (self.gram[:, -1], self.cross[:, -1]), strict=True)
            added = [(x * (self.rows * x + 2 * sums)).sum(1) for x, sums in moved]
            squares = [(a + b).clamp(min=0) for a, b in zip(squares, added, strict=True)]
        design, targets = (x.sqrt() for x in squares)
        return design, targets


def nothing(runs: int, m: int, outputs: int, device: torch.device | str = "cpu") -> Sums:
    """No rows yet."""
    gram = torch.zeros(runs, m, m, dtype=torch.float64, device=device)
    cross = gram.new_zeros(runs, m, outputs)
    return Sums(gram, cross, gram.new_zeros(runs, outputs, outputs), 0)


def add_rows(sums: Sums, design: Tensor, targets: Tensor, *, quick: bool = False) -> Sums:
    """The sums with further rows in them; the tensors of `sums` are changed in place.

    Args:
        sums: so far, their centre taken from the rows here.
        design: A, (R, c, m), any floating type.
        targets: u, (R, c, K).
        quick: multiply 1,024 rows at a time in the type they have, and add these products in
            float64. Otherwise rows are cast to float64 first: in half the speed of float32, exact
            but for the rounding of float64.
    """
    runs, count, m = design.shape
    exact = design.new_empty(runs, min(ROWS_AT_ONCE, count), m, dtype=torch.float64)
    for start in range(0, count, ROWS_AT_ONCE):
        some, aim = (x[:, start : start + ROWS_AT_ONCE] for x in (design, targets))
        if not quick:
            some, aim = exact[:, : some.shape[1]].copy_(some), aim.double()
        if sums.centre is not None:
            origin, level = (x.unsqueeze(1).to(some.dtype) for x in sums.centre)
            some, aim = some - origin, aim - level
        _add_lower(sums.gram, some)  # half of the work: A'A is symmetric
        sums.cross.add_(some.mT @ aim)
        sums.inner.add_(aim.mT @ aim)
    return sums._replace(rows=sums.rows + count)


def _add_lower(total: Tensor, some: Tensor) -> None:
    """Add A'A to the lower triangle, a block of its rows after the other."""
    in_place = len(total) == 1 and some.dtype == total.dtype
    for low in range(0, some.shape[2], COLUMNS_AT_ONCE):
        high = min(low + COLUMNS_AT_ONCE, some.shape[2])
        block = total[:, low:high, :high]
        left, right = some[..., low:high].mT, some[..., :high]
        if in_place:  # without a matrix of its own for the product
            torch.addmm(block[0], left[0], right[0], out=block[0])
        else:
            block += left @ right


class LastSums(NamedTuple):
    """The sums that were made last with some oracles, which keep them.

    Attributes:
        body: a copy of the bodies.
        inputs: the training inputs.
        sums: over all rows.
        penalty: (R, J, m).
        prior: (R, m, K); None: 0.
    """

    body: list[Tensor]
    inputs: Tensor
    sums: Sums
    penalty: Tensor
    prior: Tensor | None


def row_moments(oracles: Oracles, body: Tree, rows: Rows) -> RowMoments:
    """The moments of a linear head, counted from about the means where there is a bias."""
    bias = oracles.bias
    if rows.chunks is not None:
        found = row_sums(oracles, body, rows)
        sums, penalty, prior = found.sums, found.penalty, found.prior
        return RowMoments(*sums.moments(), penalty, sums.centre, bias, prior)
    parts, known = oracles.bare_parts(body, rows), oracles.known
    if known is None or not _lasts(oracles, parts):
        return RowMoments.of(parts, bias)
    joined = Joined.of(parts, bias)
    product, centre, kept = known.by_numbers(
        ("gram", parts.design.dtype),
        [parts.design, joined.parts.targets],
        lambda: _made(joined, bias),
    )
    return RowMoments.cut(product, joined.penalty, centre, bias)._replace(kept=kept)


def _made(joined: Joined, bias: Bias | None) -> tuple[Tensor, Centre | None, GramSpectrum]:
    """What is kept of rows: [A u]'[A u] / n, its centre, and the spectrum; none of the rows."""
    product, centre, rows = joined.products(), joined.centre, joined.parts.design.shape[1]
    nothing = torch.zeros_like(joined.penalty[:, :1])
    bare = RowMoments.cut(product, nothing, centre, bias)

    def spectrum() -> Spectrum:
        return bare.system(rows).primal().spectrum

    diagonal = bare.system(rows).primal().hessian[:, 0].diagonal(dim1=1, dim2=2).clone()
    return product, centre, GramSpectrum(spectrum, diagonal)


def _lasts(oracles: Oracles, parts: LinearParts) -> bool:
    """Whether the moments of one run are those of other bodies too, and small enough to keep."""
    free = oracles.parts is not None and oracles.parts.free and oracles.bias != "penalised"
    return free and len(parts.design) == 1 and parts.design.shape[2] ** 2 <= LARGEST_KEPT


def row_sums(oracles: Oracles, body: Tree, rows: Rows) -> LastSums:
    """The sums over all rows, penalty and prior, for rows in chunks.

    The features of a chunk are forgotten before the next one is looked at. Beside a bias, all are
    counted from the means of the first chunk. What was made last is kept: solver and certificate
    ask for the same sums, and another pass may mean reading a file.

    Raises:
        IncompatibleError: the prior depends on the rows.
    """
    inputs, leaves = rows.groups["train"].inputs, trees.leaves(body)
    last: LastSums | None = oracles.last_sums
    if last is not None and last.inputs is inputs and _same(last.body, leaves):
        return last
    sums: Sums | None = None
    first: Joined | None = None
    for _, some in rows.split(body, oracles.report):
        parts = oracles.linear_parts(body, some)
        targets = parts.targets if parts.targets.ndim == 3 else parts.targets.unsqueeze(2)
        runs, _, m = parts.design.shape
        if sums is None:
            sums = nothing(runs, m, targets.shape[2], parts.design.device)
            first = Joined.of(parts, oracles.bias)
            sums = sums._replace(centre=first.centre)
        assert first is not None
        if parts.prior is not None and not trees.equal(parts.prior, first.parts.prior):
            raise IncompatibleError(
                f"`prior` of {type(oracles.problem).__name__} differs between chunks of its rows: "
                "with `chunk_rows` it must not depend on the rows of the batch. Compute it from "
                "the body, or set `chunk_rows = None`."
            )
        sums = add_rows(sums, parts.design, targets)
    assert sums is not None
    assert first is not None
    body_then = [leaf.clone() for leaf in leaves]
    found = LastSums(body_then, inputs, sums, first.penalty, first.prior)
    oracles.last_sums = found
    return found


def _same(some: list[Tensor], others: list[Tensor]) -> bool:
    """Whether bodies are of one type and have the same numbers."""
    pairs = zip(some, others, strict=True)
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)
