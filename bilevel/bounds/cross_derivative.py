"""d2_{w theta} g as a matrix from heads to bodies: its products and its norm.

A column is as long as the body. Where all of them take more than 64 MiB, none is kept: what is
asked of them is summed up or estimated while they pass, in the memory of a few bodies.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from bilevel import trees
from bilevel.bounds.lanczos import lanczos
from bilevel.core.generators import generator
from bilevel.data.rows import Rows
from bilevel.derivatives.head_point import HeadPoint
from bilevel.derivatives.linear_parts import PulledParts
from bilevel.derivatives.linear_products import squared_cross
from bilevel.derivatives.sizes import graph_bytes
from bilevel.linear.cholesky import EPS
from bilevel.problem.linear_head import LinearHeadProblem
from bilevel.trees import Tree

LARGEST_NORM = 512
"""Numbers of a head up to which all columns are made."""
CHUNKED_PROBES = 16
"""Products that a norm may take on rows in chunks, where each is a pass over all of them."""
COLUMN_BYTES = 2**26
"""Memory in which columns are kept: all of them, or none."""
CHUNK_BYTES = 2**26
"""Memory that the products which are computed side by side may take."""
UNSEEN = 1e-12
"""What products with random numbers do not show of a derivative that seems to be diagonal."""
DRAWN = 0.1
"""How much of the head that Lanczos' method begins at is random, where the rest is not."""


@dataclasses.dataclass(frozen=True, eq=False)
class CrossDerivative:
    """C = d2_{w theta} g of R runs, at heads of P numbers, in float64."""

    point: HeadPoint

    @functools.cached_property
    def product_bytes(self) -> int:
        """What one product of one run takes, about: its graph (of a chunk) and the result."""
        point = self.point
        at = point.body, point.head, point.rows

        def measured() -> int:
            return graph_bytes(point.oracles, *at)

        if point.oracles.known is None:
            return measured()
        shapes = [leaf.shape for leaf in trees.leaves((*at[:2], point.rows.groups))]
        found: int = point.oracles.known.once(("bytes", *shapes), measured)
        return found

    @property
    def at_once(self) -> int:
        """How many products of a single run are computed side by side."""
        return max(1, CHUNK_BYTES // max(1, 4 * self.product_bytes))

    def fits(self, count: int) -> bool:
        """Whether `count` columns of every run may be kept."""
        flat = trees.flatten(self.point.body)
        return count * flat.numel() * flat.element_size() <= COLUMN_BYTES

    def products(self, vectors: Tensor, heads: Tensor | None = None) -> Tensor:
        """C v, (R, N, numbers of the body).

        Those of a single run are computed side by side, as if they were runs.

        Args:
            vectors: v, (N, P).
            heads: where C is taken, (N, P), the same for all runs; None: at the heads of the runs.
        """
        flat = trees.flatten(self.point.body)
        runs, count = len(flat), len(vectors)
        found = flat.new_empty(runs, count, flat.shape[1])
        at = trees.flatten(self.point.head).unsqueeze(1) if heads is None else heads
        at = at.expand(runs, count, -1)
        # several runs fill a call of the oracles; a single one shares it with copies of itself
        if runs > 1:
            for i, vector in enumerate(vectors):
                found[:, i] = self._one_each(at[:, i], vector.expand(runs, -1), self.point.rows)
            return found
        for i in range(0, count, self.at_once):
            some = slice(i, min(i + self.at_once, count))
            found[0, some] = self._one_each(at[0, some], vectors[some], self._shared_rows)
        return found

    def at_heads(
        self, function: Callable[[HeadPoint, Tree], tuple[Tree, ...]], heads: Tensor, unit: Tree
    ) -> Iterator[list[Tensor]]:
        """A function of the point with each of some heads (N, R, P) in turn, and of one vector.

        What it gives for a few heads, each tree as vectors (heads, R, numbers): for one after the
        other; of a single run for all, computed as if they were runs, where that takes little
        memory.
        """
        point, count = self.point, len(heads)
        if heads.shape[1] > 1 or count > self.at_once or point.rows.chunks is not None:
            for head in heads:
                found = function(point.at(trees.unflatten(head, point.head)), unit)
                yield [trees.flatten(tree).unsqueeze(0) for tree in found]
            return
        together = trees.unflatten(heads[:, 0], point.head)
        along = trees.tree_map(lambda leaf: leaf.expand(count, *leaf.shape[1:]), unit)
        found = function(self._copies(together, self._shared_rows), along)
        yield [trees.flatten(tree).unsqueeze(1) for tree in found]

    @functools.cached_property
    def slopes(self) -> Tensor | None:
        """dp / dw of one run, (1, m, numbers of the body); None elsewhere, or where too large.

        Where the penalty p, (1, m), is all of g that depends on the body, C v is its transpose
        times theta o v.
        """
        parts, point = self._penalties, self.point
        if parts is None or not self.fits(point.head.shape[1]):
            return None
        return parts.penalty_jacobian(point.body, point.head)

    @functools.cached_property
    def own_slopes(self) -> Tensor | None:
        """The diagonal of `slopes`, (1, m), where that is all of them; None elsewhere."""
        parts, point = self._penalties, self.point
        return None if parts is None else parts.penalty_slopes(point.body, point.head)

    @property
    def _penalties(self) -> PulledParts | None:
        """The parts of one run, where the penalty is all of g that depends on the body."""
        point = self.point
        parts, runs = point.oracles.parts, len(trees.leaves(point.body)[0])
        if parts is None or not parts.free or runs > 1:
            return None
        by_output = parts.penalty(point.body, point.head).ndim == 3
        return None if by_output else parts

    def turned(self, heads: Tensor, unit: Tree) -> Tensor | None:
        """|C(theta + d) v - C v| for d (N, 1, P), of one run, (N, 1); None: it takes products.

        Where penalties are all that depends on the body, C v is linear in the head.
        """
        if self.own_slopes is None and self.slopes is None:
            return None
        moved = heads[:, 0].reshape(len(heads), *unit.shape[1:]) * unit
        moved = moved if moved.ndim == 2 else moved.sum(2)
        if self.own_slopes is not None:
            along = moved * self.own_slopes
        else:
            assert self.slopes is not None
            along = moved @ self.slopes[0]
        found: Tensor = torch.linalg.vector_norm(along, dim=1).unsqueeze(1)
        return found

    def columns(self) -> Tensor:
        """All of C, (R, P, numbers of the body)."""
        if self.slopes is not None:
            head = self.point.head
            theta = head if head.ndim == 3 else head.unsqueeze(2)
            found: Tensor = theta.unsqueeze(3) * self.slopes.unsqueeze(2)
            return found.flatten(1, 2)
        flat = trees.flatten(self.point.head)
        return self.products(torch.eye(flat.shape[1], dtype=flat.dtype, device=flat.device))

    def norm(self) -> Tensor:
        """|C|, (R,).

        It is spectral: computed for heads of up to 512 numbers where the columns fit in 64 MiB,
        elsewhere estimated by `leading`. Where each penalty has a number of the body of its own, it
        is that of a diagonal. On rows in chunks, where each product is a pass over all of them, it
        is the Frobenius norm for heads of more than 16 numbers, estimated from that many random
        signs.
        """
        size = self.point.size
        if self.own_slopes is not None:  # its columns are orthogonal
            head = self.point.head
            lengths = head.abs() if head.ndim == 2 else torch.linalg.vector_norm(head, dim=2)
            most: Tensor = (lengths * self.own_slopes.abs()).amax(1) * (1 + UNSEEN)
            return most
        if self.point.rows.chunks is not None and size > CHUNKED_PROBES:
            return self.from_signs(CHUNKED_PROBES)
        kept = size <= LARGEST_NORM and self.fits(size)
        return spectral(self.columns()) if kept else self.leading()

    def from_signs(self, probes: int) -> Tensor:
        """|C|_F, (R,): the mean of |C s|^2 over random signs s is its square."""
        flat, source = trees.flatten(self.point.head), generator(0, "signs")
        squares = torch.zeros_like(flat[:, 0])
        for i in range(0, probes, self.at_once):
            shape = min(self.at_once, probes - i), flat.shape[1]
            signs = (torch.randint(0, 2, shape, generator=source) * 2 - 1).to(flat)
            squares = squares + self.products(signs).square().sum((1, 2))
        return (squares / probes).sqrt()

    def leading(self) -> Tensor:
        """|C| by Lanczos' method on C'C, (R,).

        The root of the largest Ritz value plus its residual: what the value lacks at the top of a
        flat spectrum the residual makes up for, so that it is hardly ever below |C|. It begins at a
        random head; of linear heads, most of the way to what is largest where features are the
        body: products that tell that are cheap.
        """
        point = self.point
        flat = trees.flatten(point.head)
        drawn = torch.randn(flat.shape[1], generator=generator(0, "norm"), dtype=torch.float64)
        start = (drawn / drawn.norm()).to(flat).expand_as(flat)
        problem = point.problem
        if isinstance(problem, LinearHeadProblem) and not problem.body_free_features:
            parts = point.oracles.linear_parts(point.body, point.rows)

            def in_features(vector: Tensor) -> Tensor:
                at = trees.unflatten(vector, point.head)
                return squared_cross(parts, point.head, at, problem.criterion).flatten(1)

            start = start * DRAWN + lanczos(in_features, start, ends_early=True).vector
            start = start / start.norm(dim=1, keepdim=True)
        found = lanczos(self._squared, start)
        return (found.value + found.residual).clamp(min=0).sqrt()

    def _squared(self, vector: Tensor) -> Tensor:
        """C'C v for v (R, P), one for each run.

        C'u is a central difference of d_theta g along u, which asks no more of the features than C
        does: their derivative need not have one.
        """
        along = self._one_each(trees.flatten(self.point.head), vector, self.point.rows)
        length = along.norm(dim=1, keepdim=True)
        safe = torch.where(length > 0, length, torch.ones_like(length))
        at = trees.flatten(self.point.body)
        width = EPS ** (1 / 3) * (1 + at.norm(dim=1, keepdim=True))

        def slope(sign: float) -> Tensor:
            moved = torch.addcmul(at, sign * width / safe, along)
            there = self.point.moved(trees.unflatten(moved, self.point.body))
            return trees.flatten(there.gradient())

        found: Tensor = (slope(1.0) - slope(-1.0)) * (length / (2 * width))
        return found

    def _one_each(self, heads: Tensor, vectors: Tensor, rows: Rows) -> Tensor:
        """C v of heads (N, P) and vectors (N, P), one each; a single body is that of all."""
        at, along = (trees.unflatten(x, self.point.head) for x in (heads, vectors))
        return trees.flatten(self._copies(at, rows).cross_vjp(along))

    def _copies(self, heads: Tree, rows: Rows) -> HeadPoint:
        """Other heads (N, ...), each at its body, or at a copy of the only one."""
        point, count = self.point, len(trees.leaves(heads)[0])
        if count == len(trees.leaves(point.body)[0]):
            return HeadPoint(point.oracles, point.body, heads, rows)
        body = trees.tree_map(lambda leaf: leaf.expand(count, *leaf.shape[1:]), point.body)
        return dataclasses.replace(point.moved(body), head=heads, rows=rows)

    @functools.cached_property
    def _shared_rows(self) -> Rows:
        """The rows of a single run as rows that all of its copies share."""
        rows = self.point.rows
        groups = {
            name: group if rows.axes[name] is None else trees.take(group, 0)
            for name, group in rows.groups.items()
        }
        return Rows(groups, dict.fromkeys(groups), chunks=rows.chunks)


def spectral(columns: Tensor) -> Tensor:
    """The largest singular values of (R, n, d), rounded up, (R,)."""
    n, d = columns.shape[1:]
    # |C|^2 is at most the largest sum of a row times that of a column, and no less than any entry's
    # square: where one number is all that there is in its row and column, these are the same
    sizes = columns.abs()
    most = sizes.sum(1).amax(1).sqrt() * sizes.sum(2).amax(1).sqrt()  # no square, for tiny ones
    if bool((most <= sizes.amax((1, 2)) * (1 + 4 * EPS)).all()):
        return most * (1 + 4 * EPS)
    # scaled by a power of two, exactly: squares of tiny numbers would be zero
    scale = sizes.amax((1, 2)).log2().floor().exp2()
    scale = torch.where(scale.isfinite() & (scale > 0), scale, torch.ones_like(scale))
    near = columns / trees.per_run(scale, columns)
    return scale * root(near @ near.mT if n <= d else near.mT @ near, n + d)


def root(gram: Tensor, terms: int) -> Tensor:
    """The roots of the largest eigenvalues of Gram matrices (R, n, n), rounded up, (R,).

    `terms`: how many numbers a vector has, and how many vectors there are, in all.
    """
    bad = ~gram.flatten(1).isfinite().all(1)
    values = torch.linalg.eigvalsh(gram.masked_fill(bad.reshape(-1, 1, 1), 0.0))[:, -1]
    found: Tensor = (values.clamp(min=0) * (1 + EPS * (4 * terms + 40))).sqrt()
    return found.masked_fill(bad, math.nan)
