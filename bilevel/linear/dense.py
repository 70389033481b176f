"""Linear systems by a factorisation of the explicit matrix."""

import dataclasses

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.cost import Cost
from bilevel.core.status import Status
from bilevel.errors import IncompatibleError, ShapeError
from bilevel.linear.base import AbstractLinearSolver, LinearSolution
from bilevel.linear.cholesky import EPS, diagonal_scales, factorise_once
from bilevel.linear.factor import PrimalFactor
from bilevel.linear.operator import Operator, to_tree
from bilevel.trees import Tree

LARGEST = 4096
"""Numbers of a head; its matrix takes 128 MiB a run then, its factor as much."""


@dataclasses.dataclass(frozen=True, eq=False)
class Dense(AbstractLinearSolver):
    r"""$Hv = b$ by a Cholesky factorisation of the explicit matrix, and one step of refinement.

    The matrix is symmetrised and factored in float64; the value has the type of b, and the residual
    is the one of the value in that type. A start is not needed and not used.

    Nothing is added to the matrix: a run with a pivot that is zero up to the rounding of its
    diagonal entry is `SINGULAR`, one with a negative eigenvalue is `INDEFINITE`, and both have the
    value NaN. A residual above $1.5 \cdot 10^{-8} \lVert b\rVert$ in float64, also with every row
    divided by the root of its diagonal entry, is `ADJOINT_NOT_CONVERGED`: the condition number is
    about 1e8 or more.

    Raises:
        IncompatibleError: from `solve`, for heads of more than 4,096 numbers.
        ShapeError: from `solve`, when the matrix is not (R, P, P).

    Source: Higham, Accuracy and Stability of Numerical Algorithms (2nd ed. 2002), chapters 10 and
    12. Differs from the source in: None.

    Examples:
        >>> import torch
        >>> from bilevel import Dense
        >>> from bilevel.linear import Operator
        >>> matrix, b = torch.tensor([[[4.0, 2.0], [2.0, 3.0]]]), torch.tensor([[2.0, 5.0]])
        >>> Dense().solve(Operator.from_matrix(matrix, b), b).value
        tensor([[-0.5000,  2.0000]])
    """

    cost = Cost(solves=1)  # what its matrix costs is the operator's to say

    @torch.no_grad()
    def solve(self, operator: Operator, right: Tree, start: Tree | None = None) -> LinearSolution:
        """The solutions, from `operator.matrix`."""
        b = trees.flatten(right).detach().double().unsqueeze(2)
        if b.shape[1] > LARGEST:
            raise IncompatibleError(
                f"The head has {b.shape[1]:,} numbers, and Dense() forms a matrix of that many "
                f"rows and columns for each run: at most {LARGEST:,}. Use CG(), which only needs "
                "products."
            )
        given = operator.matrix().detach().double()
        if given.shape != (*b.shape[:2], b.shape[1]):
            raise ShapeError(
                f"`matrix` of an Operator must return shape (R, P, P), here "
                f"{(*b.shape[:2], b.shape[1])}, got {tuple(given.shape)}."
            )
        factor, matrix, bad, singular = factorise_once(0.5 * (given + given.mT).unsqueeze(1))
        status = torch.full((len(b),), int(Status.CONVERGED), device=b.device)
        status = status.masked_fill(bad, int(Status.DIVERGED))
        status = _name_weak(matrix[:, 0], status, singular)
        known = PrimalFactor(factor, matrix)
        v = known.solve(b)
        scales = diagonal_scales(matrix).squeeze(1)
        left, whole = (b - known.product(v)).squeeze(2), b.squeeze(2)
        rough = trees.norm(left) > EPS**0.5 * trees.norm(whole)
        rough &= trees.norm(left / scales) > EPS**0.5 * trees.norm(whole / scales)
        weak = status != int(Status.CONVERGED)
        status = status.masked_fill(rough & ~weak, int(Status.ADJOINT_NOT_CONVERGED))
        value = to_tree(v.squeeze(2), right)
        lost = ~weak & ~trees.finite(value)
        status = status.masked_fill(lost, int(Status.DIVERGED))
        value = trees.nan_where(weak | lost, value)
        returned = trees.flatten(value).double().unsqueeze(2)
        residual = trees.norm((b - known.product(returned)).squeeze(2))
        return LinearSolution(value, residual.to(trees.leaves(right)[0].dtype), status)


def _name_weak(matrix: Tensor, status: Tensor, weak: Tensor) -> Tensor:
    """SINGULAR or INDEFINITE for the runs that are `weak`; eigenvalues of those only."""
    if not bool(weak.any()):
        return status
    scales = diagonal_scales(matrix[weak].unsqueeze(1)).squeeze(1)
    values = torch.linalg.eigvalsh(matrix[weak] / scales.unsqueeze(1) / scales.unsqueeze(2))
    rounding = max(10, matrix.shape[-1]) * EPS * values.abs().amax(1)
    negative = torch.zeros_like(weak)
    negative[weak] = values.amin(1) < -rounding
    status = status.masked_fill(weak, int(Status.SINGULAR))
    return status.masked_fill(negative, int(Status.INDEFINITE))
