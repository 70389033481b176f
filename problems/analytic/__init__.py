"""Problems with known answers: the test bench of heads, hypergradients and strategies.

A1 to A9 and A11 to A13 and the B problems (heads in a box) are formulas; A10, A14, A15 and A16
are classes with options. All are `AnalyticProblem`s.
"""

from collections.abc import Callable

from bilevel.errors import check_name
from problems.analytic.base import AnalyticProblem, Curvature, Lipschitz, Optimum
from problems.analytic.boxes import BOXES
from problems.analytic.feature_regression import FeatureRegression
from problems.analytic.formula import BilevelFormula, Formula
from problems.analytic.penalties import LogPenalties, PenalisedRegression, RidgePenalty
from problems.analytic.random_quadratic import RandomQuadratic
from problems.analytic.reweighting import Reweighting
from problems.analytic.scalar import SCALARS
from problems.analytic.vector import VECTORS

__all__ = [
    "NAMES",
    "AnalyticProblem",
    "BilevelFormula",
    "Curvature",
    "FeatureRegression",
    "Formula",
    "Lipschitz",
    "LogPenalties",
    "Optimum",
    "PenalisedRegression",
    "RandomQuadratic",
    "Reweighting",
    "RidgePenalty",
    "analytic",
]

_FORMULAS = {**SCALARS, **VECTORS, **BOXES}
_CLASSES: dict[str, Callable[[], AnalyticProblem]] = {
    "A10": Reweighting,
    "A14": RandomQuadratic,
    "A15-ridge": RidgePenalty,
    "A15-log": LogPenalties,
    "A16": FeatureRegression,
}

NAMES = tuple(sorted([*_FORMULAS, *_CLASSES], key=lambda n: (n[0], int(n[1:].split("-")[0]), n)))
"""The catalogue, in order: "A1", ..., "A15-log", "A15-ridge", "A16", "B1", "B2", "B5", "B7"."""


def analytic(name: str = "A13") -> AnalyticProblem:
    """Small problems with known answers, A1 to A16 and B1 to B7; A13 has F = g.

    Args:
        name: one of `NAMES`; the classes take options when they are made directly.

    Raises:
        UnknownNameError: no such problem.

    Examples:
        >>> from problems.analytic import analytic
        >>> problem = analytic("A5")
        >>> problem.phi_gradient(problem.start)
        tensor(2., dtype=torch.float64)
        >>> problem.solution
        Optimum(body=tensor(1., dtype=torch.float64), value=0.0)
    """
    check_name(name, NAMES, "analytic problem")
    return _FORMULAS[name] if name in _FORMULAS else _CLASSES[name]()
