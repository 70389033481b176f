"""The linear system behind a quadratic head, for R runs, in float64.

g(theta) = 1/2 theta' H theta - b' theta + constant, so theta* = H^{-1} b. For a linear head with
squared error, H = Z'SZ/n + diag(p) and b = Z'St/n; with fewer rows than features the n x n kernel
is factored instead (Woodbury), and beside a constant feature the others are counted from their
means (see `bilevel.linear.centre`). A run whose numbers are not finite is replaced by the identity
before a factorisation, so that it cannot harm the others.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from bilevel import trees
from bilevel.derivatives.linear_parts import LinearParts
from bilevel.derivatives.oracles import Bias
from bilevel.linear.centre import FAR, Centre, Joined, pulled, shifted
from bilevel.linear.cholesky import (
    EPS,
    diagonal_scales,
    factorise,
    known,
    not_finite,
    replace_bad,
)
from bilevel.linear.factor import (
    CentredFactor,
    Factor,
    PrimalFactor,
    blocks_of,
    fitted,
    merge_outputs,
    split_outputs,
)
from bilevel.linear.spectrum import GramSpectrum, Penalised, Spectrum


class AbstractSystem(abc.ABC):
    """A symmetric positive definite system with its right-hand sides.

    Attributes:
        known: what H is made of, where the spectrum of its Gram matrix is kept.
    """

    known: Penalised | None = None

    @abc.abstractmethod
    def factorised(self) -> tuple[Tensor, Tensor, Factor]:
        """The minimiser (R, m, K), a `Status` code per run (R,), and the factor of H."""

    @functools.cached_property
    def kept(self) -> tuple[Tensor, Tensor, Factor]:
        """What `factorised` returns, made once; not for compiled code, which enters no lock."""
        return self.factorised()

    def solve(self) -> tuple[Tensor, Tensor]:
        """The minimiser (R, m, K) and a `Status` code per run (R,)."""
        return self.kept[:2]

    @abc.abstractmethod
    def gradient_norm(self, theta: Tensor) -> Tensor:
        """|H theta - b| at (R, m, K), shape (R,)."""

    @abc.abstractmethod
    def curvature(self) -> tuple[Tensor, Tensor]:
        """A lower bound on the smallest eigenvalue of H and an upper one on the largest, (R,)."""

    @abc.abstractmethod
    def definite(self) -> Tensor:
        """Whether H is positive definite for all that rounding may have done to it, (R,)."""

    def product(self, vector: Tensor) -> tuple[Tensor, Tensor] | None:
        """H x for (R, m, K), and how much of it may be rounding for each unit of |x|, (R,).

        None where no matrix tells it quicker than the rows that it is made of.
        """
        return None

    @abc.abstractmethod
    def primal(self) -> "PrimalSystem":
        """The same system with H and b as they are."""


@dataclasses.dataclass(frozen=True, eq=False)
class PrimalSystem(AbstractSystem):
    """H theta = b, factored as it is.

    Args:
        hessian: (R, J, m, m): J = 1, or one matrix for each output if penalties differ by output.
        moment: (R, J, m, C): all K outputs side by side (J = 1, C = K), or C = 1 with J = K.
        floor: a proven lower bound on the eigenvalues, (R,): the smallest penalty, or -inf.
        rows: how many rows were summed up in `hessian`, each sum with its rounding.
        terms: the trace of what was added up to make H; None: that of H.
        known: see `AbstractSystem`.
    """

    hessian: Tensor
    moment: Tensor
    floor: Tensor
    rows: int = 0
    terms: Tensor | None = None
    known: Penalised | None = None

    def factorised(self) -> tuple[Tensor, Tensor, PrimalFactor]:
        """Cholesky, then one step of iterative refinement."""
        cholesky, hessian, status = factorise(self.hessian)
        factor = PrimalFactor(cholesky, hessian)
        return known(factor.solve(merge_outputs(self.moment)), status), status, factor

    def slope(self, theta: Tensor) -> Tensor:
        """H theta - b at (R, m, K)."""
        columns = split_outputs(theta, self.hessian.shape[1])
        return merge_outputs(self.hessian @ columns - self.moment)

    @override
    def product(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        found = merge_outputs(self.hessian @ split_outputs(vector, self.hessian.shape[1]))
        return found, self.rounding()

    def rounding(self) -> Tensor:
        """How far a product with H may be off for each unit of the vector, (R,).

        An entry is a sum over rows, off by as many roundings of what was added up; a norm is at
        most a trace.
        """
        trace = self.hessian.diagonal(dim1=2, dim2=3).abs().sum(2).amax(1)
        return EPS * (self.rows + self.hessian.shape[3] + 10) * trace

    @override
    def gradient_norm(self, theta: Tensor) -> Tensor:
        return trees.norm(self.slope(theta))

    def curvature(self) -> tuple[Tensor, Tensor]:
        """Extreme eigenvalues, moved outwards by the rounding of the matrix and the eigensolver.

        Where rounding takes half of the smallest one, the scaled matrix may tell better: with
        D S D = H it is at least that of S times the smallest square in D.
        """
        return self.bounded(lambda: self.scaled[0].low * self.scaled[1].amin(2).square())

    def bounded(self, otherwise: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        """`curvature`, with other lower bounds (R, J), where positive, for what rounding takes."""
        given, bad = self.spectrum, self.bad
        low, least = given.low.amin(1), given.least.amin(1)
        rough = (2 * low < least) | (low <= 0)
        low = torch.maximum(low, self.floor)
        if bool(rough.any()):
            told = otherwise().amin(1) * (1 - 8 * self.hessian.shape[-1] * EPS)
            low = torch.where(told > 0, torch.maximum(low, told), low)
        return low.masked_fill(bad, torch.nan), given.high.amax(1).masked_fill(bad, torch.nan)

    def definite(self) -> Tensor:
        """By the smallest penalty, or by the eigenvalues of H, as it is or scaled."""
        size = self.hessian.shape[-1]
        found = (self.floor > 0) | self.spectrum.definite(size)
        return found if bool(found.all()) else found | self.scaled[0].definite(size)

    @override
    def primal(self) -> "PrimalSystem":
        return self

    @functools.cached_property
    def bad(self) -> Tensor:
        """Which runs are not finite, (R,)."""
        if self.hessian.device.type == "cpu" and trees.all_finite(self.hessian):
            return torch.zeros(len(self.hessian), dtype=torch.bool, device=self.hessian.device)
        return not_finite(self.hessian)

    @functools.cached_property
    def spectrum(self) -> Spectrum:
        """Of H; of the identity in runs that are not finite."""
        bad = self.bad
        safe = replace_bad(self.hessian)[0] if bool(bad.any()) else self.hessian
        terms = None if self.terms is None else self.terms.masked_fill(bad.unsqueeze(1), 0.0)
        return Spectrum.of(safe, self.rows, terms)

    @functools.cached_property
    def scaled(self) -> tuple[Spectrum, Tensor]:
        """Of S with D S D = H and about ones on its diagonal; and D, (R, J, m)."""
        safe, _ = replace_bad(self.hessian)
        scales = diagonal_scales(safe)
        matrix = safe / scales.unsqueeze(2) / scales.unsqueeze(3)
        return Spectrum.of(matrix, self.rows), scales


@dataclasses.dataclass(frozen=True, eq=False)
class CentredSystem(AbstractSystem):
    """The system of a head with a constant feature, seen from near the means of the others.

    Args:
        inner: of theta_c.
        centre: which leads from theta to theta_c.
        gram: Z'SZ/n as seen from there, (R, m, m), or (R, K, m, m) where weights differ by output.
        penalty: (R, J, m).
        known: see `AbstractSystem`.
    """

    inner: PrimalSystem
    centre: Centre
    gram: Tensor
    penalty: Tensor
    known: Penalised | None = None

    @override
    def factorised(self) -> tuple[Tensor, Tensor, CentredFactor]:
        theta, status, factor = self.inner.factorised()
        return self.centre.outward(theta), status, CentredFactor(factor, self.centre.origin)

    def gradient_norm(self, theta: Tensor) -> Tensor:
        """From the matrix of theta_c."""
        return trees.norm(self.centre.slope(self.inner.slope(self.centre.inward(theta))))

    @override
    def product(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        origin = self.centre.origin
        found, rounding = self.inner.product(shifted(origin, vector))
        # |T|^2 is at most 2 + |o|^2
        return pulled(origin, found), rounding * (2 + origin.square().sum(1))

    def curvature(self) -> tuple[Tensor, Tensor]:
        """Of H; its smallest eigenvalue, where rounding takes half of it, from theta_c.

        With T'D S D T = H it is at least that of S over |T^{-1} D^{-1}|^2 in Frobenius' norm.
        """

        def otherwise() -> Tensor:
            spectrum, scales = self.inner.scaled
            squares = 1 + self.centre.origin.square().unsqueeze(1)
            return spectrum.low / (squares / scales.square()).sum(2)

        return self._whole.bounded(otherwise)

    def definite(self) -> Tensor:
        """By a floor, or by the eigenvalues in either form."""
        found = self._whole.definite()
        return found if bool(found.all()) else found | self.inner.definite()

    def primal(self) -> PrimalSystem:
        """T'H_c T and its right-hand side."""
        return self._whole

    def far(self) -> bool:
        """Whether `primal` loses digits: means much larger than their spread and penalty."""
        left = self.inner.hessian.diagonal(dim1=2, dim2=3).amin(1)
        return bool((self.centre.origin.square() > FAR**2 * left).any())

    @functools.cached_property
    def _whole(self) -> PrimalSystem:
        inner, (origin, _) = self.inner, self.centre
        hessian, moment = self.centre.undone(inner.hessian, merge_outputs(inner.moment))
        # an entry is a sum of terms of either sign, at most twice as large as these
        sizes = inner.hessian.diagonal(dim1=2, dim2=3).abs()
        terms = 2 * (sizes.sum(2) + sizes[..., -1] * origin.square().sum(1, keepdim=True))
        columns = split_outputs(moment, hessian.shape[1])
        floor = self.centre.floor(self.gram, self.penalty, inner.rows)
        return PrimalSystem(hessian, columns, floor, inner.rows, terms)


class RowMoments(NamedTuple):
    """What the system of a linear head is made of, float64.

    Attributes:
        gram: Z'SZ/n, (R, m, m); (R, K, m, m) where rows have a weight for each output.
        moment: Z'St/n, (R, m, K).
        penalty: (R, J, m).
        centre: from where features and targets are counted; None: as they are.
        bias: what is known of the constant feature, if there is a centre.
        prior: where the penalty vanishes, (R, m, K), as it is counted from zero; None: 0.
        kept: the spectrum of Z'SZ/n, counted from zero, where it is kept.
    """

    gram: Tensor
    moment: Tensor
    penalty: Tensor
    centre: Centre | None = None
    bias: Bias | None = "penalised"
    prior: Tensor | None = None
    kept: GramSpectrum | None = None

    @classmethod
    def of(cls, parts: LinearParts, bias: Bias | None = None) -> "RowMoments":
        """From rows, beside a bias counted from about their means."""
        joined = Joined.of(parts, bias)
        return cls(*joined.moments(), joined.penalty, joined.centre, bias, joined.prior)

    @classmethod
    def cut(
        cls,
        product: Tensor,
        penalty: Tensor,
        centre: Centre | None = None,
        bias: Bias | None = None,
    ) -> "RowMoments":
        """From [A u]'[A u] / n, (R, m + K, m + K)."""
        m = penalty.shape[2]
        return cls(product[:, :m, :m], product[:, :m, m:], penalty, centre, bias)

    def system(self, rows: int) -> PrimalSystem | CentredSystem:
        """The system of `rows` rows."""
        gram, moment, penalty, centre, bias, prior, kept = self
        blocks, drawn = self._blocks, None if prior is None else penalty.mT * prior
        known = None if kept is None else Penalised(kept, penalty)
        if centre is None or bias == "free":
            count = max(blocks.shape[1], penalty.shape[1])
            hessian = blocks.expand(-1, count, -1, -1).clone()
            hessian.diagonal(dim1=2, dim2=3).add_(penalty)
        else:
            hessian = blocks + centre.penalty(penalty)
            moment = centre.moment(moment, penalty)
            drawn = None if drawn is None else pulled(-centre.origin, drawn)
        moment = moment if drawn is None else moment + drawn
        columns = split_outputs(moment, hessian.shape[1])
        floor = penalty.flatten(1).amin(1)
        if centre is None:
            return PrimalSystem(hessian, columns, floor, rows, known=known)
        inner = PrimalSystem(hessian, columns, floor, rows)
        return CentredSystem(inner, centre, gram, penalty, known)

    def slope(self, theta: Tensor) -> Tensor:
        """Z'S(Z theta - t)/n at theta (R, m, K)."""
        if self.centre is None:
            return fitted(self._blocks, theta) - self.moment
        return self.centre.slope(fitted(self._blocks, self.centre.inward(theta)) - self.moment)

    def seen_from(self, centre: Centre | None) -> "RowMoments":
        """The same, counted from another centre; None: as they are counted."""
        if centre is None or self.centre is None:
            return self
        moved = Centre(*(a - b for a, b in zip(self.centre, centre, strict=True)))
        matrix, moment = moved.undone(self._blocks, self.moment)
        return self._replace(gram=matrix.reshape(self.gram.shape), moment=moment, centre=centre)

    @property
    def _blocks(self) -> Tensor:
        """Gram matrices, (R, 1, m, m) or (R, K, m, m)."""
        return blocks_of(self.gram)
