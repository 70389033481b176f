"""Gauss rules for the distributions of the expectations, with weights that add up to one.

scipy's rules normalise by Gamma functions that overflow at a few hundred degrees of freedom; these
are the eigenvalues of the Jacobi matrix, with the squared first entries of its eigenvectors.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

Array = NDArray[Any]


def beta_rule(first: float, second: float, degree: int) -> tuple[Tensor, Tensor]:
    """Points in [0, 1] and weights, exact for polynomials of a Beta(first, second) variable.

    Args:
        first: positive parameter, the exponent of s plus one.
        second: positive parameter, the exponent of 1 - s plus one.
        degree: up to which it is exact.

    Examples:
        >>> points, weights = beta_rule(2.0, 3.0, 3)
        >>> round(float((weights * points**3).sum()), 6)  # 2 3 4 / (5 6 7)
        0.114286
    """
    n = np.arange(1, _points(degree))
    a, b = second - 1, first - 1  # exponents of Jacobi's weight on [-1, 1]
    total = 2 * n + a + b
    centre = (b**2 - a**2) / (total * (total + 2))
    ratio = np.ones(len(n))  # of n + a + b to 2 n + a + b - 1, which may both be 0 at n = 1
    ratio[1:] = (n[1:] + a + b) / (total[1:] - 1)
    spread = 4 * n * (n + a) * (n + b) * ratio / (total**2 * (total + 1))
    points, weights = _golub_welsch(np.append((b - a) / (a + b + 2), centre), spread)
    return (1 + points) / 2, weights


def chi_square_rule(freedom: int, degree: int) -> tuple[Tensor, Tensor]:
    """Points and weights, exact for polynomials of a chi-square variable over its mean.

    Args:
        freedom: degrees of freedom h: the variable is |a|^2 for a ~ N(0, I_h / h).
        degree: up to which it is exact.
    """
    n = np.arange(_points(degree))
    shape = freedom / 2
    points, weights = _golub_welsch((2 * n + shape) / shape, n[1:] * (n[1:] + shape - 1) / shape**2)
    return points, weights


def _points(degree: int) -> int:
    return degree // 2 + 1


def _golub_welsch(diagonal: Array, squares: Array) -> tuple[Tensor, Tensor]:
    """The rule of a three-term recurrence: its coefficients, the second ones squared."""
    points, vectors = eigh_tridiagonal(diagonal, np.sqrt(squares))
    return torch.from_numpy(points), torch.from_numpy(vectors[0] ** 2)
