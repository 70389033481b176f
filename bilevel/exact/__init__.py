"""Exact heads as plain functions of tensors, differentiable, for any PyTorch code."""

from bilevel.exact.bayesian import BayesianHead as BayesianHead
from bilevel.exact.classes import logistic_head as logistic_head
from bilevel.exact.classes import softmax_head as softmax_head
from bilevel.exact.constrained import constrained_head as constrained_head
from bilevel.exact.ridge import ridge_head as ridge_head
