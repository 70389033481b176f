"""What a linear solver is."""

import abc
from typing import NamedTuple

from torch import Tensor

from bilevel.core.cost import Cost
from bilevel.linear.operator import Operator
from bilevel.trees import Tree


class LinearSolution(NamedTuple):
    r"""Solutions of R linear systems $Hv = b$.

    Attributes:
        value: v, like b; without a graph.
        residual: $\lVert Hv - b\rVert$ of the v that is returned, computed from it at the end,
            (R,).
        status: a `Status` code per run, (R,).
    """

    value: Tree
    residual: Tensor
    status: Tensor


class AbstractLinearSolver(abc.ABC):
    """Solves $Hv = b$ for R runs at once, H symmetric and meant to be positive definite.

    Implementations are frozen dataclasses of hyper-parameters. They keep nothing between calls; a
    caller that solves similar systems in turn passes the last solution as `start`.

    Examples:
        >>> import torch, bilevel
        >>> from bilevel.linear import Operator
        >>> b = torch.tensor([[2.0, 4.0]])    # one run, two numbers
        >>> found = bilevel.Dense().solve(Operator.from_matrix(2 * torch.eye(2).unsqueeze(0), b), b)
        >>> found.value, found.residual, bilevel.Status(int(found.status[0])).name
        (tensor([[1., 2.]]), tensor([0.]), 'CONVERGED')
    """

    @abc.abstractmethod
    def solve(self, operator: Operator, right: Tree, start: Tree | None = None) -> LinearSolution:
        """The solutions.

        A run that cannot be solved says so in its status and never harms the others: DIVERGED
        (values that are not finite; the value is NaN), INDEFINITE, SINGULAR, NOT_CONTRACTING or
        ADJOINT_NOT_CONVERGED. Nothing that is returned carries a graph.

        Args:
            operator: H, on trees like `right`.
            right: b, leaves (R, ...); 0-dim heads have leaves (R,).
            start: a guess of v, like `right`; None: zeros.

        Raises:
            ShapeError: `start` or the operator's product is not like `right`.
        """

    @property
    def compilable(self) -> bool:
        """Whether `solve` is tensor operations only, no decision on values (a hook)."""
        return False

    @property
    @abc.abstractmethod
    def cost(self) -> Cost:
        """What one call of `solve` costs, as far as it is known before the call."""
