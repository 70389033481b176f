"""Head solvers: how the head answers to the body."""

from bilevel.heads.base import AbstractHeadSolver, HeadSolution
from bilevel.heads.closed_form import ClosedForm, FullData
from bilevel.heads.fast_sgd import FastSGD

__all__ = ["AbstractHeadSolver", "ClosedForm", "FastSGD", "FullData", "HeadSolution"]
