"""Ridge regression on rows that arrive in pieces."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bilevel import trees
from bilevel.errors import ArgumentError, DataError, ShapeError, SingularHeadError
from bilevel.linear.accumulate import Sums, add_rows, nothing
from bilevel.linear.system import EPS, penalise
from bilevel.point import HeadResponse
from bilevel.progress import Progress, reported
from bilevel.row_groups import count_not_finite, from_array
from bilevel.schedules import positive
from bilevel.status import Status

CHUNK_ROWS = 8192


class GramAccumulator:
    """Ridge regression on rows that arrive in pieces: it keeps Z'Z and Z't, never the rows.

    theta = (Z'Z/n + ridge I)^{-1} Z't/n minimises 1/(2n) |Z theta - t|^2 + ridge/2 |theta|^2. Sums
    are taken in float64 whatever the type of the rows, in one pass, so that theta is the one of all
    rows at once, to rounding. Memory: (M + K)^2 numbers, and a few thousand rows.

    Arrays may be memory maps, which are never read as a whole. `add` may be called any number of
    times, and `solve` in between and with several ridges. (scikit-learn's `Ridge(alpha)` is
    `ridge = alpha / n`.)

    Args:
        fit_bias: whether a constant feature is added; its coefficient is the last one.
        penalize_bias: whether the ridge covers it.

    Examples:
        >>> import numpy as np
        >>> import bilevel
        >>> random = np.random.default_rng(0)
        >>> rows = bilevel.GramAccumulator(fit_bias=True)
        >>> for _ in range(10):
        ...     x = random.normal(size=(1000, 2))
        ...     _ = rows.add(x, x @ [1.0, -2.0] + 3.0)
        >>> rows.solve(ridge=1e-9).head.round(decimals=6)
        tensor([ 1., -2.,  3.], dtype=torch.float64)
    """

    def __init__(self, *, fit_bias: bool = False, penalize_bias: bool = False) -> None:
        self.fit_bias, self.penalize_bias = fit_bias, penalize_bias
        self._sums: Sums | None = None
        self._outputs: int | None = None

    @property
    def rows(self) -> int:
        """How many rows were added."""
        return 0 if self._sums is None else self._sums.rows

    def add(self, inputs: Any, targets: Any, *, progress: Progress = False) -> "GramAccumulator":
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
        """
        z, t = _numbers(inputs, "inputs"), _numbers(targets, "targets")
        self._check_shapes(z, t)
        columns = z.shape[1] + self.fit_bias + (1 if t.ndim == 1 else t.shape[1])
        before = self._sums or nothing(1, columns)
        sums = Sums(before.products.clone(), before.rows)
        with reported(progress, "adding rows") as report:
            for start in range(0, len(z), CHUNK_ROWS):
                some, aim = (x[start : start + CHUNK_ROWS] for x in (z, t))
                for name, part in (("inputs", some), ("targets", aim)):
                    _check_finite(part, name, start)
                if self.fit_bias:
                    some = torch.cat([some, torch.ones_like(some[:, :1])], 1)
                aim = aim.unsqueeze(1) if aim.ndim == 1 else aim
                sums = add_rows(sums, some.unsqueeze(0), aim.unsqueeze(0))
                if report is not None:
                    report(min(start + CHUNK_ROWS, len(z)), len(z))
        self._sums, self._outputs = sums, None if t.ndim == 1 else t.shape[1]
        return self

    def solve(self, ridge: float = 0.0) -> HeadResponse:
        """theta of all rows so far.

        Args:
            ridge: at least 0.

        Returns:
            `head`, (M,) or (M, K), float64, with a row more for the bias; its residual
            |Z'(Z theta - t)/n + ridge theta| and a proven bound on |theta - theta*|, which counts
            the rounding of the sums.

        Raises:
            ArgumentError: no rows were added, or `ridge` is negative.
            SingularHeadError: Z'Z/n + ridge I is numerically singular.
        """
        ridge = float(positive(ridge, "`ridge`", zero_allowed=True))
        if self._sums is None:
            raise ArgumentError("No rows were added: call `add(inputs, targets)` first.")
        n, m = self.rows, self._sums.products.shape[1] - (self._outputs or 1)
        penalty = torch.full((1, 1, m), ridge, dtype=torch.float64)
        if self.fit_bias and not self.penalize_bias:
            penalty[..., -1] = 0.0
        system = penalise(*self._sums.gram(m), penalty, n)
        mu, largest = system.curvature()
        if bool((mu <= m * EPS * largest) & (system.floor <= 0)):
            raise SingularHeadError(
                f"Z'Z/n + ridge I has smallest eigenvalue {float(mu):.2g} (largest "
                f"{float(largest):.2g}): {n} rows do not determine {m} coefficients. Set `ridge` "
                "to a positive number, add rows, or drop columns that others determine."
            )
        theta, codes = system.solve()
        residual = system.gradient_norm(theta)
        safe = residual + self._rounding(theta, m, ridge)
        return HeadResponse(
            theta[0] if self._outputs is not None else theta[0, :, 0],
            float(residual),
            float(safe / mu),
            "proven",
            Status(int(codes)),
            float(mu),
            float(safe.square() / (2 * mu)),
            "mu is the smallest eigenvalue of the Gram matrix plus the penalty.",
        )

    def _rounding(self, theta: Tensor, m: int, ridge: float) -> Tensor:
        """How much of the residual may be rounding of the sums: see `bilevel.certificate`."""
        assert self._sums is not None
        design, targets = (x.clamp(min=0).sqrt() for x in self._sums.squares(m))
        length = trees.norm(theta)
        terms = design * (design * length + targets) / self.rows + ridge * length
        return EPS * (self.rows + m + 10) * terms

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
        if self._sums is None:
            return
        outputs = None if targets.ndim == 1 else targets.shape[1]
        m = self._sums.products.shape[1] - (self._outputs or 1) - self.fit_bias
        if (inputs.shape[1], outputs) != (m, self._outputs):
            before = "(c,)" if self._outputs is None else f"(c, {self._outputs})"
            raise ShapeError(
                f"Rows so far have `inputs` (c, {m}) and `targets` {before}, got "
                f"{tuple(inputs.shape)} and {tuple(targets.shape)}."
            )


def _numbers(values: Any, name: str) -> Tensor:
    """A tensor that shares its numbers with what was given, if it is floating point."""
    found = values.detach() if isinstance(values, Tensor) else values
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
        found = from_array(values)
    if not isinstance(found, Tensor) or not found.is_floating_point():
        kind = getattr(values, "dtype", type(values).__name__)
        raise DataError(
            f"`{name}` must be a tensor or a NumPy array of floating-point numbers, got {kind}. "
            "Convert what you add, a piece at a time, with `.astype(float)` or `.float()`."
        )
    return found


def _check_finite(some: Tensor, name: str, start: int) -> None:
    bad, first = count_not_finite(some)
    if bad:
        raise DataError(
            f"`{name}` holds {bad} values that are NaN or infinite from row {start + first} on. "
            "Drop those rows or impute them; nothing of this call was added."
        )
