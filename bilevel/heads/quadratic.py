"""Quadratic heads: their linear system, and whether it can be solved."""

import dataclasses

import torch
from torch import Tensor

from bilevel import trees
from bilevel.errors import IncompatibleError, SingularHeadError
from bilevel.heads.landing import deviation, landing
from bilevel.linear.accumulate import row_moments
from bilevel.linear.system import EPS, AbstractSystem, PrimalSystem, linear_system, penalise
from bilevel.oracles import Oracles
from bilevel.problem import LinearHeadProblem, StackelbergProblem
from bilevel.sampling import Rows, generator
from bilevel.sets import Everywhere
from bilevel.trees import Tree

LARGEST_GENERAL_HEAD = 1024
TINY = torch.finfo(torch.float64).tiny


def quadratic_system(
    oracles: Oracles, body: Tree, head: Tree, rows: Rows, penalised: bool
) -> AbstractSystem:
    """The system of a quadratic head on `rows`.

    For a linear head its solution is theta*; for another head it is theta* - head.
    """
    if isinstance(oracles.problem, LinearHeadProblem):
        if rows.chunks is not None:
            return penalise(*row_moments(oracles, body, rows), rows.count)
        return linear_system(oracles.linear_parts(body, rows), penalised=penalised)
    hessian = oracles.head_hessian(body, head, rows).double()
    slope = trees.flatten(oracles.head_gradient(body, head, rows)).double()
    hessian = 0.5 * (hessian + hessian.mT)
    return PrimalSystem(
        hessian.unsqueeze(1), -slope[:, None, :, None], torch.full_like(slope[:, 0], -torch.inf)
    )


def all_penalised(oracles: Oracles, body: Tree, head: Tree) -> bool:
    """Whether every coefficient of a linear head has a positive penalty, in every run."""
    problem = oracles.problem
    if not isinstance(problem, LinearHeadProblem) or not problem.penalises_all:
        return False
    if not problem.overrides("penalty") and isinstance(problem.ridge, int | float):
        return problem.ridge > 0
    return bool((oracles.linear_penalty(body, head) > 0).all())


def refuse_singular(system: AbstractSystem, problem: StackelbergProblem, remedy: str = "") -> None:
    """Raise `SingularHeadError` if H is not numerically positive definite in some run.

    Args:
        system: of all runs.
        problem: whose system it is.
        remedy: for linear heads; empty: that of a head solved on all rows.
    """
    smallest, largest = system.curvature()
    if isinstance(system, PrimalSystem):
        relative = system.hessian.shape[-1] * EPS * largest
        # curvature() already subtracted one such margin; a floor above it is a proof
        bad = (smallest <= relative) & (system.floor <= 0)
    else:
        bad = smallest <= 0
    if bool(smallest.isnan().any()):
        raise SingularHeadError(
            f"The head's Hessian is not finite in run {int(smallest.isnan().nonzero()[0])}: check "
            "the scale of the features, and that row weights and penalties are not negative."
        )
    if bool(bad.any()):
        run = int(bad.nonzero()[0])
        linear = isinstance(problem, LinearHeadProblem)
        why = "the head has no unique minimiser"
        what = "The Gram matrix of the features has" if linear else "The head's Hessian has"
        if not linear:
            remedy = "Add a strongly convex term to `head_objective`."
        elif isinstance(system, PrimalSystem) and bool(_badly_scaled(system)[run]):
            why = "it is numerically singular because the scales of the features differ by too much"
            remedy = "Standardise the features: divide each by its standard deviation."
        elif not remedy:
            remedy = (
                "Set `ridge` (or `penalty`) to a positive number, or use fewer features than rows."
            )
        raise SingularHeadError(
            f"{what} smallest eigenvalue {float(smallest[run]):.2g} (largest "
            f"{float(largest[run]):.2g}) in run {run}: {why}. {remedy}"
        )


def _badly_scaled(system: PrimalSystem) -> Tensor:
    """Whether H is positive definite once its diagonal is scaled to one, (R,)."""
    root = system.hessian.diagonal(dim1=2, dim2=3).clamp(min=TINY).rsqrt()
    scaled = system.hessian * root.unsqueeze(2) * root.unsqueeze(3)
    floor = torch.full_like(system.floor, -torch.inf)
    low, high = dataclasses.replace(system, hessian=scaled, floor=floor).curvature()
    return low > scaled.shape[-1] * EPS * high


def check_quadratic(oracles: Oracles, body: Tree, head: Tree, rows: Rows) -> None:
    """Raise `IncompatibleError` unless g is quadratic in the head."""
    size = trees.flatten(head).shape[1]
    if size > LARGEST_GENERAL_HEAD:
        raise IncompatibleError(
            f"The head has {size} numbers; ClosedForm forms a Hessian of at most "
            f"{LARGEST_GENERAL_HEAD}. Use LinearHeadProblem if the head is linear in features, or "
            "Newton()."
        )
    if not is_quadratic(oracles, body, head, rows):
        raise IncompatibleError(
            f"`head_objective` of {type(oracles.problem).__name__} is not quadratic in the head: "
            "its gradient at a random head or at the initial one is not that of one quadratic, so "
            "there is no closed form. Use Newton(), or FastSGD(lr, steps)."
        )


def is_quadratic(oracles: Oracles, body: Tree, head: Tree, rows: Rows) -> bool:
    """Whether g is quadratic in the head, as far as the heads looked at can tell, in float64.

    Its Hessian must be the same at two random heads and at `head`, to 1e-8, and its gradient must
    vanish at the heads that this Hessian leads to from there (see `landing`). With a set of heads
    the gradient must also be that of the quadratic where these are projected to.
    """
    body, rows = trees.cast(body, torch.float64), rows.cast(torch.float64)
    head = trees.cast(head, torch.float64)
    like = trees.flatten(head)

    def random_head(stream: int) -> Tree:
        source = generator(stream, "quadratic")
        numbers = torch.randn(like.shape[1], generator=source, dtype=torch.float64)
        return trees.unflatten(numbers.to(like.device).expand(like.shape), head)

    start = random_head(0)
    first, *others = (oracles.head_hessian(body, at, rows) for at in (start, random_head(1), head))
    for other in others:
        scale = torch.maximum(first.abs().amax(), other.abs().amax())
        if not bool((first - other).abs().amax() <= 1e-8 * scale):
            return False
    for at in (start, head):
        system = quadratic_system(oracles, body, at, rows, False)
        assert isinstance(system, PrimalSystem)
        found = landing(oracles, body, at, rows, system)
        if not bool(found.agrees.all()):
            return False
    if isinstance(oracles.problem.head_set, Everywhere):
        return True
    at = oracles.problem.head_set.project(trees.where(found.solved, found.head, head))
    return bool(deviation(oracles, body, head, at, rows, first)[1].all())
