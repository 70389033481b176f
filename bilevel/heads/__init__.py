"""Head solvers: how the head answers to the body."""

from bilevel.heads.base import AbstractHeadSolver, HeadSolution
from bilevel.heads.closed_form import ClosedForm
from bilevel.heads.convex.solver import Cvxpy
from bilevel.heads.fast_sgd import FastSGD
from bilevel.heads.newton.solver import Newton
from bilevel.heads.projected.solver import ProjectedNewton
from bilevel.heads.rows_used import BatchData, FullData, RunningData

__all__ = [
    "AbstractHeadSolver",
    "BatchData",
    "ClosedForm",
    "Cvxpy",
    "FastSGD",
    "FullData",
    "HeadSolution",
    "Newton",
    "ProjectedNewton",
    "RunningData",
]
