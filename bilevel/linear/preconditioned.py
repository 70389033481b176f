"""Conjugate gradients led by a factor that is close to the matrix."""

from collections.abc import Callable

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.checks import Number
from bilevel.core.status import Status
from bilevel.errors import IncompatibleError
from bilevel.linear.base import LinearSolution
from bilevel.linear.conjugate_gradient import CG
from bilevel.linear.factor import BlockFactor
from bilevel.linear.operator import Operator

REPEATS = 3
FEW = 40
"""Steps by which a factor that is close leads to rounding."""


def preconditioned_cg(
    product: Callable[[Tensor], Tensor],
    right: Tensor,
    factor: BlockFactor,
    rtol: Number,
    max_steps: int | None = None,
) -> LinearSolution:
    """H v = b through L^{-1} H L'^{-1} y = L^{-1} b, v = L'^{-1} y.

    Args:
        product: v to H v, vectors (R, P) in the type of `right`.
        right: b, (R, P).
        factor: L L', close to H; the identity where there is none.
        rtol: of the residual in the transformed system, below 1.
        max_steps: see `CG`.
    """
    dtype = right.dtype

    def whitened(vectors: Tensor) -> Tensor:
        inside = factor.unwhiten(vectors.double()).to(dtype)
        return factor.whiten(product(inside).double()).to(dtype)

    def no_matrix() -> Tensor:
        raise IncompatibleError("This system is known by its products only.")

    system = Operator(whitened, no_matrix)
    found = CG(rtol, max_steps).solve(system, factor.whiten(right.double()).to(dtype))
    value = factor.unwhiten(found.value.double()).to(dtype)
    residual = trees.norm(product(value) - right)
    return LinearSolution(value, residual, found.status)


def led_direction(
    product: Callable[[Tensor], Tensor],
    slope: Tensor,
    factor: BlockFactor,
    dtype: torch.dtype,
    enough: Number = 0.0,
) -> Tensor:
    """Roughly H^{-1} times a slope: the nearer the end, the less roughly.

    Products are asked for in `dtype`. A part `enough` of the slope, a number or (R,), may be left
    in any case. Where H leads upwards, (L L')^{-1} times the slope.
    """
    size = trees.norm(slope).clamp(min=torch.finfo(torch.float64).tiny).unsqueeze(1)
    goal = size.squeeze(1).sqrt().clamp(min=enough).clamp(1e-3, 0.1).square()
    # what the recursion says of its residual is enough: the next slope shows what a step was worth
    left = slope / size
    found, turned = torch.zeros_like(left), factor.solve(left)
    way, square = turned, (left * turned).sum(1)
    goal, going = goal * square, square > 0
    for _ in range(slope.shape[1]):
        if not bool(going.any()):
            break
        image = product(way.to(dtype)).double()
        rate = square / (way * image).sum(1)
        going = going & (rate > 0) & rate.isfinite()
        rate = rate.where(going, 0.0).unsqueeze(1)
        found, left = found + rate * way, left - rate * image
        turned = factor.solve(left)
        last, square = square, (left * turned).sum(1)
        going = going & (square > goal)
        way = torch.where(going.unsqueeze(1), turned + (square / last).unsqueeze(1) * way, 0.0)
    found = found * size
    along = (found * slope).sum(1) > 0
    if bool(along.all()):
        return found
    return torch.where(along.unsqueeze(1), found, factor.solve(slope))


def _quickly(
    product: Callable[[Tensor], Tensor], right: Tensor, factor: BlockFactor, rtol: Number
) -> LinearSolution:
    """H v = b by a few steps with the factor as preconditioner, and the residual of v itself.

    Where the factor is close they are all that is needed, at a third of the overhead of `CG`, which
    watches for what cannot be solved. Runs that did not come there are `ADJOINT_NOT_CONVERGED`.
    """
    size = trees.norm(right)
    goal = rtol * size
    found, left, turned = torch.zeros_like(right), right, factor.solve(right)
    way, square = turned, (left * turned).sum(1)
    going = (square > 0) & square.isfinite()
    for _ in range(FEW):
        if not bool(going.any()):
            break
        image = product(way)
        rate = square / (way * image).sum(1)
        going = going & (rate > 0) & rate.isfinite()
        rate = rate.where(going, 0.0).unsqueeze(1)
        found, left = found + rate * way, left - rate * image
        going = going & (torch.linalg.vector_norm(left, dim=1) > 0.5 * goal)
        turned = factor.solve(left)
        last, square = square, (left * turned).sum(1)
        way = torch.where(going.unsqueeze(1), turned + (square / last).unsqueeze(1) * way, 0.0)
    residual = trees.norm(product(found) - right)
    reached = residual <= goal
    status = torch.full_like(reached, int(Status.ADJOINT_NOT_CONVERGED), dtype=torch.int64)
    return LinearSolution(found, residual, status.masked_fill(reached, int(Status.CONVERGED)))


def adjoint_by_factor(
    product: Callable[[Tensor], Tensor], right: Tensor, factor: BlockFactor, rtol: Number
) -> LinearSolution:
    """H v = b to |H v - b| <= rtol |b|: what is left over is solved for again, up to 3 times."""
    rtol = trees.per_run(rtol, right[:, 0])
    found = _quickly(product, right, factor, rtol)
    size = trees.norm(right)
    if not bool((found.residual <= rtol * size).all()):
        found = preconditioned_cg(product, right, factor, rtol)
    for _ in range(REPEATS):
        off = found.residual > rtol * size
        if not bool(off.any()):
            break
        left = (right - product(found.value)).masked_fill(~off.unsqueeze(1), 0.0)
        more = preconditioned_cg(product, left, factor, rtol)
        value = found.value + more.value
        residual = trees.norm(product(value) - right)
        better = off & (residual < found.residual)
        if not bool(better.any()):
            break
        found = LinearSolution(
            trees.where(better, value, found.value),
            torch.where(better, residual, found.residual),
            torch.where(better, more.status, found.status),
        )
    unsolved = (found.residual > 100 * rtol * size) & (found.status == int(Status.CONVERGED))
    return found._replace(
        status=found.status.masked_fill(unsolved, int(Status.ADJOINT_NOT_CONVERGED))
    )
