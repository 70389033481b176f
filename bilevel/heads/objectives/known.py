"""What a criterion tells of its derivatives, before any heads are there."""

import torch
from torch import Tensor

from bilevel.problem.criteria import AbstractCriterion, RowCurvature
from bilevel.problem.linear_head import LinearHeadProblem


def interacts(criterion: AbstractCriterion, outputs: int | None, targets: Tensor) -> bool:
    """Whether the second derivative of a row in its predictions is no diagonal."""
    curvature = _probe(criterion, outputs, targets[:1])[1]
    return curvature is not None and curvature.outer is not None


def knows_curvature(problem: LinearHeadProblem, targets: Tensor) -> bool:
    """Whether the criterion tells its slope and its curvature, for targets (n,) or (n, K)."""
    found = _probe(problem.criterion, problem.outputs, targets[:1])
    return all(derivative is not None for derivative in found)


def _probe(
    criterion: AbstractCriterion, outputs: int | None, target: Tensor
) -> tuple[Tensor | None, RowCurvature | None]:
    """Slope and curvature of one row at a prediction of zero."""
    dtype = target.dtype if target.is_floating_point() else torch.float64
    shape = (1,) if outputs is None else (1, outputs)
    row = torch.zeros(shape, dtype=dtype, device=target.device)
    return criterion.slope(row, target), criterion.curvature(row, target)
