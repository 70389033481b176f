"""The exact head of a quadratic objective."""

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor

from bilevel import trees
from bilevel.cost import Cost
from bilevel.errors import IncompatibleError, SingularHeadError
from bilevel.heads.base import AbstractHeadSolver, HeadSolution
from bilevel.linear.system import (
    EPS,
    AbstractSystem,
    PrimalSystem,
    by_output,
    gram,
    linear_system,
    penalise,
    weighted,
)
from bilevel.oracles import Oracles
from bilevel.problem import LinearHeadProblem, StackelbergProblem
from bilevel.sampling import Rows, generator
from bilevel.sets import Everywhere
from bilevel.status import Status
from bilevel.trees import Tree

LARGEST_GENERAL_HEAD = 1024


@dataclasses.dataclass(frozen=True, eq=False)
class FullData:
    """The head is solved on all training rows; the body's gradient is taken on the step's batch."""


class ClosedFormState(NamedTuple):
    """What is decided or computed once.

    Attributes:
        penalised: whether all coefficients of a linear head are penalised, so that the dual form
            may be used; decided at the initial bodies.
        gram: Z'Z/n of features that do not depend on the body, else None.
        moment: Z't/n of them, else None.
        rows: n.
    """

    penalised: bool
    gram: Tensor | None = None
    moment: Tensor | None = None
    rows: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class ClosedForm(AbstractHeadSolver):
    """theta*(w) = H^{-1} b by a Cholesky factorisation in float64.

    A linear head with squared error: H = Z'SZ/n + diag(p), b = Z'St/n. With fewer rows than
    features (and everything penalised) the n x n kernel is factored instead. Features that do not
    depend on the body are multiplied once. Any other head is solved through its Hessian if g is
    quadratic in it, which is checked once at random heads.

    Args:
        data: on which rows: `FullData()`, all training rows.

    Raises:
        IncompatibleError: g is not quadratic in the head, or the head is too large for a Hessian.
        SingularHeadError: the Hessian is singular at an initial point. (Where it becomes so later,
            the smallest sufficient jitter is added and the run's status is `JITTERED`.)
    """

    data: FullData = FullData()

    def check(self, problem: StackelbergProblem) -> None:
        """Refuse criteria that are not quadratic."""
        if isinstance(problem, LinearHeadProblem) and not problem.criterion.quadratic:
            raise IncompatibleError(
                f"{type(problem.criterion).__name__} is not quadratic in the prediction, so its "
                "heads have no closed form. Use an iterative solver, such as FastSGD."
            )

    def init(self, oracles: Oracles, body: Tree, head: Tree, rows: Rows) -> ClosedFormState:
        """Check that H is positive definite; compute the Gram matrix if it never changes."""
        if not oracles.quadratic_linear_head:
            check_quadratic(oracles, body, head, rows.full)
        problem = oracles.problem
        penalised = all_penalised(oracles, body, head)
        refuse_singular(quadratic_system(oracles, body, head, rows.full, penalised), problem)
        if (
            isinstance(problem, LinearHeadProblem)
            and problem.body_free_features
            and not problem.overrides("row_weights")
        ):
            design, penalty = weighted(oracles.linear_parts(body, rows.full))
            parts = gram(design, penalty.shape[2])
            return ClosedFormState(penalised, *parts, rows=design.shape[1])
        return ClosedFormState(penalised)

    def solve(
        self, oracles: Oracles, body: Tree, head: Tree, rows: Rows, state: ClosedFormState, k: int
    ) -> HeadSolution:
        """The exact heads on all rows."""
        if state.gram is not None and state.moment is not None:
            penalty = oracles.linear_penalty(body, head).double()
            system: AbstractSystem = penalise(
                state.gram, state.moment, by_output(penalty), state.rows
            )
        else:
            system = quadratic_system(oracles, body, head, rows.full, state.penalised)
        numbers, status = system.solve()
        if isinstance(oracles.problem, LinearHeadProblem):
            solved = numbers if head.ndim == 3 else numbers.squeeze(2)
            solved = solved.to(head.dtype)
        else:
            step = trees.unflatten(numbers.squeeze(2).to(trees.leaves(head)[0].dtype), head)
            solved = trees.tree_map(torch.add, head, step)
        solved, status = self._constrain(oracles.problem, solved, status)
        residual = system.gradient_norm(self._numbers(oracles.problem, solved, head))
        return HeadSolution(solved, residual, status, state)

    @staticmethod
    def _numbers(problem: StackelbergProblem, solved: Tree, start: Tree) -> Tensor:
        """What the system solves for, (R, m, K), at the head that is returned."""
        if isinstance(problem, LinearHeadProblem):
            theta: Tensor = solved.double()
            return theta if theta.ndim == 3 else theta.unsqueeze(2)
        step = trees.tree_map(lambda a, b: a.double() - b.double(), solved, start)
        return trees.flatten(step).unsqueeze(2)

    @property
    def cost(self) -> Cost:
        """One exact solve."""
        return Cost(solves=1)

    @staticmethod
    def _constrain(problem: StackelbergProblem, head: Tree, status: Tensor) -> tuple[Tree, Tensor]:
        """Project onto the head set: exact for one number, else inexact, which is reported."""
        if isinstance(problem.head_set, Everywhere):
            return head, status
        projected = problem.head_set.project(head)
        moved = trees.norm(trees.tree_map(torch.sub, projected, head))
        outside = moved > 10 * torch.finfo(moved.dtype).eps * trees.norm(head)
        if trees.flatten(head).shape[1] > 1:
            status = torch.where(outside, int(Status.OUTSIDE_SET), status)
        return projected, status


def quadratic_system(
    oracles: Oracles, body: Tree, head: Tree, rows: Rows, penalised: bool
) -> AbstractSystem:
    """The system of a quadratic head on `rows`.

    For a linear head its solution is theta*; for another head it is theta* - head.
    """
    if isinstance(oracles.problem, LinearHeadProblem):
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
    return bool((oracles.linear_penalty(body, head) > 0).all())


def refuse_singular(system: AbstractSystem, problem: StackelbergProblem) -> None:
    """Raise `SingularHeadError` if H is not numerically positive definite in some run."""
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
        what = "The Gram matrix of the features has" if linear else "The head's Hessian has"
        remedy = (
            "Set `ridge` (or `penalty`) to a positive number, or use fewer features than rows."
            if linear
            else "Add a strongly convex term to `head_objective`."
        )
        raise SingularHeadError(
            f"{what} smallest eigenvalue {float(smallest[run]):.2g} (largest "
            f"{float(largest[run]):.2g}) in run {run}: the head has no unique minimiser, so there "
            f"is no closed form. {remedy}"
        )


def check_quadratic(oracles: Oracles, body: Tree, head: Tree, rows: Rows) -> None:
    """Raise `IncompatibleError` unless g is quadratic in the head."""
    size = trees.flatten(head).shape[1]
    if size > LARGEST_GENERAL_HEAD:
        raise IncompatibleError(
            f"The head has {size} numbers; ClosedForm forms a Hessian of at most "
            f"{LARGEST_GENERAL_HEAD}. Use LinearHeadProblem if the head is linear in features, or "
            "an iterative solver."
        )
    if not is_quadratic(oracles, body, head, rows):
        raise IncompatibleError(
            f"`head_objective` of {type(oracles.problem).__name__} is not quadratic in the head: "
            "its Hessian is not the same everywhere, so there is no closed form. Use an iterative "
            "solver, such as FastSGD."
        )


def is_quadratic(oracles: Oracles, body: Tree, head: Tree, rows: Rows) -> bool:
    """Whether g is quadratic in the head, as far as three heads can tell, in float64.

    Its Hessian must agree at two random heads to 1e-8, and its gradient must vanish, to 1e-6 of
    what it was, at the head that this Hessian leads to.
    """
    body, rows = trees.cast(body, torch.float64), rows.cast(torch.float64)
    like = trees.flatten(trees.cast(head, torch.float64))

    def random_head(stream: int) -> Tree:
        source = generator(stream, "quadratic")
        numbers = torch.randn(like.shape[1], generator=source, dtype=torch.float64)
        return trees.unflatten(numbers.to(like.device).expand(like.shape), head)

    start = random_head(0)
    first = oracles.head_hessian(body, start, rows)
    second = oracles.head_hessian(body, random_head(1), rows)
    scale = torch.maximum(first.abs().amax(), second.abs().amax())
    if not bool((first - second).abs().amax() <= 1e-8 * scale):
        return False
    system = quadratic_system(oracles, body, start, rows, False)
    step, status = system.solve()
    landed = trees.tree_map(torch.add, start, trees.unflatten(step.squeeze(2), start))
    before, after = (trees.norm(oracles.head_gradient(body, at, rows)) for at in (start, landed))
    # a singular Hessian leads nowhere; it is refused, or not certified, as such
    return bool(((after <= 1e-6 * before) | (status != int(Status.CONVERGED))).all())
