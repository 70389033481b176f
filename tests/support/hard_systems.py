"""Least squares whose numbers lie far apart or far from zero, for tests.

Each is well-posed: once its matrix has ones on the diagonal, and features and targets are counted
from their means where a bias is free, NumPy solves it to eight digits and more.
"""

from typing import NamedTuple

import mpmath
import numpy as np
import torch
from linear_heads import build, exact_head, exact_system, fractions, normal, penalty_table

FAR_APART = [1.0, 3e6, 5e-8, 20.0]
WIDE = [1.0, 1e7, 1e-7, 1.0, 1.0, 1.0, 1e3, 1.0, 1.0]


class Hard(NamedTuple):
    """Rows and how their head is penalised; `penalty` has a row for the bias if it is covered."""

    inputs: np.ndarray
    targets: np.ndarray
    penalty: np.ndarray
    fit_bias: bool
    penalize_bias: bool
    weights: np.ndarray | None

    def problem(self, **attributes):
        """A problem with these rows."""
        penalty, weights = torch.as_tensor(self.penalty), self.weights
        hooks = {"fit_bias": self.fit_bias, "penalize_bias": self.penalize_bias, **attributes}
        if weights is not None:
            hooks["row_weights"] = lambda w, batch: torch.as_tensor(weights)
        return build(self.inputs, self.targets, penalty=lambda w: penalty, **hooks)

    @property
    def normal_equations(self):
        """Design, targets, weights, and the penalty of every coefficient."""
        design, table = self.inputs, self.penalty
        if self.fit_bias:
            design = np.column_stack([design, np.ones(len(design))])
        table = penalty_table(table, *((design.shape[1],) if table.ndim == 0 else table.shape[:1]),
                              self.targets.reshape(len(design), -1).shape[1])  # fmt: skip
        if self.fit_bias and not self.penalize_bias:
            table = np.vstack([table[: design.shape[1] - 1], np.zeros((1, table.shape[1]))])
        return design, self.targets, self.weights, table

    def exact(self):
        """theta* (M, K) in rational numbers."""
        return exact_head(*self.normal_equations)

    def hessians(self):
        """H of every output in rational numbers."""
        return exact_system(*self.normal_equations)[0]

    def error(self, head, exact):
        """Of the worst coefficient, each on the scale of its feature, relative to the largest."""
        sizes = np.sqrt(np.stack([np.diag(h).astype(float) for h in self.hessians()], 1))
        off = fractions(np.asarray(head).reshape(exact.shape)) - exact
        largest = np.abs(exact.astype(float) * sizes).max(0)
        return float((np.abs(off.astype(float)) * sizes / largest).max())

    def scaled_solve(self):
        """The head by `numpy.linalg.solve` of the scaled system, centred where the bias is free."""
        design, targets, weights, table = self.normal_equations
        s = np.ones(len(design)) if weights is None else weights
        t, centred = targets.reshape(len(design), -1), self.fit_bias and not self.penalize_bias
        x, middle, level = design, None, np.zeros(t.shape[1])
        if centred:
            middle, level = s @ design[:, :-1] / s.sum(), s @ t / s.sum()
            x = design[:, :-1] - middle
        found = []
        for k in range(t.shape[1]):
            matrix = (x.T * s) @ x / len(x) + np.diag(table[: x.shape[1], k])
            moment = (x.T * s) @ (t[:, k] - level[k]) / len(x)
            root = np.sqrt(np.diag(matrix))
            theta = np.linalg.solve(matrix / root / root[:, None], moment / root) / root
            found.append(np.append(theta, level[k] - middle @ theta) if centred else theta)
        return np.stack(found, 1)


def smallest_eigenvalue(hessians):
    """Of matrices of fractions, to 60 digits."""
    with mpmath.workdps(60):
        matrices = [
            mpmath.matrix([[mpmath.mpf(a.numerator) / a.denominator for a in row] for row in h])
            for h in (h.tolist() for h in hessians)
        ]
        return float(min(min(mpmath.eigsy(h, eigvals_only=True)) for h in matrices))


def hard(
    seed, n=25, m=4, outputs=None, scale=1.0, mean=0.0, level=0.0, penalty=1e-3,
    bias=None, weighted=False,
):  # fmt: skip
    """Random rows with features of given scales and means; `bias`: None, "free" or "penalised"."""
    z = normal([seed, n], n, m)
    effects = normal([seed, 2], m, outputs or 1)
    targets = z @ effects + 0.1 * normal([seed, 3], n, outputs or 1) + level
    weights = 0.1 + np.abs(normal([seed, 4], n)) if weighted else None
    inputs = z * np.asarray(scale) + np.asarray(mean)
    return Hard(
        inputs,
        targets if outputs else targets[:, 0],
        np.asarray(penalty, dtype=np.float64),
        bias is not None,
        bias == "penalised",
        weights,
    )


def spread_penalties(seed, m, outputs, *powers):
    """Positive penalties (m,) or (m, outputs) of the given orders of magnitude."""
    shape = (m,) if outputs is None else (m, outputs)
    table = 0.5 + np.abs(normal([seed, m], *shape))
    orders = 10.0 ** np.resize(powers, m)
    return table * (orders if outputs is None else orders[:, None])


HARD = {
    "scales": hard(1, scale=FAR_APART),
    "scales, no ridge": hard(2, scale=FAR_APART, penalty=0.0),
    "scales, two outputs": hard(3, scale=FAR_APART, outputs=2),
    "scales, bias": hard(4, scale=FAR_APART, bias="free"),
    "scales, penalised bias": hard(5, scale=FAR_APART, bias="penalised"),
    "one huge penalty": hard(6, penalty=spread_penalties(1, 4, None, -3, 16, -9, 0)),
    "penalties by output": hard(7, outputs=3, penalty=spread_penalties(2, 4, 3, -3, 16, -12, 0)),
    "years": hard(8, mean=2000.0, bias="free", penalty=1e-2),
    "far": hard(9, mean=-3e7, bias="free", penalty=1e-2),
    "far, weights, outputs": hard(
        10, mean=[1e7, -1e5, 3.0, 1e9], level=1e6, outputs=3, bias="free", weighted=True
    ),
    "far, no ridge": hard(11, mean=1e9, level=-1e8, bias="free", penalty=0.0),
    "far, penalties by output": hard(
        12, mean=1e6, outputs=2, bias="free", penalty=spread_penalties(3, 4, 2, -1, 2, -4)
    ),
    "far, penalised bias": hard(13, mean=3e3, bias="penalised", penalty=1e-6, weighted=True),
    "far, a fixed bias": hard(
        14, mean=1e3, bias="penalised", penalty=spread_penalties(4, 5, None, -2, -2, -2, -2, 12)
    ),
    "far and scaled": hard(
        15, scale=[1.0, 1e3, 1e-7, 2.0], mean=[1e7, 1e9, 1e-4, 5.0], bias="free", penalty=1e-8
    ),
    "fewer rows, scales": hard(16, n=5, m=9, scale=WIDE),
    "fewer rows, penalties": hard(
        17, n=5, m=9, penalty=spread_penalties(5, 9, None, -3, 16, 0, -9, 8)
    ),
    "fewer rows, penalties by output": hard(
        18, n=5, m=9, outputs=2, penalty=spread_penalties(6, 9, 2, -3, 16, 0, -9, 8)
    ),
    "fewer rows, penalised bias": hard(19, n=5, m=9, scale=WIDE, bias="penalised"),
    "fewer rows, far": hard(20, n=5, m=9, mean=1e4, bias="free"),
    "large features, small ridge": hard(21, scale=1e6, penalty=1e-6, bias="free"),
}
