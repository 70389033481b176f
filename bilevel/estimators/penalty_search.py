"""Logarithms of penalties in a box: from the best common one, by L-BFGS-B."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from bilevel.errors import DataError
from bilevel.estimators.columns import Floats

SPAN = (1e-5, 1e5)
"""The box, in mean squares of a column."""
INSIDE = 1.0
"""How far from a bound, in log units, the search starts: at one it may be too flat to move."""
AT_BOUND = INSIDE + 1e-6
"""What is not farther from a bound counts as at it: F may have been too flat to go on."""

Flags = NDArray[np.bool_]
ValueAndGradient = Callable[[Floats], tuple[float, Floats]]


class Box(NamedTuple):
    """The least and the greatest log-penalty."""

    low: float
    high: float

    @classmethod
    def around(cls, z: Floats) -> "Box":
        """The box of columns by their mean square.

        Raises:
            DataError: it overflows, or vanishes though columns vary.
        """
        with np.errstate(over="ignore"):
            mean_square = float(np.square(z).mean())
        if mean_square == np.inf or (mean_square < np.finfo(np.float64).tiny and z.any()):
            raise DataError(
                "The columns of X are too large or too small for their squares. Give them in other "
                "units, or let `scale=True` divide them by their deviations."
            )
        low, high = np.log(SPAN) + np.log(mean_square if mean_square > 0 else 1.0)
        return cls(float(low), float(high))

    def grid(self, count: int) -> Floats:
        """Common log-penalties."""
        return np.linspace(self.low, self.high, count)

    def start(self, values: Floats) -> float:
        """The log-penalty of the least value on the grid, a little inside of the box."""
        best = self.grid(len(values))[int(np.argmin(values))]
        return float(np.clip(best, self.low + INSIDE, self.high - INSIDE))


class Found(NamedTuple):
    """Where a search ended.

    Attributes:
        u: log-penalties, (B,).
        path: F at the start and after each iteration.
        low: (B,), which ended at the lower bound, or within a factor of e of it.
        high: likewise at the upper one.
    """

    u: Floats
    path: Floats
    low: Flags
    high: Flags


def search(
    function: ValueAndGradient,
    start: Floats,
    box: Box,
    *,
    shrink: float,
    rows: int,
    max_iter: int,
    flat: float = 1e-10,
) -> Found:
    """Minimise F + shrink / rows sum_b (u_b - mean u)^2 over the box.

    Args:
        function: F and its gradient at log-penalties (B,).
        start: (B,), in the box.
        box: the least and the greatest.
        shrink: at least 0.
        rows: n.
        max_iter: iterations.
        flat: F is about one; an iteration that lowers it by less is the last one.
    """
    path: list[float] = []

    def objective(u: Floats) -> tuple[float, Floats]:
        value, slope = function(u)
        away = u - u.mean()
        value += shrink * float(away @ away) / rows
        if not path:
            path.append(value)
        return value, slope + 2 * shrink * away / rows

    def recorded(intermediate_result: Any) -> None:
        path.append(float(intermediate_result.fun))

    settings: dict[str, Any] = {
        "options": {"maxiter": max_iter, "ftol": flat, "gtol": 1e-7},
        "bounds": [box] * len(start),
        "callback": recorded,
    }
    result = minimize(objective, start, jac=True, method="L-BFGS-B", **settings)
    u = np.asarray(result.x, dtype=np.float64)
    return Found(u, np.array(path), u <= box.low + AT_BOUND, u >= box.high - AT_BOUND)
