"""Bilevel and Stackelberg optimisation in PyTorch.

Public names are imported when they are first used, so that `import bilevel` is quick and does not
load torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "problem.base": "StackelbergProblem Batch",
    "problem.linear_head": "LinearHeadProblem",
    "problem.auxiliary": "AuxiliaryProblem Pullback",
    "problem.network.split": "split assign SplitModule",
    "problem.criteria": "AbstractCriterion RowCurvature SquaredError LogisticLoss "
    "SoftmaxLoss HuberLoss",
    "problem.sets": "ConvexSet Everywhere Box Ball L1Ball Nonnegative Simplex",
    "core.schedules": "AbstractSchedule Constant Polynomial",
    "optimizers": "AbstractOptimizer SGD RMSProp Adam Clipped",
    "linear": "AbstractLinearSolver CG Dense Neumann",
    "heads": "AbstractHeadSolver ClosedForm Newton ProjectedNewton Cvxpy FastSGD "
    "FullData BatchData RunningData",
    "hypergradients": "AbstractHypergradient Answer BodyGradient Envelope Implicit "
    "Unrolled FiniteDifferences",
    "strategies": "AbstractStrategy TwoTimescale uniform BestResponse OwnLoop "
    "preset_strategies SingleLoop",
    "problem.constants": "Curvature Lipschitz",
    "core.cost": "Cost",
    "core.status": "Status",
    "point.accumulator": "GramAccumulator",
    "point.point": "best_response hypergradient HeadResponse Hypergradient",
    "training.solve": "solve",
    "training.solution": "Solution",
    "comparison.compare": "compare",
    "comparison.side_by_side": "Progress",
    "comparison.tuning": "Tuning",
    "comparison.result": "Comparison",
    "testing": "check_problem",
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names.split()}

__all__ = [*sorted(_HOME), "errors"]

if TYPE_CHECKING:
    from bilevel import errors as errors
    from bilevel.comparison.compare import compare as compare
    from bilevel.comparison.result import Comparison as Comparison
    from bilevel.comparison.side_by_side import Progress as Progress
    from bilevel.comparison.tuning import Tuning as Tuning
    from bilevel.core.cost import Cost as Cost
    from bilevel.core.schedules import AbstractSchedule as AbstractSchedule
    from bilevel.core.schedules import Constant as Constant
    from bilevel.core.schedules import Polynomial as Polynomial
    from bilevel.core.status import Status as Status
    from bilevel.heads import AbstractHeadSolver as AbstractHeadSolver
    from bilevel.heads import BatchData as BatchData
    from bilevel.heads import ClosedForm as ClosedForm
    from bilevel.heads import Cvxpy as Cvxpy
    from bilevel.heads import FastSGD as FastSGD
    from bilevel.heads import FullData as FullData
    from bilevel.heads import Newton as Newton
    from bilevel.heads import ProjectedNewton as ProjectedNewton
    from bilevel.heads import RunningData as RunningData
    from bilevel.hypergradients import AbstractHypergradient as AbstractHypergradient
    from bilevel.hypergradients import Answer as Answer
    from bilevel.hypergradients import BodyGradient as BodyGradient
    from bilevel.hypergradients import Envelope as Envelope
    from bilevel.hypergradients import FiniteDifferences as FiniteDifferences
    from bilevel.hypergradients import Implicit as Implicit
    from bilevel.hypergradients import Unrolled as Unrolled
    from bilevel.linear import CG as CG
    from bilevel.linear import AbstractLinearSolver as AbstractLinearSolver
    from bilevel.linear import Dense as Dense
    from bilevel.linear import Neumann as Neumann
    from bilevel.optimizers import SGD as SGD
    from bilevel.optimizers import AbstractOptimizer as AbstractOptimizer
    from bilevel.optimizers import Adam as Adam
    from bilevel.optimizers import Clipped as Clipped
    from bilevel.optimizers import RMSProp as RMSProp
    from bilevel.point.accumulator import GramAccumulator as GramAccumulator
    from bilevel.point.point import HeadResponse as HeadResponse
    from bilevel.point.point import Hypergradient as Hypergradient
    from bilevel.point.point import best_response as best_response
    from bilevel.point.point import hypergradient as hypergradient
    from bilevel.problem.auxiliary import AuxiliaryProblem as AuxiliaryProblem
    from bilevel.problem.auxiliary import Pullback as Pullback
    from bilevel.problem.base import Batch as Batch
    from bilevel.problem.base import StackelbergProblem as StackelbergProblem
    from bilevel.problem.constants import Curvature as Curvature
    from bilevel.problem.constants import Lipschitz as Lipschitz
    from bilevel.problem.criteria import AbstractCriterion as AbstractCriterion
    from bilevel.problem.criteria import HuberLoss as HuberLoss
    from bilevel.problem.criteria import LogisticLoss as LogisticLoss
    from bilevel.problem.criteria import RowCurvature as RowCurvature
    from bilevel.problem.criteria import SoftmaxLoss as SoftmaxLoss
    from bilevel.problem.criteria import SquaredError as SquaredError
    from bilevel.problem.linear_head import LinearHeadProblem as LinearHeadProblem
    from bilevel.problem.network.split import SplitModule as SplitModule
    from bilevel.problem.network.split import assign as assign
    from bilevel.problem.network.split import split as split
    from bilevel.problem.sets import Ball as Ball
    from bilevel.problem.sets import Box as Box
    from bilevel.problem.sets import ConvexSet as ConvexSet
    from bilevel.problem.sets import Everywhere as Everywhere
    from bilevel.problem.sets import L1Ball as L1Ball
    from bilevel.problem.sets import Nonnegative as Nonnegative
    from bilevel.problem.sets import Simplex as Simplex
    from bilevel.strategies import AbstractStrategy as AbstractStrategy
    from bilevel.strategies import BestResponse as BestResponse
    from bilevel.strategies import OwnLoop as OwnLoop
    from bilevel.strategies import SingleLoop as SingleLoop
    from bilevel.strategies import TwoTimescale as TwoTimescale
    from bilevel.strategies import preset_strategies as preset_strategies
    from bilevel.strategies import uniform as uniform
    from bilevel.testing import check_problem as check_problem
    from bilevel.training.solution import Solution as Solution
    from bilevel.training.solve import solve as solve


def __getattr__(name: str) -> Any:
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
