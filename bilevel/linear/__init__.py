"""Linear systems H v = b of the head's Hessian."""

from bilevel.linear.base import AbstractLinearSolver, LinearSolution
from bilevel.linear.conjugate_gradient import CG
from bilevel.linear.dense import Dense
from bilevel.linear.neumann import Neumann
from bilevel.linear.operator import Operator

__all__ = ["CG", "AbstractLinearSolver", "Dense", "LinearSolution", "Neumann", "Operator"]
