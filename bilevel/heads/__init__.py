"""Head solvers: how the head answers to the body."""

from bilevel.heads.base import AbstractHeadSolver, HeadSolution
from bilevel.heads.closed_form import ClosedForm
from bilevel.heads.fast_sgd import FastSGD
from bilevel.heads.head_data import BatchData, FullData, RunningData

__all__ = [
    "AbstractHeadSolver",
    "BatchData",
    "ClosedForm",
    "FastSGD",
    "FullData",
    "HeadSolution",
    "RunningData",
]
