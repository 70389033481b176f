"""A11 and A12: quadratic problems of small vectors."""

import torch
from torch import Tensor

from problems.analytic.base import Optimum, double, spectral
from problems.analytic.formula import BilevelFormula


def times(matrix: Tensor, vector: Tensor) -> Tensor:
    """A constant matrix times a vector of any floating type."""
    return matrix.to(vector) @ vector


def squared_distance(vector: Tensor, target: Tensor) -> Tensor:
    """|vector - target|^2, the target a constant."""
    return (vector - target.to(vector)).square().sum()


TARGET = double(1.0, -1.0)
WEIGHT = 0.1
HESSIAN = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
COUPLING = torch.tensor([[1.0, 0.0], [1.0, 2.0]], dtype=torch.float64)
RESPONSE = torch.tensor([[0.5, -1.0], [1.5, 4.0]], dtype=torch.float64) / 1.75
"""A^-1 B."""

A11 = BilevelFormula(
    name="A11",
    F=lambda w, theta: squared_distance(theta, TARGET) / 2 + WEIGHT * w.square().sum() / 2,
    g=lambda w, theta: (
        (theta * times(HESSIAN, theta)).sum() / 2 - (theta * times(COUPLING, w)).sum()
    ),
    best=lambda w: times(RESPONSE, w),
    slope=lambda w: times(RESPONSE.T, times(RESPONSE, w) - TARGET.to(w)) + WEIGHT * w,
    bends=lambda w: ((3 - 2**0.5) / 2, (3 + 2**0.5) / 2),
    constants=lambda w, theta, radius: (0, 1, 0, 0, spectral(COUPLING)),
    start=double(0.0, 0.0),
    start_value=1.0,
    start_gradient=double(4 / 7, 20 / 7),
    solution=Optimum(double(9320 / 9569, -7800 / 9569), 1089 / 9569),
)

ISOTROPIC = 2.0
WIDE = torch.tensor([[1.0, 2.0], [0.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
POINT = double(1.0, -1.0, 2.0)

A12 = BilevelFormula(
    name="A12",
    F=lambda w, theta: squared_distance(theta, POINT) / 2,
    g=lambda w, theta: ISOTROPIC * theta.square().sum() / 2 - (theta * times(WIDE, w)).sum(),
    best=lambda w: times(WIDE, w) / ISOTROPIC,
    slope=lambda w: times(WIDE.T, times(WIDE, w) / ISOTROPIC - POINT.to(w)) / ISOTROPIC,
    bends=lambda w: (ISOTROPIC, ISOTROPIC),
    constants=lambda w, theta, radius: (0, 1, 0, 0, spectral(WIDE)),
    start=double(1.0, 1.0),
    start_value=13 / 4,
    start_gradient=double(-3 / 4, 9 / 4),
    solution=Optimum(double(38 / 11, -10 / 11), 2 / 11),
    note="The head's Hessian is isotropic: conjugate gradients end after one step.",
)

VECTORS = {problem.name: problem for problem in (A11, A12)}
