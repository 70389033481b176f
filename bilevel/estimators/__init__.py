"""Estimators with the interface of scikit-learn: the only part of bilevel that knows it."""

from bilevel.estimators.at_bound import PenaltyBoundWarning as PenaltyBoundWarning
from bilevel.estimators.group_logistic import GroupLogistic as GroupLogistic
from bilevel.estimators.group_ridge import GroupRidge as GroupRidge
