"""The squared error."""

import dataclasses
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from bilevel.core.optional import extra
from bilevel.errors import DataError, ShapeError
from bilevel.problem.criteria.base import AbstractCriterion, RowCurvature


@dataclasses.dataclass(frozen=True, eq=False)
class SquaredError(AbstractCriterion):
    r"""Half the squared distance of prediction and target, summed over outputs.

    $$c(u, t) = \tfrac12 \lVert u - t\rVert^2$$

    Metrics leave the 1/2 out: `mse` is the mean over rows of the squared errors summed over
    outputs, `r2` is 1 - (sum of squared errors) / (sum of squared deviations from the mean target).

    Source: the definition, half of torch.nn.MSELoss for one output. Differs from the source in:
    None.

    Examples:
        >>> import torch
        >>> from bilevel import SquaredError
        >>> SquaredError().rows(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 2.0]))
        tensor([0.5000, 0.0000])
    """

    quadratic = True
    largest_curvature = 1.0
    curvature_change = 0.0
    by_output = True

    def rows(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Half the squared error of every row."""
        return 0.5 * self._squares(predictions, targets)

    @override
    def metrics(self, predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
        squares = self._squares(predictions, targets)
        spread = self._squares(targets, targets.mean(0, keepdim=True).expand_as(targets))
        return {"mse": squares.mean(), "r2": 1 - squares.sum() / spread.sum()}

    def check_targets(self, targets: Tensor, outputs: int | None) -> None:
        """Floating targets of shape (n,), or (n, K) for K outputs, that are not constant."""
        if not targets.is_floating_point():
            raise DataError(
                f"Regression targets must be floating point, got {targets.dtype}. "
                "Convert them with `.float()`, NumPy arrays with `.astype(float)`."
            )
        expected = (len(targets),) if outputs is None else (len(targets), outputs)
        if tuple(targets.shape) != expected:
            remedy = (
                "Drop the second axis, or set `outputs = 1`."
                if outputs is None
                else "Set `outputs` to the number of columns, or None for targets (n,)."
            )
            raise ShapeError(
                f"Targets have shape {tuple(targets.shape)}, but `outputs = {outputs}` means "
                f"{expected}. {remedy}"
            )
        if bool((targets == targets[0]).all(0).any()):
            column = "" if outputs is None else " of a column"
            raise DataError(
                f"The {len(targets)} targets{column} are all equal: there is nothing to learn, and "
                "R2 is undefined."
            )

    @override
    def slope(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return predictions - targets

    @override
    def curvature(self, predictions: Tensor, targets: Tensor) -> RowCurvature:
        return RowCurvature(torch.ones_like(predictions))

    def atom(self, predictions: Any, targets: Any) -> Any:
        """Half the squares, summed over outputs."""
        cvxpy = extra("cvxpy", "cvxpy", "An atom of SquaredError")
        squares = 0.5 * cvxpy.square(predictions - targets)
        return squares if squares.ndim == 1 else cvxpy.sum(squares, axis=1)

    @staticmethod
    def _squares(predictions: Tensor, targets: Tensor) -> Tensor:
        squares = torch.square(difference(predictions, targets))
        return squares if squares.ndim == 1 else squares.sum(-1)


def difference(predictions: Tensor, targets: Tensor) -> Tensor:
    """predictions - targets, of one shape."""
    if predictions.shape != targets.shape:
        # (n,) against (n, 1) would broadcast to (n, n) and train on nonsense
        raise ShapeError(
            f"Predictions {tuple(predictions.shape)} and targets {tuple(targets.shape)} differ "
            "in shape. `outputs=None` means targets (n,) and a head (M,); `outputs=K` means "
            "(n, K) and (M, K)."
        )
    return predictions - targets
