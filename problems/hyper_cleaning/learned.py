"""Weights of training rows that minimise the cross-entropy of validation rows: the bilevel part.

F is minimised over the numbers w behind the weights s(w), through the exact heads on the weighted
rows: these are differentiated by the implicit function theorem.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor
from torch.nn.functional import cross_entropy

from problems.hyper_cleaning.heads import (
    RIDGES,
    fold_loss,
    heads,
    of_given,
    out_of_fold,
    scores,
    whole_head,
    with_folds,
)
from problems.hyper_cleaning.rows import CLASSES, Rows

ROUNDS = 3
FAR = 8.0
"""The bound of the numbers behind weights; those of the ridge are the ends of `RIDGES`."""


@dataclasses.dataclass(frozen=True, eq=False)
class Learned:
    """Weights that were found.

    Attributes:
        weights: s, (n,).
        numbers: w.
        ridge: found with them.
        loss: F.
        evaluations: how often it was evaluated.
    """

    weights: Tensor
    numbers: Tensor
    ridge: float
    loss: float
    evaluations: int

    def head(self, rows: Rows) -> Tensor:
        """The head on the weighted rows and all validation rows, with the ridge found for it."""
        return whole_head(rows, self.weights, self.ridge)


def by_folds(
    rows: Rows, weigh: Callable[[Tensor], Tensor], start: Tensor, ridge: float, most: int = 20
) -> Learned:
    """Minimise the five-fold cross-entropy of validation rows over w and the ridge.

    The heads of a fold are fitted on weighted training rows and the validation rows of the other
    folds: F is the loss by which the ridge of every other method is chosen.

    Args:
        rows: of a seed.
        weigh: w -> s, (n,).
        start: of w.
        ridge: to start with.
        most: iterations of L-BFGS-B.
    """
    theta: Tensor | None = None

    def evaluate(at: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        nonlocal theta
        x = torch.from_numpy(at.copy()).requires_grad_()
        apart = with_folds(rows, weigh(x[:-1]))
        found = heads(rows, apart, x[-1].exp(), start=theta)
        theta, loss = found.detach(), fold_loss(rows, found)
        (slope,) = torch.autograd.grad(loss, x)
        return loss.item(), slope.numpy()

    x0: NDArray[np.float64] = np.append(start.numpy(), np.log(ridge))
    limits = [(-FAR, FAR)] * len(start) + [(np.log(RIDGES[0]), np.log(RIDGES[-1]))]
    found = minimize(
        evaluate,
        x0,
        jac=True,
        method="L-BFGS-B",
        bounds=limits,
        options={"maxiter": most, "ftol": 1e-5, "gtol": 1e-4},
    )
    w = torch.from_numpy(found.x[:-1])
    return Learned(weigh(w), w, float(np.exp(found.x[-1])), float(found.fun), int(found.nfev))


def two_numbers(rows: Rows, found: Tensor, ridge: float, rounds: int = ROUNDS) -> Learned:
    """s = sigmoid(a + b logit p), p the out-of-fold probability of the given label.

    After each round p comes from heads on the weighted rows.

    Args:
        rows: of a seed.
        found: log-probabilities out of fold, (n, 10), of heads on all training rows.
        ridge: to start with.
        rounds: how many.
    """
    start, logit = torch.ones(2, dtype=torch.float64), of_given(rows, found)
    for turn in range(rounds):
        learned = by_folds(rows, tied(logit), start, ridge)
        start, ridge = learned.numbers, learned.ridge
        if turn + 1 < rounds:
            found = out_of_fold(rows, learned.weights, ridge, seed=20 + turn)
            logit = of_given(rows, found)
    return learned


def tied(logit: Tensor) -> Callable[[Tensor], Tensor]:
    """(a, b) -> sigmoid(a + b logit), (n,)."""
    return lambda w: torch.sigmoid(w[0] + w[1] * logit)


def cells(rows: Rows, found: Tensor, ridge: float) -> Learned:
    """A weight for each pair of predicted and given class, predicted out of fold."""
    cell = found.argmax(1) * CLASSES + rows.given
    start = torch.zeros(CLASSES**2, dtype=torch.float64)
    return by_folds(rows, lambda w: torch.sigmoid(w)[cell], start, ridge)


@dataclasses.dataclass(frozen=True, eq=False)
class PerRow:
    """A weight for each row.

    Attributes:
        last: s after the last step, (n,).
        stopped: s where the rows that were kept aside had the least cross-entropy.
        step: that was at.
        aside: which validation rows these are, (V,).
        losses: F and the cross-entropy aside, (steps + 1, 2).
    """

    last: Tensor
    stopped: Tensor
    step: int
    aside: Tensor
    losses: Tensor


def per_row(rows: Rows, ridge: float = 1e-2, steps: int = 40, lr: float = 0.3) -> PerRow:
    """s = sigmoid(w), a number for each row: F of four fifths of the validation rows, by Adam.

    Heads see the training rows alone, as in the literature; the last fifth says when to stop.
    """
    w = torch.zeros(rows.count, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([w], lr=lr)
    none = torch.zeros(len(rows.labels), dtype=torch.float64)
    aside = rows.folds == 0
    theta: Tensor | None = None
    seen: list[Tensor] = []
    losses: list[tuple[float, float]] = []
    for step in range(steps + 1):
        s = torch.sigmoid(w)
        weights = torch.cat([s, none]).unsqueeze(0)
        found = heads(rows, weights, ridge, total=float(rows.count), start=theta)
        theta = found.detach()
        each = cross_entropy(scores(rows.clean, found[0]), rows.labels, reduction="none")
        loss = each[~aside].mean()
        seen.append(s.detach())
        losses.append((loss.item(), each[aside].mean().item()))
        if step < steps:
            (w.grad,) = torch.autograd.grad(loss, w)
            optimizer.step()
    found_at = min(range(steps + 1), key=lambda i: losses[i][1])
    return PerRow(seen[-1], seen[found_at], found_at, aside, torch.tensor(losses))


def ridge_aside(rows: Rows, weights: Tensor, aside: Tensor, ridges: tuple[float, ...]) -> float:
    """The ridge with the least cross-entropy of validation rows that the weights did not see.

    Cross-validation on those that they were fitted to would be a leak.
    """
    s = torch.cat([weights, (~aside).to(weights.dtype)]).expand(len(ridges), -1)
    found = scores(rows.clean[aside], heads(rows, s, torch.tensor(ridges, dtype=s.dtype)))
    labels = rows.labels[aside]
    losses = [float(cross_entropy(one, labels)) for one in found]
    return ridges[int(np.argmin(losses))]
