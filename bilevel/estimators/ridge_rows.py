"""Ridge heads on given rows, whatever their penalties: what depends on rows alone is kept."""

import copy

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotri, dpotrs

from bilevel.estimators.columns import Floats


def compressed(z: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
    """At most d rows (R, r) with |z W - y|^2 = |R W - r|^2 + rest for every W.

    Args:
        z: (n, d).
        y: (n, T).

    Returns:
        R, r, and the rest, (T,).
    """
    n, d = z.shape
    if n <= d:
        return z, y, np.zeros(y.shape[1])
    q, root = np.linalg.qr(z)
    right = q.T @ y
    return root, right, np.square(y - q @ right).sum(0)


class RidgeRows:
    """argmin over W of |z W - y|^2 / n + sum_j p_j |W_j|^2, for penalties p > 0 to come.

    H = z'z / n + diag(p) is factored where it is the smaller matrix, I + z diag(1/p) z' / n
    where there are fewer rows than columns.

    Args:
        z: (n, d).
        y: (n, T).
    """

    def __init__(self, z: Floats, y: Floats) -> None:
        n, d = z.shape
        self.z, self.y = z / np.sqrt(n), y / np.sqrt(n)
        self.primal = n >= d
        self.moment: Floats = self.z.T @ self.y
        self.gram = self.z.T @ self.z if self.primal else np.zeros((0, 0))

    def of_target(self, t: int) -> "RidgeRows":
        """The same for one target."""
        one = copy.copy(self)
        one.y, one.moment = self.y[:, t : t + 1], self.moment[:, t : t + 1]
        return one

    def factor(self, p: Floats) -> Floats:
        """The lower Cholesky factor; what is above its diagonal means nothing."""
        matrix = self.gram.copy() if self.primal else (self.z / p) @ self.z.T
        matrix.flat[:: len(matrix) + 1] += p if self.primal else 1.0
        # a symmetric matrix is its own transpose, which LAPACK takes without a copy
        found: Floats = dpotrf(matrix.T, lower=1, clean=0, overwrite_a=1)[0]
        return found

    def head(self, factor: Floats, p: Floats) -> Floats:
        """W, (d, T)."""
        if self.primal:
            return solved(factor, self.moment)
        head: Floats = (self.z.T @ solved(factor, self.y)) / p[:, None]
        return head

    def solve(self, factor: Floats, p: Floats, right: Floats) -> Floats:
        """H^{-1} right for (d, C)."""
        if self.primal:
            return solved(factor, right)
        scaled = right / p[:, None]
        found: Floats = scaled - (self.z.T @ solved(factor, self.z @ scaled)) / p[:, None]
        return found

    def log_determinant(self, factor: Floats, p: Floats) -> float:
        """log det(H diag(1/p))."""
        whole = 2 * np.log(factor.diagonal()).sum()
        return float(whole - np.log(p).sum() if self.primal else whole)

    def shares(self, factor: Floats, p: Floats) -> Floats:
        """1 - p_j (H^{-1})_jj, (d,): what the data say of each column, from 0 to 1."""
        if self.primal:
            inverse: Floats = dpotri(factor, lower=1)[0].diagonal()
            return 1.0 - p * inverse
        found: Floats = (self.z * solved(factor, self.z)).sum(0) / p
        return found


def solved(factor: Floats, right: Floats) -> Floats:
    """What a lower Cholesky factor says to (m, C) right sides."""
    found: Floats = dpotrs(factor, right, lower=1)[0]
    return found
