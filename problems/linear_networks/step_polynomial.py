"""The loss after one step as a polynomial in two rates, and the rates that minimise it."""

import dataclasses
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.polynomial import polynomial
from numpy.typing import NDArray
from torch import Tensor

from bilevel.core.checks import check_instance, check_one_of
from bilevel.errors import ArgumentError, ShapeError

Constraint = Literal["free", "nonneg", "budget"]
"""Any rates; rates of at least 0; rates of at least 0 with a given sum."""
Array = NDArray[Any]
POLISHING = 20


class OptimalRates(NamedTuple):
    """A pair of rates and the loss after a step with them.

    Attributes:
        first: rate of the first of the two layers.
        second: rate of the second.
        loss: the test loss.
    """

    first: float
    second: float
    loss: float


@dataclasses.dataclass(frozen=True, eq=False)
class StepPolynomial:
    r"""A loss after one step as a polynomial in the rates x and y of two layers: a sum of squares.

    $$L(x, y) = \sum_{i, j \le 2} C_{ij}\, x^i y^j \ge 0$$

    Args:
        coefficients: C, (3, 3), float64.

    Raises:
        ShapeError: C is not (3, 3).
        ArgumentError: C is not finite.

    Examples:
        >>> import torch
        >>> c = torch.tensor([[5.0, -4, 1], [-2, 0, 0], [1, 0, 0]])  # (x - 1)^2 + (y - 2)^2
        >>> [round(number, 9) for number in StepPolynomial(c).minimise("free")]
        [1.0, 2.0, 0.0]
    """

    coefficients: Tensor

    def __post_init__(self) -> None:
        check_instance(self.coefficients, Tensor, "coefficients", "a tensor (3, 3)")
        if tuple(self.coefficients.shape) != (3, 3):
            raise ShapeError(f"C must be (3, 3), got {tuple(self.coefficients.shape)}.")
        if not bool(self.coefficients.isfinite().all()):
            raise ArgumentError("C must be finite: the weights or the data have overflowed.")

    def __call__(self, first: float | Tensor, second: float | Tensor) -> Tensor:
        """L at rates of any sign, which may be tensors of one shape."""
        x, y = (torch.as_tensor(rate, dtype=torch.float64) for rate in (first, second))
        c = self.coefficients
        rows = [c[i, 0] + y * (c[i, 1] + y * c[i, 2]) for i in range(3)]
        value: Tensor = rows[0] + x * (rows[1] + x * rows[2])
        return value

    def minimise(self, constraint: Constraint = "nonneg", budget: float | None = None
                 ) -> OptimalRates:  # fmt: skip
        r"""The rates with the lowest loss.

        "free": eliminating $x = -N / (2D)$ from the stationarity conditions, with $C_0$, $N$ and
        $D$ the polynomials in $y$ of the rows of C, leaves a quintic,

        $$4 D^2 C_0' - 2 N N' D + N^2 D' = 0.$$

        Its real roots are polished by Newton's method on both conditions. "nonneg" adds the edges
        $x = 0$ and $y = 0$. "budget" restricts $L$ to $x + y = S$, $x, y \ge 0$: the roots of a
        cubic and the two ends.

        Args:
            constraint: "free", "nonneg" or "budget".
            budget: S, at least 0; for "budget" only.

        Raises:
            ArgumentError: an unknown constraint; a budget where there is none to give, or none
                where one is needed; the infimum is not attained at finite rates.
        """
        check_one_of(constraint, Constraint, "constraint")
        if (constraint == "budget") != (budget is not None):
            raise ArgumentError(
                f'A budget S goes with "budget" and with nothing else, got {budget=} with '
                f"{constraint!r}."
            )
        c = self.coefficients.detach().double().cpu().numpy()
        if budget is not None:
            return _best(c, _on_budget(c, budget))
        scale, scaled = _scaled(c)
        candidates = [pair for pair in _stationary(scaled) if _is_near(scaled, *pair)]
        if constraint == "nonneg":
            candidates = [pair for pair in candidates if min(pair) >= 0] + _on_edges(scaled)
        found = _best(scaled, candidates)
        lower = _at_infinity(scaled, nonnegative=constraint == "nonneg")
        if not candidates or lower < found.loss - 1e-9 * abs(scaled[0, 0]):
            raise ArgumentError(
                "The loss has no minimum at finite rates: it falls towards "
                f"{lower:.6g} as one rate grows. Ask for a budget."
            )
        first, second = found.first * scale[0], found.second * scale[1]
        return OptimalRates(first, second, found.loss)


def _value(c: Array, x: float, y: float) -> float:
    return float(polynomial.polyval2d(float(x), float(y), c))


def _best(c: Array, candidates: list[tuple[float, float]]) -> OptimalRates:
    found = [OptimalRates(x, y, max(_value(c, x, y), 0.0)) for x, y in candidates]
    return min(found, key=lambda one: one.loss, default=OptimalRates(np.nan, np.nan, np.inf))


def _scaled(c: Array) -> tuple[tuple[float, float], Array]:
    """Units of both rates in which the squared terms are as large as the constant one."""
    units = [float(np.sqrt(c[0, 0] / square)) if square * c[0, 0] > 0 else 1.0
             for square in (c[2, 0], c[0, 2])]  # fmt: skip
    powers = np.arange(3)
    return (units[0], units[1]), c * units[0] ** powers[:, None] * units[1] ** powers


def _stationary(c: Array) -> list[tuple[float, float]]:
    """Points where both derivatives vanish."""
    constant, slope, square = c
    steep = polynomial.polyder(square)
    quintic = polynomial.polyadd(
        4 * polynomial.polymul(polynomial.polymul(square, square), polynomial.polyder(constant)),
        polynomial.polysub(
            polynomial.polymul(polynomial.polymul(slope, slope), steep),
            2 * polynomial.polymul(polynomial.polymul(slope, polynomial.polyder(slope)), square),
        ),
    )
    pairs = []
    for y in [0.0, *real_parts_of_roots(quintic)]:  # 0, for a quintic that vanishes: a curve
        curvature = polynomial.polyval(y, square)
        if curvature > 0:
            x = -polynomial.polyval(y, slope) / (2 * curvature)
            pairs.append(_polished(c, float(x), float(y)))
    return pairs


def _polished(c: Array, x: float, y: float) -> tuple[float, float]:
    """Newton's method on the gradient of L; the starting point where that does not make it less."""
    derivatives = [polynomial.polyder(c, axis=axis) for axis in (0, 1)]
    second = [[polynomial.polyder(part, axis=axis) for axis in (0, 1)] for part in derivatives]

    def gradient(at: Array) -> Array:
        return np.array([_value(part, *at) for part in derivatives])

    best = here = np.array([x, y])
    for _ in range(POLISHING):
        hessian = np.array([[_value(part, *here) for part in row] for row in second])
        here = here - np.linalg.lstsq(hessian, gradient(here), rcond=1e-12)[0]
        if not np.abs(gradient(here)).max() < np.abs(gradient(best)).max():
            break
        best = here
    return float(best[0]), float(best[1])


def _is_near(c: Array, x: float, y: float) -> bool:
    """Whether rounding leaves the value of L there some digits.

    Where it does not, the terms are huge and cancel: a root that rounding has brought back from
    infinity. `_at_infinity` has its value.
    """
    terms = _value(np.abs(c), abs(x), abs(y))
    return bool(np.finfo(float).eps * terms < 1e-7 * c[0, 0])


def _on_edges(c: Array) -> list[tuple[float, float]]:
    """The best points with x = 0 and with y = 0 among rates of at least 0."""
    x = max(0.0, -c[1, 0] / (2 * c[2, 0])) if c[2, 0] > 0 else 0.0
    y = max(0.0, -c[0, 1] / (2 * c[0, 2])) if c[0, 2] > 0 else 0.0
    return [(0.0, float(y)), (float(x), 0.0)]


def _on_budget(c: Array, budget: float) -> list[tuple[float, float]]:
    """Ends and stationary points of x -> L(x, S - x)."""
    if not (np.isfinite(budget) and budget >= 0):
        raise ArgumentError(f"The budget must be finite and at least 0, got {budget}.")
    along = np.zeros(5)
    for i in range(3):
        for j in range(3):  # of x^i (1 - x)^j, in shares of the budget
            term = c[i, j] * budget ** (i + j) * polynomial.polypow([1.0, -1.0], j)
            along[i : i + j + 1] += term
    slope = polynomial.polyder(along)
    shares = [0.0, 1.0]
    for share in real_parts_of_roots(slope):
        if 0 < share < 1:
            shares.append(_polished_root(slope, share))
    return [(share * budget, (1 - share) * budget) for share in shares]


def _polished_root(slope: Array, root: float) -> float:
    """Two steps of Newton's method, which the companion matrix's rounding may need."""
    for _ in range(2):
        steep = float(polynomial.polyval(root, polynomial.polyder(slope)))
        if steep == 0:
            break
        root = min(1.0, max(0.0, root - float(polynomial.polyval(root, slope)) / steep))
    return root


def real_parts_of_roots(coefficients: Array) -> list[float]:
    """The real parts of all roots (lowest power first), by the companion matrix.

    A double real root comes out of rounding as a pair with small imaginary parts: whoever calls
    this evaluates every candidate, so that those which are no roots do no harm.
    """
    size = np.abs(coefficients).max()
    kept = polynomial.polytrim(coefficients, tol=1e-14 * size) if size > 0 else np.zeros(1)
    return sorted(float(root.real) for root in polynomial.polyroots(kept))


def _at_infinity(c: Array, nonnegative: bool) -> float:
    """The lowest limit of L as one of the rates grows without bounds; infinite if there is none.

    L = y^2 D(x) + y N(x) + C0(x) stays finite as y grows only along x -> x0 with D(x0) = 0. With
    x = x0 + u / y the limit is u^2 D''/2 + u N'(x0) + C0(x0), for the best u.
    """
    lowest = np.inf
    for table in (c, c.T):
        constant, slope, square = table[:, 0], table[:, 1], table[:, 2]
        size = np.abs(square).max()
        if size == 0:
            continue
        place = -square[1] / (2 * square[2]) if square[2] > 0 else np.inf
        if not np.isfinite(place) or polynomial.polyval(place, square) > 1e-12 * size:
            continue
        if nonnegative and place < 0:
            continue
        turn = polynomial.polyval(place, polynomial.polyder(slope))
        u = -turn / (2 * square[2])
        if nonnegative and place == 0:
            u = max(u, 0.0)
        limit = polynomial.polyval(place, constant) + u * (turn + u * square[2])
        lowest = min(lowest, float(limit))
    return lowest
