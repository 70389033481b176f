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
from bilevel.linear.factor import (
    DualFactor,
    blocks_of,
    by_cholesky,
    fitted,
    merge_outputs,
    split_outputs,
)
from bilevel.linear.systems import AbstractSystem, PrimalSystem, RowMoments

UNBALANCED = 1e6
"""How much larger one feature's part in a dual kernel may be than another's that matters: rounding
the larger one costs as many of the smaller one's digits."""


@dataclasses.dataclass(frozen=True, eq=False)
class DualSystem(AbstractSystem):
    """theta = P^{-1} A' (A P^{-1} A' + n I)^{-1} u with A = sqrt(s) Z, u = sqrt(s) t, P = diag(p).

    With a prior q it is q + the theta of u - A q.

    Args:
        design: A, (R, n, m), or (R, K, n, m) where weights s differ by output.
        targets: u, (R, n, K).
        penalty: p, (R, J, m), positive; J is 1 or K.
        prior: q, (R, m, K); None: 0.
    """

    design: Tensor
    targets: Tensor
    penalty: Tensor
    prior: Tensor | None = None

    def factorised(self) -> tuple[Tensor, Tensor, DualFactor]:
        """Cholesky of the kernel, then one step of iterative refinement in the n unknowns."""
        each = blocks_of(self.design)
        scaled = each / self.penalty.unsqueeze(2)
        kernel = scaled @ each.mT
        kernel.diagonal(dim1=2, dim2=3).add_(each.shape[2])
        right = self.targets if self.prior is None else self.targets - fitted(each, self.prior)
        targets = split_outputs(right, kernel.shape[1])
        factor, kernel, status = factorise(kernel)
        dual = by_cholesky(targets, factor)
        dual = dual + by_cholesky(targets - kernel @ dual, factor)
        theta = merge_outputs(scaled.mT @ dual)
        theta = theta if self.prior is None else theta + self.prior
        return known(theta, status), status, DualFactor(factor, self.design, self.penalty)

    def gradient_norm(self, theta: Tensor) -> Tensor:
        """From the rows: A'(A theta - u)/n + p (theta - q)."""
        each = blocks_of(self.design)
        slope = fitted(each.mT, fitted(each, theta) - self.targets) / each.shape[2]
        away = theta if self.prior is None else theta - self.prior
        return trees.norm(slope + self.penalty.mT * away)

    def curvature(self) -> tuple[Tensor, Tensor]:
        """The smallest penalty; the largest one plus |A|_F^2 / n."""
        penalty = self.penalty.flatten(1)
        each = blocks_of(self.design)
        gram = each.square().flatten(2).sum(2).amax(1) / each.shape[2]
        return penalty.amin(1), (penalty.amax(1) + gram) * (1 + self.design[0].numel() * EPS)

    @override
    def definite(self) -> Tensor:
        return self.penalty.flatten(1).amin(1) > 0

    @override
    def primal(self) -> PrimalSystem:
        n = self.targets.shape[1]
        if self.design.ndim == 4:
            gram, moment = self.design.mT @ self.design, fitted(self.design.mT, self.targets)
            found = RowMoments(gram / n, moment / n, self.penalty)
        else:
            joined = torch.cat([self.design, self.targets], 2)
            found = RowMoments.cut(joined.mT @ joined / n, self.penalty)
        return found._replace(prior=self.prior).system(n).primal()

    def unbalanced(self) -> bool:
        """Whether rounding the kernel loses a feature beside another, and `primal` does not.

        A feature adds |a|^2 / p to the kernel; below n it has no say, penalised as it is.
        """
        shares = blocks_of(self.design).square().mean(2) / self.penalty
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
        if parts.by_output:
            rows = torch.stack([one.rows() for one in joined.outputs()], 1)
            targets = rows[..., m].mT
        else:
            rows = joined.rows()
            targets = rows[..., m:]
        return DualSystem(rows[..., :m], targets, joined.penalty, joined.prior)
    return RowMoments.of(parts, bias).system(n)
