"""Quadratic heads: their linear system, whether it can be solved, and whether they are quadratic.

They are if the gradients of g are those that a Hessian promises, at all heads that are looked at.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.generators import generator
from bilevel.core.status import Status
from bilevel.derivatives.head_point import HeadPoint
from bilevel.errors import IncompatibleError, SingularHeadError
from bilevel.linear.cholesky import EPS
from bilevel.linear.dual import DualSystem, linear_system
from bilevel.linear.gram import row_moments
from bilevel.linear.systems import AbstractSystem, PrimalSystem, RowMoments
from bilevel.problem.linear_head import LinearHeadProblem
from bilevel.problem.sets import Everywhere
from bilevel.trees import Tree

LARGEST_GENERAL_HEAD = 1024
PARALLEL = 1e-9
"""By how little the cosines of parallel features differ from one."""
VANISHED = 1e-6
"""What is left of a gradient that vanishes, relative to what it was."""
ROUNDINGS = 1e3


def quadratic_system(point: HeadPoint, *, penalised: bool) -> AbstractSystem:
    """The system of a quadratic head.

    For a linear head its solution is theta*; for another head it is theta* - head.

    Args:
        point: the heads, on the rows of the system.
        penalised: see `uses_dual`.
    """
    problem, rows = point.problem, point.rows
    if isinstance(problem, LinearHeadProblem):
        if rows.chunks is not None:
            return row_moments(point.oracles, point.body, rows).system(rows.count)
        dual = penalised and rows.count < point.head.shape[1]

        def system() -> AbstractSystem:
            if not dual:
                return linear_moments(point).system(rows.count)
            parts = point.oracles.bare_parts(point.body, rows)
            return linear_system(parts, penalised=True, bias=point.oracles.bias)

        found: AbstractSystem = point.oracles.kept.once(point.body, rows, ("system", dual), system)
        return found
    hessian = point.hessian().double()
    slope = trees.flatten(point.gradient()).double()
    hessian = 0.5 * (hessian + hessian.mT)
    return PrimalSystem(
        hessian.unsqueeze(1), -slope[:, None, :, None], torch.full_like(slope[:, 0], -torch.inf)
    )


def linear_moments(point: HeadPoint) -> RowMoments:
    """The moments of a linear head; made once where its parts are shared."""
    at = point.body, point.rows
    found: RowMoments = point.oracles.kept.once(
        *at, "moments", lambda: row_moments(point.oracles, *at)
    )
    return found


def all_penalised(point: HeadPoint) -> bool:
    """Whether every coefficient of a linear head has a positive penalty, in every run."""
    oracles, problem = point.oracles, point.problem
    if not isinstance(problem, LinearHeadProblem) or oracles.bias == "free":
        return False
    if "penalty" not in oracles.overridden and isinstance(problem.ridge, int | float):
        return problem.ridge > 0
    return bool((oracles.linear_penalty(point.body, point.head) > 0).all())


def uses_dual(point: HeadPoint) -> bool:
    """Whether a linear head may be solved through the kernel of its rows, where it is smaller.

    All of it must be penalised, and no feature so large beside another that the kernel loses it.
    """
    if not all_penalised(point):
        return False
    if point.rows.chunks is not None or point.rows.count >= point.head.shape[1]:
        return True
    system = quadratic_system(point, penalised=True)
    return not (isinstance(system, DualSystem) and system.unbalanced())


def refuse_singular(system: AbstractSystem, point: HeadPoint, remedy: str = "") -> None:
    """Raise `SingularHeadError` if H is not numerically positive definite in some run.

    Args:
        system: of all runs.
        point: whose system it is.
        remedy: for linear heads; empty: that of a head solved on all rows.
    """
    if _surely_definite(system):
        return
    smallest, largest = system.curvature()
    if bool(smallest.isnan().any()):
        raise SingularHeadError(
            f"The head's Hessian is not finite in run {int(smallest.isnan().nonzero()[0])}: check "
            "the scale of the features, and that row weights and penalties are not negative."
        )
    bad = ~system.definite()
    if bool(bad.any()):
        run = int(bad.nonzero()[0])
        what, why = "The head's Hessian has", "the head has no unique minimiser"
        if not isinstance(point.problem, LinearHeadProblem):
            remedy = "Add a strongly convex term to `head_objective`."
        else:
            what = "The Gram matrix of the features has"
            if point.oracles.bias is None and bool(_parallel(system.primal())[run]):
                why = "all features are multiples of one, or their means dwarf their spread"
                remedy = "Leave out all but one, or subtract the means: `fit_bias = True` does so."
            remedy = remedy or (
                "Set `ridge` (or `penalty`) to a positive number, or use fewer features than rows."
            )
        raise SingularHeadError(
            f"{what} smallest eigenvalue {float(smallest[run]):.2g} (largest "
            f"{float(largest[run]):.2g}) in run {run}: {why}, as far as float64 can tell. {remedy}"
        )


def _surely_definite(system: AbstractSystem) -> bool:
    """Whether penalties tell, or a spectrum that is kept, so that no eigenvalue is asked for."""
    if isinstance(system, PrimalSystem) and bool((system.floor > 0).all()):
        return not bool(system.bad.any())
    if system.known is None:
        return False
    low, high = system.known.bounds()
    return bool((low > system.known.penalty.shape[2] * EPS * high).all())


def _parallel(system: PrimalSystem) -> Tensor:
    """Whether there are several features, and no two at an angle worth its name, (R,)."""
    matrix = system.hessian
    sizes = matrix.diagonal(dim1=2, dim2=3).sqrt()
    cosines = matrix.abs() / sizes.unsqueeze(2) / sizes.unsqueeze(3)
    return (cosines > 1 - PARALLEL).flatten(1).all(1) & (matrix.shape[-1] > 1)


def check_quadratic(point: HeadPoint) -> None:
    """Raise `IncompatibleError` unless g is quadratic in the head."""
    if point.size > LARGEST_GENERAL_HEAD:
        raise IncompatibleError(
            f"The head has {point.size} numbers; ClosedForm forms a Hessian of at most "
            f"{LARGEST_GENERAL_HEAD}. Use LinearHeadProblem if the head is linear in features, or "
            "Newton()."
        )
    if not is_quadratic(point):
        raise IncompatibleError(
            f"`head_objective` of {type(point.problem).__name__} is not quadratic in the head: "
            "its gradient at a random head or at the initial one is not that of one quadratic, so "
            "there is no closed form. Use Newton(), or FastSGD(lr, steps)."
        )


def is_quadratic(point: HeadPoint) -> bool:
    """Whether g is quadratic in the head, as far as the heads looked at can tell, in float64.

    Its Hessian must be the same at two random heads and at the given one, to 1e-8, and its gradient
    must vanish at the heads that this Hessian leads to from there (see `landing`). With a set of
    heads the gradient must also be that of the quadratic where these are projected to.
    """
    point = point.cast(torch.float64)
    like = trees.flatten(point.head)

    def random_head(stream: int) -> HeadPoint:
        source = generator(stream, "quadratic")
        numbers = torch.randn(like.shape[1], generator=source, dtype=torch.float64)
        return point.at(trees.unflatten(numbers.to(like.device).expand(like.shape), point.head))

    start = random_head(0)
    first, *others = (at.hessian() for at in (start, random_head(1), point))
    for other in others:
        scale = torch.maximum(first.abs().amax(), other.abs().amax())
        if not bool((first - other).abs().amax() <= 1e-8 * scale):
            return False
    for at in (start, point):
        system = quadratic_system(at, penalised=False)
        assert isinstance(system, PrimalSystem)
        found = landing(at, system, system.solve())
        if not bool(found.agrees.all()):
            return False
    head_set = point.problem.head_set
    if isinstance(head_set, Everywhere):
        return True
    end = point.at(head_set.project(trees.where(found.solved, found.head, point.head)))
    return bool(deviation(point, end, first)[1].all())


class Landing(NamedTuple):
    """Where a quadratic head's system leads to.

    Attributes:
        head: leaves (R, ...).
        off: |d_theta g| there, (R,).
        agrees: whether that is zero as far as rounding can tell, (R,).
        solved: whether the Hessian could be factored as it is, (R,).
    """

    head: Tree
    off: Tensor
    agrees: Tensor
    solved: Tensor


def landing(point: HeadPoint, system: PrimalSystem, solution: tuple[Tensor, Tensor]) -> Landing:
    """The head that the Hessian at the point leads to, and whether it is a stationary point.

    If it is one, it is theta* of any convex g, and d_theta g(theta) = H (theta - theta*) holds at
    the point, whatever g is elsewhere. Nothing is asked of a singular Hessian, which leads nowhere:
    it is refused, or not certified, as such.

    Args:
        point: general heads, on the rows that g is meant on.
        system: at these heads.
        solution: of the system, and its status codes.
    """
    step, status = solution
    moved = trees.unflatten(step.squeeze(2).to(trees.leaves(point.head)[0].dtype), point.head)
    landed = point.at(trees.tree_map(torch.add, point.head, moved))
    before, off = (trees.norm(at.gradient()) for at in (point, landed))
    solved = status == int(Status.CONVERGED)
    floor = _rounding(point, landed, system.hessian.squeeze(1))
    apart = off > VANISHED * before + floor  # numbers that overflow say nothing of g
    return Landing(landed.head, off, ~apart | ~solved | ~trees.finite(landed.head), solved)


def deviation(point: HeadPoint, end: HeadPoint, hessian: Tensor) -> tuple[Tensor, Tensor]:
    """|d_theta g(end) - d_theta g - H (end - theta)|, and whether it may be rounding, (R,)."""
    before, after = (trees.flatten(at.gradient()).double() for at in (point, end))
    apart = trees.flatten(end.head).double() - trees.flatten(point.head).double()
    off = (after - before - (hessian @ apart.unsqueeze(2)).squeeze(2)).norm(dim=1)
    floor = _rounding(point, end, hessian)
    return off, off <= VANISHED * torch.maximum(before.norm(dim=1), after.norm(dim=1)) + floor


def _rounding(point: HeadPoint, end: HeadPoint, hessian: Tensor) -> Tensor:
    """How much of d_theta g at the end may be rounding, generously, (R,).

    Its terms are of the size |H| |theta|, or sqrt(|H| g) where large ones cancel.
    """
    largest = hessian.abs().sum(2).amax(1)
    length = trees.norm(end.head) + trees.norm(point.head) + 1
    eps = torch.finfo(trees.leaves(point.head)[0].dtype).eps
    found: Tensor = ROUNDINGS * eps * (largest * length + (largest * end.value().abs()).sqrt())
    return found
