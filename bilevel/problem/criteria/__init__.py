"""What the head is fitted by: the loss of one row, as a function of its prediction."""

from bilevel.problem.criteria.base import AbstractCriterion, RowCurvature
from bilevel.problem.criteria.huber import HuberLoss
from bilevel.problem.criteria.logistic import LogisticLoss
from bilevel.problem.criteria.softmax import SoftmaxLoss
from bilevel.problem.criteria.squared_error import SquaredError

__all__ = [
    "AbstractCriterion",
    "HuberLoss",
    "LogisticLoss",
    "RowCurvature",
    "SoftmaxLoss",
    "SquaredError",
]
