"""Estimators with the interface of scikit-learn: the only part of bilevel that knows it."""

from bilevel.estimators.at_bound import PenaltyBoundWarning as PenaltyBoundWarning
from bilevel.estimators.group_logistic import GroupLogistic as GroupLogistic
from bilevel.estimators.group_ridge import GroupRidge as GroupRidge
from bilevel.estimators.saving import save_model as save_model
from bilevel.estimators.stackelberg import StackelbergClassifier as StackelbergClassifier
from bilevel.estimators.stackelberg import StackelbergRegressor as StackelbergRegressor
