"""The optimality condition of heads, whose derivative leads to implicit gradients."""

import dataclasses
import functools
from typing import Any

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.checks import Number
from bilevel.core.status import Status
from bilevel.derivatives.head_point import HeadPoint
from bilevel.errors import IncompatibleError
from bilevel.heads.objectives.hessian import newton_factor
from bilevel.heads.objectives.view import View, head_objective, head_view, told_by_features
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
        point: the heads, on the rows that they answer to.
    """

    point: HeadPoint

    @functools.cached_property
    def slope(self) -> Tree:
        """d_theta g."""
        return self.point.gradient()

    @property
    def free(self) -> Tree | None:
        """Which coordinates are not held by a bound; None: all."""
        if isinstance(self.point.problem.head_set, Everywhere):
            return None
        # compiled code enters no lock, which a kept value has
        compiling = torch.compiler.is_compiling()
        return self._free_at(self.point.gradient()) if compiling else self._kept_free

    @functools.cached_property
    def _kept_free(self) -> Tree:
        return self._free_at(self.slope)

    def _free_at(self, slope: Tree) -> Tree:
        push = trees.tree_map(torch.neg, slope)
        return self.point.problem.head_set.free(self.point.head, push)

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
            trees.norm(self.point.at(trees.tree_map(make, self.point.head)).gradient())
            for make in (torch.zeros_like, torch.ones_like)
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
            return self.restricted(self.point.hvp(self.restricted(vector)))

        def matrix() -> Tensor:
            found = self.point.hessian()
            if self.free is None:
                return found
            kept = trees.flatten(self.free)
            found = torch.where(kept.unsqueeze(1) & kept.unsqueeze(2), found, 0.0)
            largest = found.abs().amax((1, 2)).unsqueeze(1)
            held = torch.where(largest > 0, largest, torch.ones_like(largest)) * ~kept
            return found + torch.diag_embed(held)

        return Operator(product, matrix)

    def solve(
        self,
        right: Tree,
        solver: AbstractLinearSolver | None = None,
        start: Tree | None = None,
        factor: Any = None,
        rtol: Number = RTOL,
    ) -> LinearSolution:
        """v with H v = `right` on the free coordinates, and zero on the others.

        Args:
            right: leaves (R, ...).
            solver: None: by the factor, or else by what fits the size.
            start: of iterative solvers.
            factor: of H on all coordinates, or on the free ones, if there is one.
            rtol: of the residual, where products are led by a factor of a Hessian nearby.
        """
        right = self.restricted(right)
        factor = factor or None  # solvers of third parties may say () for none
        if solver is None and (self.free is None or self._led_by(factor)):
            if isinstance(factor, BlockFactor) or self._curved:
                return self._by_products(right, factor, rtol)
            if factor is not None:
                return self._by_factor(right, factor)
            if self.point.oracles.quadratic_linear_head:
                _, codes, factor = quadratic_system(self.point, penalised=False).factorised()
                return _without(codes == int(Status.JITTERED), self._by_factor(right, factor))
        if solver is None:
            solver = Dense() if self.point.size <= LARGEST_DENSE else CG()
        return solver.solve(self.operator(), right, self.restricted(start))

    def _led_by(self, factor: Any) -> bool:
        """Whether the factor, of H on about the free coordinates, is worth its products.

        Those with a linear head read the features twice; for others H is rarely dearer.
        """
        linear = isinstance(self.point.problem, LinearHeadProblem)
        return linear and isinstance(factor, BlockFactor) and bool(factor.usable.all())

    @property
    def _curved(self) -> bool:
        """Whether the head is linear and its criterion, not quadratic, tells its curvature."""
        quadratic = self.point.oracles.quadratic_linear_head
        return not quadratic and told_by_features(self.point.problem, self.point.rows)

    def _by_factor(self, right: Tree, factor: Factor) -> LinearSolution:
        """By a factor of H itself, in float64; `SINGULAR` where there is none."""
        like = trees.cast(right, torch.float64)
        # H of a linear head is the matrix of every output, not of the whole head
        by_output = isinstance(self.point.problem, LinearHeadProblem) and like.ndim == 3
        columns = like if by_output else trees.flatten(like).unsqueeze(2)
        found = factor.solve(columns)
        residual = trees.norm(factor.product(found) - columns)
        value = found if by_output else trees.unflatten(found.squeeze(2), like)
        status = torch.full_like(residual, int(Status.CONVERGED), dtype=torch.int64)
        status = status.masked_fill(residual - residual != 0, int(Status.SINGULAR))  # not finite
        return LinearSolution(trees.cast(value, trees.leaves(right)[0].dtype), residual, status)

    def _by_products(self, right: Tree, factor: BlockFactor | None, rtol: Number) -> LinearSolution:
        """By products with H at these heads, led by a factor of H at near ones, in float64.

        Without a factor H is factored here, if it is not too large. On a box, products and factor
        are those of the free coordinates; a factor that holds others than these is a worse lead, no
        other answer.
        """
        point = self.point
        view = head_view(point) if self.free is None else View(head_objective(point))
        objective = view.objective
        place = objective.at(view.vector(point.head))
        singular = torch.zeros(len(place.point), dtype=torch.bool, device=place.point.device)
        if factor is None or not bool(factor.usable.all()):
            factor, singular = newton_factor(objective, place)
        kept = 1.0 if self.free is None else objective.vector(self.free).double()

        def product(vectors: Tensor) -> Tensor:
            return kept * objective.product(place, kept * vectors)

        found = adjoint_by_factor(product, view.right(right), factor, rtol)
        found = found._replace(value=kept * found.value)
        value = trees.cast(view.step(found.value), trees.leaves(right)[0].dtype)
        return _without(singular, found._replace(value=value))

    def refined(self, solver: AbstractLinearSolver | None, which: Tensor) -> "Condition":
        """The condition after a Newton step of the runs `which`, projected onto the head set."""
        step = self.solve(self.slope, solver)
        head = self.point.head
        better = self.point.problem.head_set.project(trees.tree_map(torch.sub, head, step.value))
        return Condition(self.point.at(trees.where(which, better, head)))


def _without(which: Tensor, found: LinearSolution) -> LinearSolution:
    """NaN and `SINGULAR` in the runs `which`."""
    return LinearSolution(
        trees.nan_where(which, found.value),
        found.residual.masked_fill(which, torch.nan),
        found.status.masked_fill(which, int(Status.SINGULAR)),
    )
