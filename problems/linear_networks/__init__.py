"""Deep linear networks: exact dynamics of gradient descent, and the best rates of their layers.

`DeepLinearProblem` takes any depth, shapes, data and noise. `two_layer_orthogonal` and
`three_layer_orthogonal` are closed forms for orthogonal weights, given the weights or in
expectation over them. `LinearNetwork` is the same network as a body and a head.

Source: arXiv 2606.00340.
"""

from problems.linear_networks import three_layer_orthogonal, two_layer_orthogonal
from problems.linear_networks.balance import (
    EqualPair,
    Window,
    best_equal,
    cumulative_balance,
    equal_window,
)
from problems.linear_networks.deep_linear import DeepLinearProblem
from problems.linear_networks.ensembles import paper_network
from problems.linear_networks.initial import haar, orthonormal_columns, whitened_design
from problems.linear_networks.network import LinearNetwork, linear_network
from problems.linear_networks.step_polynomial import OptimalRates, StepPolynomial

__all__ = [
    "DeepLinearProblem",
    "EqualPair",
    "LinearNetwork",
    "OptimalRates",
    "StepPolynomial",
    "Window",
    "best_equal",
    "cumulative_balance",
    "equal_window",
    "haar",
    "linear_network",
    "orthonormal_columns",
    "paper_network",
    "three_layer_orthogonal",
    "two_layer_orthogonal",
    "whitened_design",
]
