"""g of a linear head with a criterion of known slope and curvature.

With predictions U = Z theta, S the slopes and C_i the curvatures of the rows, s_i their weights
over n:

    d g = Z'(s S) + p (theta - q)        H = sum_i s_i C_i (x) z_i z_i' + diag(p)

Where outputs do not interact, each output of a row may have a weight of its own.

Vectors hold the head output by output: (R, K, M), flattened. Gradients are made in float64; a
Hessian only leads the way and may be made in float32.
"""

import math

import torch
from torch import Tensor
from typing_extensions import override

from bilevel import trees
from bilevel.derivatives.linear_parts import LinearParts
from bilevel.heads.objectives.base import SINGLE_WORK, AbstractObjective, Place
from bilevel.heads.objectives.known import interacts
from bilevel.heads.objectives.passes import Passes
from bilevel.linear.cholesky import EPS
from bilevel.linear.dual import linear_system
from bilevel.linear.row_gram import interacting_gram, weighted_gram
from bilevel.problem.criteria import AbstractCriterion

FAR, RISE = 1e3, 1e-2
"""A direction in which a prediction has moved so far leads away if no loss rose by more."""
LARGEST_BLOCK = 2048
"""Numbers of a block of the Hessian up to which it is formed and factored."""


class LinearObjective(AbstractObjective):
    """g of a linear head.

    A criterion whose value does not change when a number is added to all predictions of a row
    leaves the sums over outputs of an unpenalised row of the head undetermined. Then half their
    squares, times the mean square of the feature over K, are added to g: its minimum is the same,
    and the minimiser is the one whose sums are zero.

    Args:
        parts: of g, from `Oracles.linear_parts`.
        criterion: which knows its slope and its curvature.
        outputs: K, None for a head without an axis of outputs.
        settled: whether undetermined sums are made zero; a set of heads need not allow that.
    """

    def __init__(
        self,
        parts: LinearParts,
        criterion: AbstractCriterion,
        outputs: int | None,
        *,
        settled: bool = True,
    ) -> None:
        self.parts, self.criterion, self.outputs = parts, criterion, outputs
        self.settled = settled
        runs, n, self.features = parts.design.shape
        self.count = outputs or 1
        penalty = parts.penalty.double()
        penalty = (penalty.unsqueeze(2) if penalty.ndim == 2 else penalty).mT
        self.penalty = penalty.expand(runs, self.count, self.features)
        self.prior: Tensor | None = None
        if parts.prior is not None:  # where no penalty draws to it, it is no part of g
            prior = parts.prior.double().reshape(runs, self.features, -1).mT
            self.prior = prior.masked_fill(self.penalty == 0, 0.0).flatten(1)
        self.interacting = interacts(criterion, outputs, parts.targets[0])
        self.blocks = count_blocks(self.features, self.count, self.interacting)
        size = self.features * (self.count if self.interacting else 1)
        self.whole = size <= LARGEST_BLOCK
        self.price = size / 32  # as measured: a step reads the features twice, in float64
        self.work = n * (self.features * self.count) ** 2 / self.blocks
        # outputs that interact take a Gram matrix for each two of them
        led = self.interacting and not self.whole and self.work >= SINGLE_WORK  # by products
        bent = torch.float32 if led else None
        self.rows = Passes(parts, criterion, outputs, bent)
        self.has_rough = self.interacting and self.whole
        self.turns = self.interacting and not self.whole and self.features <= LARGEST_BLOCK
        self._valued: tuple[Place, Tensor] | None = None
        self.gauge: Tensor | None = None
        undetermined = (self.penalty == 0).all(1)
        if settled and criterion.shift_invariant and bool(undetermined.any()):
            squares = (self.double.square() * self.rows.most).sum(1) / self.count
            self.gauge = (squares * undetermined).unsqueeze(1)

    @property
    def double(self) -> Tensor:
        """The features in float64."""
        return self.rows.double

    def vector(self, head: Tensor) -> Tensor:
        """Output by output; undetermined sums become zero."""
        columns = head.double().unsqueeze(1) if self.outputs is None else head.double().mT
        if self.gauge is not None:
            columns = columns - columns.mean(1, keepdim=True) * (self.gauge > 0)
        return columns.flatten(1)

    @override
    def head(self, vectors: Tensor) -> Tensor:
        columns = self._columns(vectors)
        return columns[:, 0] if self.outputs is None else columns.mT.contiguous()

    def at(self, point: Tensor) -> Place:
        """Two products with the features, in the type of the point."""
        fit, predictions = self.rows.slopes(self._columns(point).mT)
        point = point.double()
        return Place(point, fit.flatten(1) + self._penalised(self._away(point)), predictions)

    @override
    def single_rounding(self) -> Tensor | None:
        return self.rows.single_rounding()

    def value(self, place: Place) -> Tensor:
        """The mean loss and the penalty; the last one is kept: there the next search begins."""
        if self._valued is not None and self._valued[0] is place:
            return self._valued[1]
        losses, away = self.rows.losses(place.predictions).double(), self._away(place.point)
        penalty = 0.5 * trees.dot(self._penalised(away), away)
        value: Tensor = (losses * self.rows.weights).sum((1, 2)) + penalty
        self._valued = place, value
        return value

    def product(self, place: Place, vectors: Tensor) -> Tensor:
        """Two products with the features, in the type of the vectors."""
        found = self.rows.product(place.predictions, self._columns(vectors).mT)
        return found.flatten(1) + self._penalised(vectors)

    def hessian(self, place: Place, dtype: torch.dtype) -> Tensor:
        """One block for interacting outputs, else one for each; a diagonal where they are large."""
        diagonal, outer = self.rows.curvature(place.predictions, dtype)
        if self.whole and outer is not None:
            free = self.criterion.shift_invariant
            weights = torch.as_tensor(self.rows.weights, dtype=dtype, device=diagonal.device)
            design = self.rows.features(dtype) * weights.sqrt()
            runs = zip(design, outer, diagonal, strict=True)
            found = torch.stack([interacting_gram(z, f, None if free else d) for z, f, d in runs])
            return self._shifted(found).unsqueeze(1)
        return self._by_output(diagonal if outer is None else diagonal - outer.square())

    def fit(self, predictions: Tensor) -> Tensor | None:
        """By penalised least squares, for up to 2,048 features."""
        if self.features > LARGEST_BLOCK:
            return None
        parts = self.parts._replace(targets=predictions.double())
        head = linear_system(parts, penalised=False).solve()[0]
        return self.vector(head[..., 0] if self.outputs is None else head)

    @override
    def majorant(self, place: Place) -> Tensor | None:
        curved = self.criterion.majorant(*self.rows.flat(place.predictions.double()))
        return None if curved is None else self._by_output(curved.reshape(place.predictions.shape))

    def _by_output(self, curved: Tensor) -> Tensor:
        """The blocks of outputs with curvatures (R, n, K)."""
        dtype = curved.dtype
        design = self.rows.features(dtype)
        curved = curved * torch.as_tensor(self.rows.weights, dtype=dtype, device=curved.device)
        added = self.penalty.to(dtype)
        if self.gauge is not None:
            added = added + self.gauge.to(dtype)
        if self.blocks > self.count:
            entries = curved.mT @ design.square() + added
            return entries.flatten(1)[:, :, None, None]
        blocks = [weighted_gram(design, curved[:, :, k : k + 1]) for k in range(self.count)]
        return torch.stack(blocks, 1) + torch.diag_embed(added)

    @override
    def take(self, which: Tensor | slice) -> "LinearObjective":
        kept = trees.part(self.parts, which)
        return LinearObjective(kept, self.criterion, self.outputs, settled=self.settled)

    def rounding(self, place: Place) -> Tensor:
        """Of sums over the rows and over the features, of what cancels in a prediction."""
        squares = (self.double.square() * self.rows.most).sum(1)
        lengths = self.double.norm(dim=2, keepdim=True)
        mean, square = (lengths * self.rows.most).sum((1, 2)), squares.sum(1)
        columns = self._columns(place.point).abs()
        terms = (columns * squares.sqrt().unsqueeze(1)).sum(2).amax(1)
        slopes = self.rows.slope(place.predictions).abs().flatten(1).amax(1)
        most = self.criterion.largest_curvature
        curved = (most if math.isfinite(most) else 1.0) * square.sqrt() * terms
        if self.prior is not None:
            columns = columns + self._columns(self.prior).abs()
        penalty = (self.penalty * columns).flatten(1).amax(1)
        count = self.parts.design.shape[1] + self.features
        found: Tensor = EPS * (count**0.5 + 4) * (mean * slopes + curved + penalty)
        return found

    @property
    def penalised(self) -> Tensor:
        """Whether all penalties are positive, those of undetermined sums apart."""
        return (self.penalty > 0).flatten(1).all(1)

    @override
    @property
    def falling(self) -> Tensor:
        # slopes of one sign, as of a class without rows, and features of one sign: d g is never 0
        free, up = self.penalty == 0, None
        if bool(free.any()):
            up = self.criterion.rising(self.rows.targets.flatten(0, 1), self.outputs)
        if up is None:
            return super().falling
        up = up.reshape(*self.parts.design.shape[:2], self.count)
        weights = self.rows.weights
        counted = weights > 0 if isinstance(weights, Tensor) else torch.ones_like(up[..., :1])
        slope = (up | ~counted).all(1).int() - (~up | ~counted).all(1).int()
        if not bool(slope.any()):
            return super().falling
        counting = self.parts.design.unsqueeze(1) * counted.mT.unsqueeze(3)  # (R, 1 or K, n, M)
        low, high = counting.amin(2), counting.amax(2)
        sign = ((low >= 0) & (high > 0)).int() - ((high <= 0) & (low < 0)).int()
        return (-slope.unsqueeze(2) * sign * free).flatten(1)

    @override
    def moves(self, step: Tensor) -> Tensor:
        return (self.double @ self._columns(step).mT).abs().flatten(1).amax(1)

    def reach(self, place: Place, step: Tensor) -> Tensor:
        """max |Z d| with d the unpenalised part of a step; 0 if far along it a row loses by it.

        As g is convex, its minimum runs away only in directions that no penalty holds and in which
        the loss of no row rises, however far they lead.
        """
        free = self._columns(step) * (self.penalty == 0)
        moved = self.double @ free.mT
        if self.criterion.shift_invariant:  # what all outputs have in common leads nowhere
            moved = moved - moved.mean(2, keepdim=True)
        size = moved.abs().flatten(1).amax(1)
        stretch = FAR / size.clamp(min=torch.finfo(size.dtype).tiny)
        ahead = place.predictions + trees.per_run(stretch, moved) * moved
        rise = self.rows.losses(ahead) - self.rows.losses(place.predictions)
        if isinstance(self.rows.weights, Tensor):
            rise = rise.masked_fill(self.rows.weights == 0, 0.0)
        return size.masked_fill(~(rise.amax((1, 2)) <= RISE), 0.0)

    def rough_hessian(self, place: Place) -> Tensor:
        """The mean curvature of all rows times one Gram matrix: H where predictions are equal."""
        # With one curvature for all rows the sum of C_i (x) z_i z_i' is a Kronecker product: one
        # Gram matrix in the place of K (K + 1) / 2. At a head of zero, where a first solve begins,
        # it is H, and where the next steps lead, secants correct it.
        mean, gram = self.rows.mean_curvature(place.predictions, torch.float64), self.rows.gram
        found = torch.einsum("rkl,rmj->rkmlj", mean, gram).flatten(3, 4).flatten(1, 2)
        return self._shifted(found).unsqueeze(1)

    def lead(self, place: Place) -> tuple[Tensor, Tensor | None]:
        """The same for many outputs: turned to the axes of the mean curvature, K blocks M x M."""
        if not self.turns:
            return super().lead(place)
        mean = self.rows.mean_curvature(place.predictions, torch.float32).double()
        bad = ~mean.flatten(1).isfinite().all(1)
        sizes, mix = torch.linalg.eigh(mean.masked_fill(bad[:, None, None], 0.0))
        sizes = sizes.clamp(min=0).masked_fill(bad.unsqueeze(1), torch.nan)
        added = mix.square().mT @ self.penalty
        if self.gauge is not None:
            added = added + mix.sum(1).square().unsqueeze(2) * self.gauge
        blocks = sizes[:, :, None, None] * self.rows.gram.unsqueeze(1)
        blocks.diagonal(dim1=2, dim2=3).add_(added)
        return blocks, mix

    def _shifted(self, matrix: Tensor) -> Tensor:
        """One block with the penalties, and what settles undetermined sums, added in place."""
        if self.gauge is not None:
            shift = torch.diag_embed(self.gauge[:, 0].to(matrix.dtype))
            matrix += shift.repeat(1, self.count, self.count)
        matrix.diagonal(dim1=1, dim2=2).add_(self.penalty.to(matrix.dtype).flatten(1))
        return matrix

    def _away(self, point: Tensor) -> Tensor:
        """theta - q."""
        return point if self.prior is None else point - self.prior

    def _columns(self, vectors: Tensor) -> Tensor:
        return vectors.reshape(-1, self.count, self.features)

    def _penalised(self, vectors: Tensor) -> Tensor:
        """p theta, and the slope of what settles undetermined sums."""
        columns = self._columns(vectors)
        found = self.penalty.to(vectors.dtype) * columns
        if self.gauge is not None:
            found = found + self.gauge.to(vectors.dtype) * columns.sum(1, keepdim=True)
        return found.flatten(1)


def count_blocks(features: int, outputs: int, interacting: bool) -> int:
    """In how many blocks of one size a Hessian, or what preconditions it, is factored."""
    if features * (outputs if interacting else 1) <= LARGEST_BLOCK:
        return 1 if interacting else outputs
    return outputs if features <= LARGEST_BLOCK else outputs * features
