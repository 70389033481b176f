"""Head solvers: how the head answers to the body."""

from bilevel.heads.base import AbstractHeadSolver, HeadSolution
from bilevel.heads.closed_form import ClosedForm
from bilevel.heads.cvxpy_solver import Cvxpy
from bilevel.heads.fast_sgd import FastSGD
from bilevel.heads.head_data import BatchData, FullData, RunningData
from bilevel.heads.newton import Newton
from bilevel.heads.projected_newton import ProjectedNewton

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
