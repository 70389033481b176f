"""Ridge regression on rows that arrive in pieces."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from bilevel import trees
from bilevel.core.arrays import is_mapped
from bilevel.core.checks import check_flag, single
from bilevel.core.graph import ordinary
from bilevel.core.memory import says_memory
from bilevel.core.progress import RowCallback, ShowProgress, reported
from bilevel.core.status import Status
from bilevel.data.groups import CHUNK_ROWS, check_piece, floating, pieces
from bilevel.errors import ArgumentError, IncompatibleError, ShapeError, SingularHeadError
from bilevel.linear.centre import Centre
from bilevel.linear.cholesky import EPS
from bilevel.linear.gram import QUICK_ROUNDING, ROWS_AT_ONCE, Sums, add_rows, nothing
from bilevel.linear.systems import AbstractSystem, CentredSystem, RowMoments
from bilevel.point.found import HeadResponse

PASSES = 6
"""Refinements at most; each makes the error smaller by the condition number times about 1e-8."""


class GramAccumulator:
    r"""Ridge regression on rows that arrive in pieces, none of which is kept.

    $\theta = (Z^\top Z/n + \lambda I)^{-1} Z^\top t/n$ minimises
    $\frac{1}{2n} \lVert Z\theta - t\rVert^2 + \frac\lambda2 \lVert\theta\rVert^2$, with all rows at
    once, in float64, whatever their type. (scikit-learn's `Ridge(alpha)` is `ridge = alpha / n`.)

    With a bias, columns are counted from the means of the first piece: they may lie far from zero.
    Pieces are multiplied in float64. Memory maps of float32 numbers are never read as a whole, but
    multiplied in float32, twice as fast, 1,024 rows at a time, with products added in float64.
    `solve` reads them again, three times as a rule, to take the gradient in float64 and refine
    $\theta$ by it; where that does not converge quickly it multiplies them in float64.

    Args:
        fit_bias: whether a constant feature is added; its coefficient is the last one.
        penalize_bias: whether the ridge covers it.

    Source: Higham 2002, chapters 12 and 20. Differs from the source in: 1. rows in pieces.

    Examples:
        >>> import bilevel, numpy as np
        >>> random = np.random.default_rng(0)
        >>> rows = bilevel.GramAccumulator(fit_bias=True)
        >>> for _ in range(10):
        ...     x = random.normal(size=(1000, 2))
        ...     _ = rows.add(x, x @ [1.0, -2.0] + 3.0)
        >>> rows.solve(ridge=1e-9).head.round(decimals=6)
        tensor([ 1., -2.,  3.], dtype=torch.float64)
    """

    def __init__(self, *, fit_bias: bool = False, penalize_bias: bool = False) -> None:
        check_flag(fit_bias, "fit_bias")
        check_flag(penalize_bias, "penalize_bias")
        self.fit_bias, self.penalize_bias = fit_bias, penalize_bias
        self._centre: Centre | None = None
        self._exact: Sums | None = None
        self._quick: Sums | None = None
        # memory maps that were added, to be read again: (n, M) and (n, K), float32
        self._maps: list[tuple[Tensor, Tensor]] = []
        self._columns = 0
        self._outputs: int | None = None

    @property
    def rows(self) -> int:
        """How many rows were added."""
        return sum(sums.rows for sums in (self._exact, self._quick) if sums is not None)

    @says_memory
    @ordinary()
    def add(
        self, inputs: Any, targets: Any, *, progress: ShowProgress = False
    ) -> "GramAccumulator":
        """Add rows.

        Args:
            inputs: Z, (c, M), floating point: a tensor, a NumPy array or a memory map.
            targets: t, (c,), or (c, K) for K outputs.
            progress: True: a bar, if standard error is a terminal; or a function that is called as
                `progress(done, total)` after every few thousand rows.

        Returns:
            The accumulator.

        Raises:
            ShapeError: the arrays do not fit each other, or the rows before.
            DataError: they are not floating point, or hold NaN or infinite values; nothing of this
                call is added then.
            IncompatibleError: they require gradients.
        """
        if any(isinstance(rows, Tensor) and rows.requires_grad for rows in (inputs, targets)):
            raise IncompatibleError(
                "The rows require gradients, and sums over them carry none. Use "
                "`bilevel.exact.ridge_head`, which is differentiable, or `.detach()` them."
            )
        z, t = floating(inputs, "inputs"), floating(targets, "targets")
        self._check_shapes(z, t)
        outputs, t = (None, t.unsqueeze(1)) if t.ndim == 1 else (t.shape[1], t)
        quick = z.dtype == torch.float32 and isinstance(inputs, np.ndarray) and is_mapped(inputs)
        before = self._quick if quick else self._exact
        with reported(progress, "adding rows") as report:
            sums = self._added(before, z, t, quick=quick, report=report, check=True)
        if quick:
            self._quick = sums
            self._maps.append((z, t))
        else:
            self._exact = sums
        self._columns, self._outputs = z.shape[1], outputs
        return self

    @says_memory
    @ordinary()
    def solve(self, ridge: float = 0.0, *, progress: ShowProgress = False) -> HeadResponse:
        r"""$\theta$ of all rows so far.

        Args:
            ridge: at least 0.
            progress: of each pass over memory maps; as in `add`.

        Returns:
            `head`, (M,) or (M, K), float64, with a row more for the bias; its residual
            $\lVert Z^\top (Z\theta - t)/n + \lambda\theta\rVert$, and a proven bound on
            $\lVert\theta - \theta^*\rVert$, which counts the rounding of sums.

        Raises:
            ArgumentError: no rows were added, or `ridge` is negative.
            SingularHeadError: $Z^\top Z/n + \lambda I$ is numerically singular.
        """
        ridge = single(ridge, "`ridge`", zero_allowed=True)
        if not self.rows:
            raise ArgumentError("No rows were added: call `add(inputs, targets)` first.")
        with reported(progress, "solving") as report:
            found = self._refined(ridge, report) if self._maps else None
            if found is None:
                self._settle(report)
                found = self._direct(ridge)
        return found

    def _direct(self, ridge: float) -> HeadResponse:
        """From sums of float64 products."""
        system = self._system(ridge)
        mu, largest = system.curvature()
        if not bool(system.definite()):
            n, m = self.rows, self._columns + self.fit_bias
            raise SingularHeadError(
                f"Z'Z/n + ridge I has smallest eigenvalue {float(mu):.2g} (largest "
                f"{float(largest):.2g}): {n} rows do not determine {m} coefficients. Set `ridge` "
                "to a positive number, add rows, or drop columns that others determine."
            )
        theta, codes = system.solve()
        size, rounding = system.gradient_norm(theta), self._rounding(theta, ridge)
        return self._response(theta, size, rounding, mu, codes)

    def _refined(self, ridge: float, report: RowCallback | None) -> HeadResponse | None:
        """From sums of float32 products, and the gradient in float64; None: no quick convergence.

        The matrix of these sums is off by at most `QUICK_ROUNDING` times its trace.
        """
        assert self._quick is not None
        system = self._system(ridge)
        mu, largest = system.curvature()
        trace = self._quick.gram.diagonal(dim1=1, dim2=2).sum(1)
        off = QUICK_ROUNDING * (trace + self.fit_bias * self._quick.rows) / self.rows
        if isinstance(system, CentredSystem):
            mu = (system.inner.curvature()[0] - off) / system.centre.stretch()
        else:
            mu = mu - off
        mu = mu.clamp(min=float(self._penalty(ridge).amin()))
        theta, codes, factor = system.factorised()
        if not bool((mu > 0) & (codes == int(Status.CONVERGED)) & largest.isfinite()):
            return None
        # each coefficient on the scale of its own feature, which the factor knows
        roots = system.primal().hessian[:, 0].diagonal(dim1=1, dim2=2).sqrt().unsqueeze(2)
        slope = self._slope(theta, ridge, report)
        # iterative refinement: the factor is that of quick sums, the slope that of the rows
        for _ in range(PASSES):
            size = trees.norm(slope / roots)
            if bool(size <= EPS * trees.norm(theta * roots)):
                break
            moved = theta - factor.solve(slope)
            there = self._slope(moved, ridge, report)
            if bool(trees.norm(there / roots) <= 0.1 * size):
                theta, slope = moved, there
            elif bool(size > self._rounding_of_each(theta, roots)):
                return None
            else:
                break
        size, rounding = trees.norm(slope), self._rounding(theta, ridge)
        return self._response(theta, size, rounding, mu, codes) if bool(size <= rounding) else None

    def _rounding_of_each(self, theta: Tensor, roots: Tensor) -> Tensor:
        """How much of the gradient may be rounding, every entry relative to its feature's size."""
        n, m, aims = self.rows, theta.shape[1], self._squares()[1]
        terms = m * trees.norm(theta * roots) + (m * aims / n).sqrt()
        return EPS * ((n + m) ** 0.5 + 10) * terms  # type: ignore[no-any-return]

    def _settle(self, report: RowCallback | None) -> None:
        """Multiply the maps in float64 and forget them."""
        exact = self._exact
        for kept in self._maps:
            exact = self._added(exact, *kept, report=report)
        self._exact, self._quick, self._maps = exact, None, []

    def _added(
        self,
        sums: Sums | None,
        inputs: Tensor,
        targets: Tensor,
        *,
        quick: bool = False,
        report: RowCallback | None = None,
        check: bool = False,
    ) -> Sums:
        """Sums with further rows in them; the constant feature goes with the targets."""
        if sums is not None:
            gram, cross, inner = (x.clone() for x in (sums.gram, sums.cross, sums.inner))
            sums = Sums(gram, cross, inner, sums.rows, sums.centre)
        for start, some, aim in pieces(inputs, targets, CHUNK_ROWS, report):
            if check:
                check_piece(some, "inputs", start)
                check_piece(aim, "targets", start)
            aim = aim.to(torch.float32 if quick else torch.float64)
            sums = self._started(some, aim) if sums is None else sums
            if self.fit_bias:
                aim = torch.cat([aim, torch.ones_like(aim[:, :1])], 1)
            sums = add_rows(sums, some.unsqueeze(0), aim.unsqueeze(0), quick=quick)
        assert sums is not None
        return sums

    def _started(self, inputs: Tensor, targets: Tensor) -> Sums:
        """No rows yet; with a bias, all will be counted from the means of the first ones."""
        empty = nothing(1, inputs.shape[1], targets.shape[1] + self.fit_bias)
        if not self.fit_bias:
            return empty
        if not self.rows:  # in numbers that float32 has, too
            means = (x.double().mean(0, keepdim=True).float() for x in (inputs, targets))
            origin, level = (x.double().nan_to_num(0.0, 0.0, 0.0) for x in means)
            self._centre = Centre(pad(origin, (0, 1)), level)
        assert self._centre is not None
        origin, level = self._centre
        return empty._replace(centre=Centre(origin[:, :-1], pad(level, (0, 1))))

    def _total(self) -> Sums:
        """The sums over all rows."""
        if self._exact is None or self._quick is None:
            found = self._exact or self._quick
            assert found is not None
            return found
        a, b = self._exact, self._quick
        whole = Sums(a.gram + b.gram, a.cross + b.cross, a.inner + b.inner, a.rows + b.rows)
        return whole._replace(centre=a.centre)

    def _system(self, ridge: float) -> AbstractSystem:
        """(Z'Z/n + P) theta = Z't/n, with a row and a column more for the bias."""
        found = RowMoments(*self._moments(self._total()), self._penalty(ridge), self._centre)
        if self._centre and self.penalize_bias:  # as `centre_of` does
            found = found.seen_from(Centre(*(x / (1 + ridge) for x in self._centre)))
        return found.system(self.rows)

    def _moments(self, sums: Sums) -> tuple[Tensor, Tensor]:
        matrix, cross = sums.moments()
        if not self.fit_bias:
            return matrix, cross
        ones, inner = cross[..., -1:], sums.inner / sums.rows
        below = torch.cat([ones.mT, inner[:, -1:, -1:]], 2)
        matrix = torch.cat([torch.cat([matrix, ones], 2), below], 1)
        return matrix, torch.cat([cross[..., :-1], inner[:, -1:, :-1]], 1)

    def _penalty(self, ridge: float) -> Tensor:
        """The diagonal of P, (1, 1, m)."""
        penalty = torch.full((1, 1, self._columns + self.fit_bias), ridge, dtype=torch.float64)
        if self.fit_bias and not self.penalize_bias:
            penalty[..., -1] = 0.0
        return penalty

    def _slope(self, theta: Tensor, ridge: float, report: RowCallback | None) -> Tensor:
        """Z'(Z theta - t)/n + P theta at (1, m, K), in float64: a pass over the maps."""
        slope = torch.zeros_like(theta)
        if self._exact is not None:
            exact = RowMoments(*self._moments(self._exact), slope, self._centre)
            slope += self._exact.rows * exact.slope(theta)
        weights = theta[0, : self._columns]
        for kept in self._maps:
            for _, some, aim in pieces(*kept, ROWS_AT_ONCE, report):
                some = some.double()
                residual = some @ weights - aim.double()
                if self.fit_bias:
                    residual += theta[0, -1:]
                    slope[0, -1] += residual.sum(0)
                slope[0, : self._columns] += some.T @ residual
        return slope / self.rows + self._penalty(ridge).mT * theta

    def _squares(self) -> tuple[Tensor, Tensor]:
        """Bounds on the sums of the squares of all features, and of all targets, (1,)."""
        sums, n = self._total(), self.rows
        squares = sums.gram.diagonal(dim1=1, dim2=2).sum(1) + n * self.fit_bias
        aims = sums.inner.diagonal(dim1=1, dim2=2)[:, : self._outputs or 1].sum(1)
        if self._centre is None:
            return squares, aims
        origin, level = (x.square().sum(1) for x in self._centre)  # |a + b|^2 <= 2 (|a|^2 + |b|^2)
        return 2 * (squares + n * origin), 2 * (aims + n * level)

    def _rounding(self, theta: Tensor, ridge: float) -> Tensor:
        """How much of the gradient may be rounding of float64: see `bilevel.bounds.heads`."""
        n, m, (squares, aims) = self.rows, theta.shape[1], self._squares()
        # those of quick sums are a little off
        design, targets, length = (1.001 * squares).sqrt(), (1.001 * aims).sqrt(), trees.norm(theta)
        terms = design * (design * length + targets) / n + ridge * length
        return EPS * (n + m + 10) * terms

    def _response(
        self, theta: Tensor, size: Tensor, rounding: Tensor, mu: Tensor, codes: Tensor
    ) -> HeadResponse:
        safe = size + rounding
        return HeadResponse(
            theta[0] if self._outputs is not None else theta[0, :, 0],
            float(size),
            float(safe / mu),
            "proven",
            Status(int(codes)),
            float(mu),
            float(safe.square() / (2 * mu)),
            "mu is the smallest eigenvalue of the Gram matrix plus the penalty.",
        )

    def _check_shapes(self, inputs: Tensor, targets: Tensor) -> None:
        """Rows of numbers, as many targets, and the same columns as before."""
        if inputs.ndim != 2 or 0 in inputs.shape:
            raise ShapeError(
                f"`inputs` must be (c, M), at least one row of numbers, got {tuple(inputs.shape)}."
            )
        if targets.ndim not in (1, 2) or len(targets) != len(inputs) or 0 in targets.shape:
            raise ShapeError(
                f"`targets` must be ({len(inputs)},), or ({len(inputs)}, K), one for each row of "
                f"`inputs`, got {tuple(targets.shape)}."
            )
        outputs = None if targets.ndim == 1 else targets.shape[1]
        if self.rows and (inputs.shape[1], outputs) != (self._columns, self._outputs):
            before = "(c,)" if self._outputs is None else f"(c, {self._outputs})"
            raise ShapeError(
                f"Rows so far have `inputs` (c, {self._columns}) and `targets` {before}, got "
                f"{tuple(inputs.shape)} and {tuple(targets.shape)}."
            )
