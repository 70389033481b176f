"""Bilevel and Stackelberg optimisation in PyTorch.

Public names are imported when they are first used, so that `import bilevel` is quick and does not
load torch. Type checkers and editors read `__init__.pyi` instead; a test compares the two.
"""

import importlib

_PUBLIC = {
    "problem.base": "StackelbergProblem Batch NumberedBatch",
    "problem.linear_head": "LinearHeadProblem",
    "problem.auxiliary": "AuxiliaryProblem Pullback",
    "problem.experience": "AbstractExperience",
    "problem.network.split": "split SplitModule",
    "problem.network.written_back": "assign",
    "problem.criteria": "AbstractCriterion RowCurvature SquaredError LogisticLoss "
    "SoftmaxLoss HuberLoss",
    "problem.registry": "load_problem",
    "problem.sets": "ConvexSet Everywhere Box Ball L1Ball Nonnegative Simplex",
    "core.schedules": "AbstractSchedule Constant Polynomial Cosine Piecewise",
    "optimizers": "AbstractOptimizer SGD RMSProp Adam AdamW Clipped",
    "linear": "AbstractLinearSolver CG Dense Neumann",
    "heads": "AbstractHeadSolver ClosedForm Newton ProjectedNewton Cvxpy FastSGD "
    "FullData BatchData RunningData",
    "hypergradients": "AbstractHypergradient Answer BodyGradient Envelope Implicit "
    "Unrolled PenaltyMethod FiniteDifferences",
    "strategies": "AbstractStrategy TwoTimescale uniform BalancedRates BestResponse OwnLoop "
    "preset_strategies SingleLoop",
    "problem.constants": "Curvature Lipschitz",
    "core.cost": "Cost",
    "core.status": "Status",
    "point.accumulator": "GramAccumulator",
    "point.point": "best_response hypergradient adapt",
    "point.found": "HeadResponse Hypergradient",
    "point.minimize": "minimize",
    "point.minimum": "Minimum",
    "training.solve": "solve",
    "training.solution": "Solution",
    "comparison.compare": "compare",
    "comparison.side_by_side": "Progress",
    "comparison.tuning": "Tuning",
    "comparison.result": "Comparison",
    "analysis.advice.advise": "advise",
    "analysis.advice.advice": "Advice",
    "testing": "check_problem",
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names.split()}

__all__ = [*sorted(_HOME), "errors"]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name == "errors":
        return importlib.import_module("bilevel.errors")
    if name not in _HOME:
        raise AttributeError(f"module 'bilevel' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"bilevel.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
