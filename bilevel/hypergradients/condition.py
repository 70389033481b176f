"""The optimality condition of heads, whose derivative leads to implicit gradients."""

import dataclasses
import functools
from typing import Any

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.generators import generator
from bilevel.core.status import Status
from bilevel.data.rows import Rows
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import IncompatibleError, ProblemError
from bilevel.heads.newton.solver import newton_factor
from bilevel.heads.objectives.linear import knows_curvature
from bilevel.heads.objectives.view import View, head_objective, head_view
from bilevel.heads.quadratic import quadratic_system
from bilevel.linear import CG, AbstractLinearSolver, Dense, LinearSolution, Operator
from bilevel.linear.factor import BlockFactor, Factor
from bilevel.linear.preconditioned import adjoint_by_factor
from bilevel.problem.linear_head import LinearHeadProblem
from bilevel.problem.sets import Everywhere
from bilevel.trees import Tree

LARGEST_DENSE = 512
SMALLEST_SCALE = 1e-8
RTOL = 1e-12
"""Of adjoints by products and a factor of a Hessian at a near head."""


@dataclasses.dataclass(frozen=True, eq=False)
class Condition:
    """The optimality condition of heads: d_theta g = 0, on the free coordinates of a box.

    Args:
        oracles: of the problem.
        body: leaves (R, ...).
        head: leaves (R, ...).
        rows: on which the head answers.
    """

    oracles: Oracles
    body: Tree
    head: Tree
    rows: Rows

    @functools.cached_property
    def slope(self) -> Tree:
        """d_theta g."""
        return self.oracles.head_gradient(self.body, self.head, self.rows)

    @functools.cached_property
    def free(self) -> Tree | None:
        """Which coordinates are not held by a bound; None: all."""
        head_set = self.oracles.problem.head_set
        if isinstance(head_set, Everywhere):
            return None
        return head_set.free(self.head, trees.tree_map(torch.neg, self.slope))

    @property
    def available(self) -> bool:
        """Whether the set has coordinates to hold: a `Ball`, for one, has none."""
        try:
            self.free  # noqa: B018 - it is kept
        except IncompatibleError:
            return False
        return True

    def restricted(self, vector: Tree) -> Tree:
        """The free coordinates of a vector, zero elsewhere."""
        if self.free is None:
            return vector
        return trees.tree_map(torch.mul, vector, self.free)

    def relative_residual(self) -> Tensor:
        """|d_theta g| on the free coordinates, relative to |d_theta g| at the zero head, (R,).

        Where the zero head is (nearly) a stationary point, 1e-8 of that at the head of ones.
        """
        zeros, ones = (
            trees.norm(self.oracles.head_gradient(self.body, at, self.rows))
            for at in (
                trees.tree_map(make, self.head) for make in (torch.zeros_like, torch.ones_like)
            )
        )
        scale = torch.maximum(zeros, SMALLEST_SCALE * ones)
        size = trees.norm(self.restricted(self.slope))
        return torch.where(size > 0, size / scale, size)

    def operator(self) -> Operator:
        """H on the free coordinates, for right-hand sides that are zero on the others.

        Products are zero on the others, so that they add no eigenvalue to those that iterations
        see. The matrix, which is factored, has its largest entry on their diagonal.
        """

        def product(vector: Tree) -> Tree:
            inside = self.restricted(vector)
            return self.restricted(self.oracles.head_hvp(self.body, self.head, inside, self.rows))

        def matrix() -> Tensor:
            found = self.oracles.head_hessian(self.body, self.head, self.rows)
            if self.free is None:
                return found
            kept = trees.flatten(self.free)
            inside = kept.unsqueeze(1) & kept.unsqueeze(2)
            found = torch.where(inside, found, torch.zeros_like(found))
            largest = found.abs().amax((1, 2)).unsqueeze(1)
            held = torch.where(largest > 0, largest, torch.ones_like(largest)) * ~kept
            return found + torch.diag_embed(held)

        return Operator(product, matrix)

    def solve(
        self,
        right: Tree,
        solver: AbstractLinearSolver | None = None,
        start: Tree | None = None,
        factor: Any = (),
    ) -> LinearSolution:
        """v with H v = `right` on the free coordinates, and zero on the others.

        Args:
            right: leaves (R, ...).
            solver: None: by the factor, or else by what fits the size.
            start: of iterative solvers.
            factor: of H on all coordinates, or on the free ones, if there is one.
        """
        right = self.restricted(right)
        if solver is None and (self.free is None or self._led_by(factor)):
            if isinstance(factor, BlockFactor) or self.curved:
                return self._by_products(right, factor or None)
            if factor:
                linear = isinstance(self.oracles.problem, LinearHeadProblem)
                return solve_by_factor(factor, right, by_output=linear)
            if self.oracles.quadratic_linear_head:
                at = (self.oracles, self.body, self.head, self.rows)
                _, codes, factor = quadratic_system(*at, penalised=False).factorised()
                found = solve_by_factor(factor, right, by_output=True)
                return _without_jitter(found, codes)
        if solver is None:
            small = trees.flatten(right).shape[1] <= LARGEST_DENSE
            solver = Dense() if small else CG()
        return solver.solve(
            self.operator(), right, None if start is None else self.restricted(start)
        )

    def _led_by(self, factor: Any) -> bool:
        """Whether the factor, of H on about the free coordinates, is worth its products.

        Those with a linear head read the features twice; for others H is rarely dearer.
        """
        linear = isinstance(self.oracles.problem, LinearHeadProblem)
        return linear and isinstance(factor, BlockFactor) and bool(factor.usable.all())

    @property
    def curved(self) -> bool:
        """Whether the head is linear and its criterion, not quadratic, tells its curvature."""
        problem = self.oracles.problem
        if not isinstance(problem, LinearHeadProblem) or problem.criterion.quadratic:
            return False
        targets = self.rows.groups["train"].targets
        return knows_curvature(problem, targets[0] if self.rows.axes["train"] == 0 else targets)

    def _by_products(self, right: Tree, factor: BlockFactor | None) -> LinearSolution:
        """By products with H at these heads, led by a factor of H at near ones, in float64.

        Without a factor H is factored here, if it is not too large. Both are those of the free
        coordinates; a factor that holds others than these is a worse lead, no other answer.
        """
        at = (self.oracles, self.body, self.head, self.rows)
        view = head_view(*at) if self.free is None else View(head_objective(*at))
        objective = view.objective
        place = objective.at(view.vector(self.head))
        singular = torch.zeros(len(place.point), dtype=torch.bool, device=place.point.device)
        if factor is None or not bool(factor.usable.all()):
            factor, singular = newton_factor(objective, place)
        kept = 1.0 if self.free is None else objective.vector(self.free).double()

        def product(vectors: Tensor) -> Tensor:
            return kept * objective.product(place, kept * vectors)

        found = adjoint_by_factor(product, view.right(right), factor, RTOL)
        found = found._replace(value=kept * found.value)
        value = trees.cast(view.step(found.value), trees.leaves(right)[0].dtype)
        return _without(singular, found._replace(value=value))

    def refined(self, solver: AbstractLinearSolver | None, which: Tensor) -> "Condition":
        """The condition after a Newton step of the runs `which`, projected onto the head set."""
        step = self.solve(self.slope, solver)
        moved = trees.tree_map(torch.sub, self.head, step.value)
        better = self.oracles.problem.head_set.project(moved)
        return dataclasses.replace(self, head=trees.where(which, better, self.head))


def solve_by_factor(factor: Factor, right: Tree, *, by_output: bool) -> LinearSolution:
    """v with H v = `right`, in float64, from a factor of H; NaN and `SINGULAR` without one.

    Args:
        factor: of H.
        right: leaves (R, ...).
        by_output: whether H is the matrix of every output of a linear head, not of the whole head.
    """
    like = trees.cast(right, torch.float64)
    side_by_side = by_output and trees.leaves(like)[0].ndim == 3
    columns = like if side_by_side else trees.flatten(like).unsqueeze(2)
    found = factor.solve(columns)
    residual = trees.norm(factor.product(found) - columns)
    value = found if side_by_side else trees.unflatten(found.squeeze(2), like)
    dtype = trees.leaves(right)[0].dtype
    status = torch.full_like(residual, int(Status.CONVERGED), dtype=torch.int64)
    status = status.masked_fill(~residual.isfinite(), int(Status.SINGULAR))
    return LinearSolution(trees.cast(value, dtype), residual, status)


def _without_jitter(found: LinearSolution, codes: Tensor) -> LinearSolution:
    """NaN and `SINGULAR` in runs whose matrix was factored with something added to it."""
    return _without(codes == int(Status.JITTERED), found)


def _without(which: Tensor, found: LinearSolution) -> LinearSolution:
    """NaN and `SINGULAR` in the runs `which`."""
    nothing = trees.tree_map(lambda leaf: torch.full_like(leaf, torch.nan), found.value)
    return LinearSolution(
        trees.where(which, nothing, found.value),
        found.residual.masked_fill(which, torch.nan),
        found.status.masked_fill(which, int(Status.SINGULAR)),
    )


def check_dependence(oracles: Oracles, body: Tree, head: Tree, rows: Rows) -> None:
    """Raise if d_theta g changes with the body while autograd sees no such change.

    An implicit gradient would silently be zero: `detach`, rounding or an operation without a
    derivative cuts the way from the body to g.
    """
    source = generator(0, "dependence")

    def random_like(tree: Tree) -> Tree:
        return trees.tree_map(
            lambda leaf: torch.randn(leaf.shape, generator=source, dtype=torch.float64).to(leaf),
            tree,
        )

    moved = trees.tree_map(lambda w, d: w + 0.1 * (1 + w.abs()) * d, body, random_like(body))
    for at in (body, moved):  # at one body it may vanish for good reason, such as at a saddle
        seen = trees.norm(oracles.cross_vjp(at, head, random_like(head), rows))
        if bool((seen > 0).any()):
            return
    before, after = (oracles.head_gradient(at, head, rows) for at in (body, moved))
    if bool((trees.norm(trees.tree_map(torch.sub, after, before)) > 0).any()):
        raise ProblemError(
            f"`head_objective` of {type(oracles.problem).__name__} depends on the body, but its "
            "derivative d2_{w theta} g is zero: something cuts the body off from autograd, such as "
            "`.detach()`, `torch.no_grad()`, rounding or a comparison. The implicit gradient would "
            "lack its second term."
        )
