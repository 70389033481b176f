"""The system of a linear head with squared error, in the form that fits its rows."""

import dataclasses

import torch
from torch import Tensor
from typing_extensions import override

from bilevel import trees
from bilevel.core.status import Status
from bilevel.derivatives.linear_parts import LinearParts
from bilevel.derivatives.oracles import Bias
from bilevel.linear.centre import Joined
from bilevel.linear.cholesky import EPS, factorise, known
from bilevel.linear.factor import DualFactor, by_cholesky, merge_outputs, split_outputs
from bilevel.linear.systems import AbstractSystem, PrimalSystem, RowMoments

UNBALANCED = 1e6
"""How much larger one feature's part in a dual kernel may be than another's that matters: rounding
the larger one costs as many of the smaller one's digits."""


@dataclasses.dataclass(frozen=True, eq=False)
class DualSystem(AbstractSystem):
    """theta = P^{-1} A' (A P^{-1} A' + n I)^{-1} u with A = sqrt(s) Z, u = sqrt(s) t, P = diag(p).

    Args:
        design: A, (R, n, m).
        targets: u, (R, n, K).
        penalty: p, (R, J, m), positive; J is 1 or K.
    """

    design: Tensor
    targets: Tensor
    penalty: Tensor

    def factorised(self) -> tuple[Tensor, Tensor, DualFactor]:
        """Cholesky of the kernel, then one step of iterative refinement in the n unknowns."""
        n = self.design.shape[1]
        scaled = self.design.unsqueeze(1) / self.penalty.unsqueeze(2)
        kernel = scaled @ self.design.unsqueeze(1).mT
        kernel.diagonal(dim1=2, dim2=3).add_(n)
        targets = split_outputs(self.targets, self.penalty.shape[1])
        factor, kernel, status = factorise(kernel)
        dual = by_cholesky(targets, factor)
        dual = dual + by_cholesky(targets - kernel @ dual, factor)
        theta = merge_outputs(scaled.mT @ dual)
        return known(theta, status), status, DualFactor(factor, self.design, self.penalty)

    def gradient_norm(self, theta: Tensor) -> Tensor:
        """From the rows: A'(A theta - u)/n + p theta."""
        residual = self.design @ theta - self.targets
        slope = self.design.mT @ residual / self.design.shape[1] + self.penalty.mT * theta
        return trees.norm(slope)

    def curvature(self) -> tuple[Tensor, Tensor]:
        """The smallest penalty; the largest one plus |A|_F^2 / n."""
        penalty = self.penalty.flatten(1)
        gram = self.design.square().flatten(1).sum(1) / self.design.shape[1]
        return penalty.amin(1), (penalty.amax(1) + gram) * (1 + self.design[0].numel() * EPS)

    @override
    def definite(self) -> Tensor:
        return self.penalty.flatten(1).amin(1) > 0

    @override
    def primal(self) -> PrimalSystem:
        joined = torch.cat([self.design, self.targets], 2)
        n = joined.shape[1]
        return RowMoments.cut(joined.mT @ joined / n, self.penalty).system(n).primal()

    def unbalanced(self) -> bool:
        """Whether rounding the kernel loses a feature beside another, and `primal` does not.

        A feature adds |a|^2 / p to the kernel; below n it has no say, penalised as it is.
        """
        shares = self.design.square().mean(1).unsqueeze(1) / self.penalty
        largest = shares.flatten(1).amax(1)
        heard = shares.masked_fill(shares < 1, torch.inf).flatten(1).amin(1)
        if not bool((largest > UNBALANCED * heard).any()):
            return False
        return bool((self.primal().factorised()[1] == int(Status.CONVERGED)).all())


def linear_system(
    parts: LinearParts, *, penalised: bool, bias: Bias | None = None
) -> AbstractSystem:
    """The system of a linear head with squared error.

    Args:
        parts: from `Oracles.linear_parts`, any floating type.
        penalised: whether the penalty covers every coefficient and is positive; only then may the
            dual form be used, which divides by it.
        bias: whether the last feature is the constant one, and penalised; None: it is not.
    """
    n, m = parts.design.shape[1], parts.penalty.shape[1]
    if n < m and penalised:
        joined = Joined.of(parts)
        rows = joined.rows()
        return DualSystem(rows[..., :m], rows[..., m:], joined.penalty)
    return RowMoments.of(parts, bias).system(n)
