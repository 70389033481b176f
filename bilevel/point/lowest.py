"""The lowest point of a function of a vector that scipy finds, with its gradient, between bounds.

It knows no problems: `minimize` and the estimators tell it what to evaluate.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from bilevel.core.status import Status

Vector = NDArray[np.float64]
Evaluate = Callable[[Vector], tuple[float, Vector]]
"""Value and gradient at a vector; either may hold what is not finite: such a point is avoided."""
Told = Callable[[int, float, float], object]
"""Called as `told(iteration, value, norm)` at the start and after each iteration."""
ENDLESS = 10**9
METHODS: dict[str, dict[str, Any]] = {
    "L-BFGS-B": {"ftol": 0.0, "gtol": 0.0, "maxiter": ENDLESS, "maxfun": ENDLESS},
    "TNC": {"ftol": 0.0, "xtol": 0.0, "gtol": 0.0, "maxfun": ENDLESS},
    "SLSQP": {"ftol": 1e-300, "maxiter": ENDLESS},
    "BFGS": {"gtol": 0.0, "maxiter": ENDLESS},
    "CG": {"gtol": 0.0, "maxiter": ENDLESS},
}
"""With options by which each goes on until it finds nothing lower: when to stop is said here."""
UNBOUNDED = ("BFGS", "CG")
"""Those that hold no bounds."""
EPS = float(np.finfo(np.float64).eps)
FLAT = 4 * EPS
"""Values that differ by less, relative to their size, are the same: the slope then tells."""
STEEP = 4.0
"""A point without a value is taken to lie higher by this part of the fall that was hoped for."""


class Spot(NamedTuple):
    """A point that was looked at: value, gradient and the norm of the projected gradient."""

    point: Vector
    value: float
    slope: Vector
    norm: float


class Lowest(NamedTuple):
    """The end of a search.

    Attributes:
        spot: the lowest point that was looked at.
        status: CONVERGED, STALLED, OUT_OF_ITERATIONS or INTERRUPTED; DIVERGED: the start has no
            finite value or gradient.
        message: scipy's words, or why the search was ended before.
        evaluations: how often the function was asked.
        history: value and norm at the start and after each iteration.
    """

    spot: Spot
    status: Status
    message: str
    evaluations: int
    history: list[tuple[float, float]]


class _Ended(Exception):
    """The search is over."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


class Search:
    """A search from a start; see `lowest`."""

    def __init__(
        self, evaluate: Evaluate, start: Vector, bounds: optimize.Bounds | None, told: Told | None
    ) -> None:
        self.evaluate, self.bounds, self.told = evaluate, bounds, told
        self.evaluations, self.history = 0, list[tuple[float, float]]()
        self.best = self.last = self._seen(start)

    def run(self, method: str, tolerance: float, most: int) -> Lowest:
        """Until it converges, stalls, or has made `most` iterations."""
        first = self.best
        if not np.isfinite(first.norm):
            words = "The value or the gradient at the start is not finite."
            return Lowest(first, Status.DIVERGED, words, self.evaluations, [])
        # a step as long as the vector would change no digit of the value
        rounding = FLAT * abs(first.value) / max(1.0, float(np.abs(first.point).max(initial=0.0)))
        self.goal, self.most = max(tolerance * first.norm, rounding), most
        try:
            self._iteration(first)
            given: dict[str, Any] = {"method": method, "jac": True, "options": METHODS[method]}
            given["callback"] = lambda point: self._iteration(self._at(point))
            found = optimize.minimize(self._smooth, first.point, bounds=self.bounds, **given)
            status, message = Status.STALLED, str(found.message)
        except _Ended as end:
            status, message = end.status, str(end)
        except KeyboardInterrupt:
            status, message = Status.INTERRUPTED, "Stopped by the user."
        if status is Status.STALLED and self.best.norm <= self.goal:
            status = Status.CONVERGED
        return Lowest(self.best, status, message, self.evaluations, self.history)

    def _iteration(self, spot: Spot) -> None:
        """Note where an iteration ended, and end the search where that is enough."""
        if not np.isfinite(
            spot.norm
        ):  # SLSQP takes the tenth point of a line search, whatever it is
            return
        done = len(self.history)
        self.history.append((spot.value, spot.norm))
        if self.told is not None:
            self.told(done, spot.value, spot.norm)
        if spot.norm <= self.goal:
            raise _Ended(Status.CONVERGED, "The projected gradient fell to `tolerance`.")
        if done >= self.most:
            raise _Ended(Status.OUT_OF_ITERATIONS, f"Ended after {done:,} iterations.")

    def _at(self, point: Vector) -> Spot:
        """What is known of a point, which may have been looked at before."""
        for spot in (self.last, self.best):
            if np.array_equal(spot.point, point):
                return spot
        return self._seen(np.array(point))

    def _seen(self, point: Vector) -> Spot:
        """Look at a point."""
        value, slope = self.evaluate(point)
        self.evaluations += 1
        slope = np.asarray(slope, dtype=np.float64)
        if not (np.isfinite(value) and np.isfinite(slope).all()):
            return Spot(point, float("inf"), slope, float("nan"))
        return Spot(point, float(value), slope, projected_norm(point, slope, self.bounds))

    def _smooth(self, point: Vector) -> tuple[float, Vector]:
        """For scipy: what is not finite rises so steeply that a line search comes back from it.

        Line searches interpolate, which infinite values make NaN of.
        """
        best, spot = self.best, self._at(point)
        self.last = spot
        if np.isnan(spot.norm):
            way = point - best.point
            rise = STEEP * max(abs(float(best.slope @ way)), EPS * max(abs(best.value), EPS))
            return best.value + rise, 2 * rise * way / max(float(way @ way), EPS**2)
        least = FLAT * abs(best.value)
        if spot.value < best.value - least or (
            spot.value <= best.value + least and spot.norm < best.norm
        ):
            self.best = spot
        return spot.value, spot.slope


def projected_norm(point: Vector, slope: Vector, bounds: optimize.Bounds | None) -> float:
    """|x - P(x - gradient)|, for x between the bounds.

    Not by that difference, which is zero where x is so large that the gradient changes no digit.
    """
    if bounds is not None:
        slope = np.clip(slope, point - bounds.ub, point - bounds.lb)
    return float(np.linalg.norm(slope))


def lowest(
    evaluate: Evaluate,
    start: Vector,
    bounds: optimize.Bounds | None = None,
    method: str = "L-BFGS-B",
    *,
    tolerance: float = 1e-8,
    most: int = 1000,
    told: Told | None = None,
) -> Lowest:
    """The lowest point that a method of scipy finds, the best of all it looked at.

    Args:
        evaluate: value and gradient; where they are not finite, a line search comes back.
        start: between the bounds, (P,).
        bounds: None: there are none.
        method: one of `METHODS`; with bounds none of those `UNBOUNDED`.
        tolerance: |x - P(x - gradient)| relative to its value at the start, at which it ends.
        most: iterations.
        told: called after each of them.

    Returns:
        The end; Ctrl-C ends it, too. Other errors of `evaluate` and `told` are raised.
    """
    return Search(evaluate, start, bounds, told).run(method, tolerance, most)
