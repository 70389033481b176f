"""What penalties are judged by, with gradients in closed form: errors of folds, or the evidence."""

import abc
from collections.abc import Sequence

import numpy as np
from typing_extensions import override

from bilevel.estimators.columns import Floats, Integers, scaling
from bilevel.estimators.ridge_rows import RidgeRows, compressed

SMALLEST = 1e-30
"""The least mean square in a logarithm: of a constant target, which is without one."""


class AbstractRidgeCriterion(abc.ABC):
    """F of penalties p, (d,): the average over T targets of variance one."""

    @abc.abstractmethod
    def values(self, p: Floats) -> Floats:
        """F of each target, (T,)."""

    @abc.abstractmethod
    def value_and_gradient(self, p: Floats) -> tuple[float, Floats]:
        """The average over targets, and its derivatives by log p, (d,)."""

    @abc.abstractmethod
    def of_target(self, t: int) -> "AbstractRidgeCriterion":
        """The same for one target."""


class FoldErrors(AbstractRidgeCriterion):
    """The mean squared error of the rows that each fold leaves out.

    F = 1/m sum over folds of |Z W(p) - y|^2, W(p) the ridge on the other rows, m the number of rows
    that are left out in all. Columns are centred and scaled, targets centred, by a fold's training
    rows. With V = H^{-1} dF/dW, the implicit gradient is dF/d log p_j = -p_j sum_t V_jt W_jt.

    Args:
        x: (n, d).
        y: (n, T), of variance one.
        folds: training and validation rows of each.
        scale: whether columns are divided by their deviations.
    """

    def __init__(
        self, x: Floats, y: Floats, folds: Sequence[tuple[Integers, Integers]], *, scale: bool
    ) -> None:
        self.rows = sum(len(left_out) for _, left_out in folds)
        self.folds = []
        for train, left_out in folds:
            to_z, mean = scaling(x[train], divided=scale), y[train].mean(0)
            rows = RidgeRows(to_z(x[train]), y[train] - mean)
            self.folds.append((rows, *compressed(to_z(x[left_out]), y[left_out] - mean)))

    @override
    def values(self, p: Floats) -> Floats:
        total = np.zeros(self.folds[0][-1].shape)
        for train, z, y, rest in self.folds:
            total += np.square(z @ train.head(train.factor(p), p) - y).sum(0) + rest
        return total / self.rows

    @override
    def value_and_gradient(self, p: Floats) -> tuple[float, Floats]:
        value, slope = 0.0, np.zeros(len(p))
        for train, z, y, rest in self.folds:
            factor = train.factor(p)
            head = train.head(factor, p)
            error = z @ head - y
            value += float(np.vdot(error, error) + rest.sum())
            adjoint = train.solve(factor, p, z.T @ error)
            slope += np.einsum("jt,jt->j", adjoint, head)
        count = self.rows * len(rest)
        return value / count, -2 * p * slope / count

    @override
    def of_target(self, t: int) -> "FoldErrors":
        one = object.__new__(FoldErrors)
        one.rows = self.rows
        one.folds = [
            (train.of_target(t), z, y[:, t : t + 1], rest[t : t + 1])
            for train, z, y, rest in self.folds
        ]
        return one


class Evidence(AbstractRidgeCriterion):
    """Minus the logarithm of the probability of the targets, for each row.

    Prior and noise: W_jt normal with variance s_t^2 / (n p_j), rows with variance s_t^2, a flat
    prior of the mean. With q_t = min of |Z W_t - y_t|^2 + n sum_j p_j W_jt^2, the variance is best
    at q_t / (n - 1), and F is, but for a constant,

    ((n - 1) / 2 mean_t log(q_t / (n - 1)) + 1/2 log det(H diag(1/p))) / n.

    Args:
        z: (n, d), centred columns.
        y: (n, T), centred, of variance one.
    """

    def __init__(self, z: Floats, y: Floats) -> None:
        self.n = len(z)
        few, right, self.rest = compressed(z, y)
        # their number is d or n, but H and the moments are those of n rows
        root = np.sqrt(len(few) / self.n)
        self.train = RidgeRows(few * root, right * root)

    @override
    def values(self, p: Floats) -> Floats:
        factor = self.train.factor(p)
        left = self.left(self.train.head(factor, p), p)
        return self._value(np.log(left / (self.n - 1)), factor, p)

    @override
    def value_and_gradient(self, p: Floats) -> tuple[float, Floats]:
        factor = self.train.factor(p)
        head = self.train.head(factor, p)
        left = self.left(head, p)
        value = self._value(np.log(left / (self.n - 1)), factor, p).mean()
        of_fit = (self.n - 1) * p * (np.square(head) / left).mean(1) * self.n
        return float(value), (of_fit - self.train.shares(factor, p)) / (2 * self.n)

    @override
    def of_target(self, t: int) -> "Evidence":
        one = object.__new__(Evidence)
        one.n, one.rest, one.train = self.n, self.rest[t : t + 1], self.train.of_target(t)
        return one

    def left(self, head: Floats, p: Floats) -> Floats:
        """q, (T,), as a sum of squares: a difference would lose what is left of a good fit."""
        error = np.square(self.train.z @ head - self.train.y).sum(0)
        total: Floats = self.rest + self.n * (error + (p[:, None] * np.square(head)).sum(0))
        return np.maximum(total, self.n * SMALLEST)

    def _value(self, logs: Floats, factor: Floats, p: Floats) -> Floats:
        determinant = self.train.log_determinant(factor, p)
        found: Floats = ((self.n - 1) * logs + determinant) / (2 * self.n)
        return found
