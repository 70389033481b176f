"""What the head is fitted by: the loss of one row, as a function of its prediction."""

from bilevel.criteria.base import AbstractCriterion, RowCurvature
from bilevel.criteria.huber import HuberLoss
from bilevel.criteria.logistic import LogisticLoss
from bilevel.criteria.softmax import SoftmaxLoss
from bilevel.criteria.squared_error import SquaredError

__all__ = [
    "AbstractCriterion",
    "HuberLoss",
    "LogisticLoss",
    "RowCurvature",
    "SoftmaxLoss",
    "SquaredError",
]
