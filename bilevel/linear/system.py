"""The linear system behind a quadratic head, for R runs, in float64.

g(theta) = 1/2 theta' H theta - b' theta + constant, so theta* = H^{-1} b. For a linear head with
squared error, H = Z'SZ/n + diag(p) and b = Z'St/n; with fewer rows than features the n x n kernel
is factored instead (Woodbury). A run whose numbers are not finite is replaced by the identity
before a factorisation, so that it cannot harm the others.
"""

import abc
import dataclasses

import torch
from torch import Tensor

from bilevel import trees
from bilevel.linear.factor import (
    DualFactor,
    Factor,
    PrimalFactor,
    merge_outputs,
    split_outputs,
)
from bilevel.oracles import LinearParts
from bilevel.status import Status

EPS = torch.finfo(torch.float64).eps
JITTERS = (1e-12, 1e-10, 1e-8, 1e-6, 1e-4)
"""Tried in turn, as multiples of the largest diagonal entry; more would change the problem."""
RETRY = int(max(Status)) + 1
"""The code of a run that compiled code could not factor; no `Status`, and worse than all of them,
so that it survives where codes are joined by their maximum."""


class AbstractSystem(abc.ABC):
    """A symmetric positive definite system with its right-hand sides."""

    @abc.abstractmethod
    def factorised(self) -> tuple[Tensor, Tensor, Factor]:
        """The minimiser (R, m, K), a `Status` code per run (R,), and the factor of H."""

    def solve(self) -> tuple[Tensor, Tensor]:
        """The minimiser (R, m, K) and a `Status` code per run (R,)."""
        return self.factorised()[:2]

    @abc.abstractmethod
    def gradient_norm(self, theta: Tensor) -> Tensor:
        """|H theta - b| at (R, m, K), shape (R,)."""

    @abc.abstractmethod
    def curvature(self) -> tuple[Tensor, Tensor]:
        """A lower bound on the smallest eigenvalue of H and an upper one on the largest, (R,)."""


@dataclasses.dataclass(frozen=True, eq=False)
class PrimalSystem(AbstractSystem):
    """H theta = b, factored as it is.

    Args:
        hessian: (R, J, m, m): J = 1, or one matrix for each output if penalties differ by output.
        moment: (R, J, m, C): all K outputs side by side (J = 1, C = K), or C = 1 with J = K.
        floor: a proven lower bound on the eigenvalues, (R,): the smallest penalty, or -inf.
        rows: how many rows were summed up in `hessian`, each sum with its rounding.
    """

    hessian: Tensor
    moment: Tensor
    floor: Tensor
    rows: int = 0

    def factorised(self) -> tuple[Tensor, Tensor, PrimalFactor]:
        """Cholesky, then one step of iterative refinement."""
        cholesky, hessian, status = factorise(self.hessian)
        factor = PrimalFactor(cholesky, hessian)
        return factor.solve(merge_outputs(self.moment)), status, factor

    def gradient_norm(self, theta: Tensor) -> Tensor:
        """From the matrix."""
        columns = split_outputs(theta, self.hessian.shape[1])
        return trees.norm(self.hessian @ columns - self.moment)

    def curvature(self) -> tuple[Tensor, Tensor]:
        """Extreme eigenvalues, moved outwards by the rounding of the matrix and the eigensolver."""
        safe, bad = replace_bad(self.hessian)
        values = torch.linalg.eigvalsh(safe).flatten(1)
        trace = safe.diagonal(dim1=2, dim2=3).abs().sum(2).amax(1)
        slack = EPS * (safe.shape[-1] * values.abs().amax(1) + (self.rows + 4) * trace)
        low = torch.maximum(values.amin(1) - slack, self.floor)
        high = values.amax(1) + slack
        return low.masked_fill(bad, torch.nan), high.masked_fill(bad, torch.nan)


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
        kernel = kernel + n * torch.eye(n, dtype=kernel.dtype, device=kernel.device)
        targets = split_outputs(self.targets, self.penalty.shape[1])
        factor, kernel, status = factorise(kernel)
        dual = torch.cholesky_solve(targets, factor)
        dual = dual + torch.cholesky_solve(targets - kernel @ dual, factor)
        theta = merge_outputs(scaled.mT @ dual)
        return theta, status, DualFactor(factor, self.design, self.penalty)

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


def linear_system(parts: LinearParts, *, penalised: bool) -> AbstractSystem:
    """The system of a linear head with squared error.

    Args:
        parts: from `Oracles.linear_parts`, any floating type.
        penalised: whether the penalty covers every coefficient and is positive; only then may the
            dual form be used, which divides by it.
    """
    design, penalty = weighted(parts)
    m = penalty.shape[2]
    if design.shape[1] < m and penalised:
        return DualSystem(design[..., :m], design[..., m:], penalty)
    return penalise(*gram(design, m), penalty, design.shape[1])


def gram(design: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """A'A/n (R, m, m) and A'u/n (R, m, K) of [A u] (R, n, m + K), in one multiplication."""
    product = design.mT @ design / design.shape[1]
    return product[:, :m, :m], product[:, :m, m:]


def penalise(matrix: Tensor, moment: Tensor, penalty: Tensor, rows: int) -> PrimalSystem:
    """The primal system from Z'SZ/n, Z'St/n of `rows` rows, and the penalty (R, J, m)."""
    hessian = matrix.unsqueeze(1) + torch.diag_embed(penalty)
    columns = split_outputs(moment, penalty.shape[1])
    return PrimalSystem(hessian, columns, penalty.flatten(1).amin(1), rows)


def weighted(parts: LinearParts) -> tuple[Tensor, Tensor]:
    """[A u] = sqrt(s) [Z t], (R, n, m + K), and the penalty (R, J, m), in float64."""
    runs, n, m = parts.design.shape
    targets = parts.targets.unsqueeze(2) if parts.targets.ndim == 2 else parts.targets
    joined = parts.design.new_empty(runs, n, m + targets.shape[2], dtype=torch.float64)
    joined[..., :m] = parts.design
    joined[..., m:] = targets
    if parts.weights is not None:
        joined *= parts.weights.double().sqrt().unsqueeze(2)
    return joined, by_output(parts.penalty.double())


def by_output(penalty: Tensor) -> Tensor:
    """(R, m) to (R, 1, m), (R, m, K) to (R, K, m)."""
    return penalty.unsqueeze(1) if penalty.ndim == 2 else penalty.mT


def replace_bad(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Runs that are not finite become the identity; which ones, (R,)."""
    bad = ~matrix.flatten(1).isfinite().all(1)
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return torch.where(bad.reshape(-1, 1, 1, 1), identity, matrix), bad


def factorise(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cholesky factors of (R, J, q, q), the matrices that were factored, and a code per run.

    A numerically singular run gets the smallest of `JITTERS` that makes its factorisation succeed,
    and the status `JITTERED`. Runs that are not finite, or so indefinite that none helps, give NaN
    and `DIVERGED`. Compiled code cannot try and look: see `factorise_once`.
    """
    if torch.compiler.is_compiling():
        return factorise_once(matrix)
    safe, bad = replace_bad(matrix)
    factor, weak = positive_cholesky(safe)
    status = torch.full((len(matrix),), int(Status.CONVERGED), device=matrix.device)
    status = status.masked_fill(weak, int(Status.JITTERED))
    scale = safe.diagonal(dim1=2, dim2=3).abs().amax((1, 2))
    identity = torch.eye(safe.shape[-1], dtype=safe.dtype, device=safe.device)
    for jitter in JITTERS:
        if not bool(weak.any()):
            break
        added = torch.where(weak, jitter * scale, torch.zeros_like(scale)).reshape(-1, 1, 1, 1)
        shifted = safe + added * identity
        factor, still = positive_cholesky(shifted)
        safe = torch.where((weak & ~still).reshape(-1, 1, 1, 1), shifted, safe)
        weak = weak & still
    nothing = bad | weak
    status = status.masked_fill(nothing, int(Status.DIVERGED))
    return factor.masked_fill(nothing.reshape(-1, 1, 1, 1), torch.nan), safe, status


def factorise_once(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`factorise` without a decision: runs that need a jitter give NaN and the code `RETRY`.

    The caller throws such results away and computes them again eagerly, as `bilevel.stepping` does.
    """
    safe, bad = replace_bad(matrix)
    factor, weak = positive_cholesky(safe)
    status = torch.full((len(matrix),), int(Status.CONVERGED), device=matrix.device)
    status = status.masked_fill(weak, RETRY).masked_fill(bad, int(Status.DIVERGED))
    return factor.masked_fill((bad | weak).reshape(-1, 1, 1, 1), torch.nan), safe, status


def positive_cholesky(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of (R, J, q, q), and which runs are not numerically positive definite, (R,)."""
    factor, info = torch.linalg.cholesky_ex(matrix)
    pivots = factor.diagonal(dim1=2, dim2=3).square().amin(2)
    scale = matrix.diagonal(dim1=2, dim2=3).abs().amax(2)
    large = pivots > matrix.shape[-1] * torch.finfo(matrix.dtype).eps * scale
    return factor, ~((info == 0) & large).all(1)
