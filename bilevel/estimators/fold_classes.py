"""Classes of the rows that folds leave out, as a bilevel problem: a fold is a task."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bilevel.core.graph import ordinary
from bilevel.core.status import Status
from bilevel.data.training_data import TrainingData
from bilevel.errors import SingularHeadError
from bilevel.estimators.columns import Floats, Integers, scaling
from bilevel.point.walk import Walk
from bilevel.problem.base import Batch, Groups
from bilevel.problem.criteria import LogisticLoss, SoftmaxLoss
from bilevel.problem.linear_head import LinearHeadProblem


class FoldClasses(LinearHeadProblem):
    """Minus the log probability of the rows that each fold leaves out.

    The body is the log-penalties u of the groups, the heads are the (multinomial) logistic
    regressions of the folds, with free biases. Folds of fewer rows are padded with rows of weight
    zero; a row's weight is the last column of the inputs.

    Args:
        x: (n, d).
        labels: (n,), from 0 to `classes` - 1.
        classes: how many there are.
        folds: training and validation rows of each.
        of_column: the group of each column, (d,).
        scale: whether columns are divided by their deviations in a fold's training rows.
    """

    tasks, body_free_features, fit_bias = True, True, True

    def __init__(
        self,
        x: Floats,
        labels: Integers,
        classes: int,
        folds: Sequence[tuple[Integers, Integers]],
        of_column: Integers,
        *,
        scale: bool,
    ) -> None:
        self.outputs = None if classes == 2 else classes
        self.criterion = LogisticLoss() if classes == 2 else SoftmaxLoss()
        self.of_column = torch.from_numpy(of_column)
        to_z = [scaling(x[train], divided=scale) for train, _ in folds]
        left_out = sum(len(rows) for _, rows in folds) / len(folds)
        self.groups = {}
        for number, name in enumerate(("train", "validation")):
            chosen = [fold[number] for fold in folds]
            most = max(map(len, chosen))
            padded = [
                (
                    _padded(to(x[rows]), most, most / (left_out if number else len(rows))),
                    _padded(labels[rows], most),
                )
                for to, rows in zip(to_z, chosen, strict=True)
            ]
            inputs, targets = (np.stack(part) for part in zip(*padded, strict=True))
            self.groups[name] = Batch(torch.from_numpy(inputs), torch.from_numpy(targets).long())

    def data(self, seed: int | None = None) -> Groups:
        """The folds."""
        return dict(self.groups)

    def init_body(self, generator: torch.Generator) -> Tensor:
        """Penalties of one."""
        return torch.zeros(int(self.of_column.max()) + 1, dtype=torch.float64)

    def init_head(self, generator: torch.Generator) -> Tensor:
        """Zero."""
        return torch.zeros(self.head_shape(len(self.of_column) + 1), dtype=torch.float64)

    def features(self, inputs: Tensor) -> Tensor:  # type: ignore[override]
        """The columns, without the weights."""
        return inputs[:, :-1]

    def row_weights(self, body: Tensor, batch: Groups) -> Tensor:
        """Zero for padding."""
        weights: Tensor = batch["train"].inputs[:, -1]
        return weights

    def penalty(self, body: Tensor) -> Tensor:
        """Of each column."""
        return body.exp()[self.of_column]

    def body_objective(self, body: Tensor, head: Tensor, batch: Groups) -> Tensor:
        """The part of a fold, whose average over folds is the mean over rows that are left out."""
        rows = batch["validation"]
        losses = self.criterion.rows(self.predictions_of(rows.inputs[:, :-1], head), rows.targets)
        mean: Tensor = (rows.inputs[:, -1] * losses).mean()
        return mean


def _padded(rows: NDArray[Any], most: int, weight: float | None = None) -> NDArray[Any]:
    """Rows, with a column of their weight if there is one, and zeros for those that are missing."""
    if weight is not None:
        rows = np.column_stack([rows, np.full(len(rows), weight)])
    return np.concatenate([rows, np.zeros((most - len(rows), *rows.shape[1:]), rows.dtype)])


class FoldLosses:
    """F and its implicit gradient; each head starts from the last one.

    Args:
        problem: the folds.
        start: the first log-penalties.
    """

    @ordinary()
    def __init__(self, problem: FoldClasses, start: Floats) -> None:
        data = TrainingData(problem, [0], torch.float64, "cpu")
        self._walk = Walk(data, torch.from_numpy(start), None, None)

    @ordinary()
    def __call__(self, u: Floats) -> tuple[float, Floats]:
        """Value and gradient at log-penalties (B,)."""
        step = self._walk(torch.from_numpy(u.copy()))
        if not np.isfinite(step.value):
            raise SingularHeadError(
                "A logistic regression of a fold was not found at penalties between "
                f"{np.exp(u.min()):.3g} and {np.exp(u.max()):.3g}: {Status(step.status).message} "
                "Columns of comparable sizes (`scale=True`) make it easier."
            )
        return step.value, step.slope.numpy()
