"""The gradient of a penalty reformulation, from first derivatives alone."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.checks import Number, check_positive_integer, positive
from bilevel.core.cost import Cost
from bilevel.core.status import Status
from bilevel.core.waiting import all_done
from bilevel.data.rows import Rows
from bilevel.derivatives.head_point import HeadPoint
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import IncompatibleError
from bilevel.heads import AbstractHeadSolver
from bilevel.heads.objectives.view import head_view
from bilevel.hypergradients.base import AbstractHypergradient, Answer, BodyGradient, fine
from bilevel.hypergradients.condition import Condition
from bilevel.linear.factor import BlockFactor
from bilevel.linear.neumann import SAFETY, largest_seen
from bilevel.problem.base import StackelbergProblem
from bilevel.problem.sets import Everywhere
from bilevel.trees import Tree

RTOL = 1e-10
"""Of |d_theta (g + F / s)| at theta_s, relative to that at theta*."""
MOST = 1000
"""Steps of conjugate gradients at most."""
WIDTH = 1e-4
"""Of the differences that tell the curvature at first, relative to 1 + |theta|."""


class PenaltyState(NamedTuple):
    """What is kept between two calls.

    Attributes:
        away: the last theta_s - theta*. A step of the body moves both alike, and what theta_s lags
            behind is multiplied by s.
        largest: the largest curvature of g + F / s that was seen, (H,).
    """

    away: Tree
    largest: Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class PenaltyMethod(AbstractHypergradient):
    r"""The gradient of a penalised problem, from first derivatives only.

    $$
    \partial_w F(\theta_s) + s\, (\partial_w g(\theta_s) - \partial_w g(\theta^*)),
    \qquad \theta_s = \arg\min_{\theta \in \Theta} F(w, \theta) + s\, g(w, \theta)
    $$

    It is the gradient of
    $\Phi_s(w) = \min_\theta [F(w, \theta) + s\, g(w, \theta)] - s \min_\theta g(w, \theta)$, which
    tends to $\Phi(w)$ as $s$ grows, and takes no second derivative. Its bias falls as $1/s$:

    $$
    \theta_s - \theta^* = -\tfrac1s H^{-1} \partial_\theta F + O(s^{-2}),
    \qquad \lVert\nabla\Phi_s - \nabla\Phi\rVert = O(1/s)
    $$

    so that twice the multiplier is half the bias, as long as $F + s g$ is strongly convex and
    $\lVert H^{-1} F_{\theta\theta}\rVert$ well below $s$. Rounding grows as $s$. Where F is g it is
    $\partial_w g(\theta^*)$.

    $\theta_s$ is found by first derivatives, from $\theta^*$ or, with `inner_steps`, as far from it
    as the last $\theta_s$ was from its own.

    Args:
        multiplier: $s$, positive: a number or (R,) numbers.
        inner_steps: how many projected steps of $g + F/s$, of the length $1/(1.1\,l)$ with $l$ the
            largest curvature that was seen: along the steps so far, and by 10 differences of
            gradients in the beginning. None: nonlinear conjugate gradients, led by the factor that
            $\theta^*$ was solved with if there is one, until the gradient of $g + F/s$ is 1e-10 of
            that at $\theta^*$; in float32, as small as rounding lets it be. Runs that do not get
            there in 1,000 steps are `NOT_CONVERGED`. Without a set of heads only.

    Raises:
        ArgumentError: an argument is out of its range.

    Source: Kwon et al., A fully first-order method for stochastic bilevel optimization (ICML 2023,
    arXiv 2301.10945), algorithm 1 (F2SA). Differs from the source in: 1. the multiplier is fixed.
    2. $\theta^*$ comes from the head solver. 3. The length of inner steps. 4. Inner solves to a
    tolerance.

    Examples:
        >>> import bilevel, torch
        >>> from problems.analytic import analytic
        >>> w = torch.tensor(2.0, dtype=torch.float64)
        >>> found = [
        ...     float(bilevel.hypergradient(analytic("A5"), w, bilevel.PenaltyMethod(s)).body)
        ...     for s in (100.0, 200.0)
        ... ]
        >>> [round(abs(slope - 2), 6) for slope in found]  # grad Phi is 2
        [0.01, 0.005]
    """

    multiplier: Number
    inner_steps: int | None = None
    draws = False
    knows_tasks = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "multiplier", positive(self.multiplier, "`multiplier`"))
        if self.inner_steps is not None:
            check_positive_integer(self.inner_steps, "`inner_steps`")

    def check(self, problem: StackelbergProblem, solver: AbstractHeadSolver) -> None:
        """Refuse constraints that only the solver knows, and sets without `inner_steps`."""
        if solver.restricts:
            raise IncompatibleError(
                f"{type(solver).__name__} has constraints of its own, which the steps of "
                "PenaltyMethod do not know. State them as `head_set`, or use Envelope() where F is "
                "g."
            )
        if self.inner_steps is None and not isinstance(problem.head_set, Everywhere):
            raise IncompatibleError(
                f"PenaltyMethod solves to a tolerance without a set of heads only, not on "
                f"{type(problem.head_set).__name__}. Give `inner_steps`, projected steps, or use "
                "Implicit() on a Box."
            )

    def init(self, oracles: Oracles, body: Tree, head: Tree, rows: Rows) -> PenaltyState:
        """The curvature of g + F / s at the first heads, by differences of gradients."""
        inner = _Inner(HeadPoint(oracles, body, head, rows), rows.full, self.multiplier)
        at = trees.flatten(head)
        width = WIDTH * (1 + trees.norm(head)).unsqueeze(1)
        slope = inner.slope(at)

        def product(vectors: Tensor) -> Tensor:
            return (inner.slope(at + width * vectors) - slope) / width

        nothing = trees.tree_map(torch.zeros_like, head)
        return PenaltyState(nothing, largest_seen(product, at))

    def gradient(
        self, oracles: Oracles, body: Tree, answer: Answer, rows: Rows, state: PenaltyState
    ) -> BodyGradient:
        """theta_s, and the difference of two gradients of g in the body."""
        point = HeadPoint(oracles, body, answer.head, rows)
        inner = _Inner(point, rows if answer.solver.uses_batch else rows.full, self.multiplier)
        if self.inner_steps is not None:
            state = inner.stepped(state, self.inner_steps)
            status = fine(answer.head)
        else:
            state, status = inner.solved(state, answer.factor)
        moved = point.at(trees.tree_map(torch.add, point.head, state.away))
        # d_w of F, and of g at both heads, on the rows of the step
        direct = oracles.direct_gradient(body, moved.head, rows)
        there, here = (oracles.joint_gradient(body, at.head, rows)[0] for at in (moved, point))

        def total(first: Tensor, high: Tensor, low: Tensor) -> Tensor:
            return first + trees.per_run(self.multiplier, first) * (high - low)

        return BodyGradient(trees.tree_map(total, direct, there, here), status, state=state)

    @property
    def compilable(self) -> bool:
        """With a fixed number of steps."""
        return self.inner_steps is not None

    @property
    def wants_factor(self) -> bool:
        """To lead the way to theta_s, where that is solved for."""
        return self.inner_steps is None

    @property
    def cost(self) -> Cost:
        """Two gradients for each step, F's and g's, and three in the body."""
        if self.inner_steps is None:  # as many as the condition of the head asks for
            return Cost(gradients=3, solves=1)
        return Cost(gradients=2 * self.inner_steps + 3)


class _Inner:
    """g + F / s of heads at fixed bodies, on vectors (H, P).

    Args:
        point: theta*, on the rows of the step.
        on: the rows that g is meant on.
        multiplier: s.
    """

    def __init__(self, point: HeadPoint, on: Rows, multiplier: Number) -> None:
        self.point, self.answered, self.multiplier = point, point.on(on), multiplier

    def slope(self, vectors: Tensor) -> Tensor:
        """d_theta (g + F / s)."""
        point, head = self.point, trees.unflatten(vectors, self.point.head)
        of_head = trees.flatten(self.answered.at(head).gradient())
        outer = trees.flatten(point.oracles.outer_gradient(point.body, head, point.rows))
        return of_head + outer / trees.per_run(self.multiplier, outer)

    def stepped(self, state: PenaltyState, steps: int) -> PenaltyState:
        """After some projected steps from where the last ones led."""
        head, largest = self.point.head, state.largest

        def project(vectors: Tensor) -> Tensor:
            found = self.point.problem.head_set.project(trees.unflatten(vectors, head))
            return trees.flatten(found)

        first = trees.flatten(head)
        at = project(first + trees.flatten(state.away))
        slope = self.slope(at)
        for j in range(steps):
            length = 1 / (SAFETY * torch.where(largest > 0, largest, torch.ones_like(largest)))
            moved = project(at - length.unsqueeze(1) * slope)
            if j + 1 < steps:
                there = self.slope(moved)
                # where steps were too long they grow along the largest curvature, which shows here
                seen = trees.norm(there - slope) / trees.norm(moved - at)
                largest = torch.maximum(largest, seen.nan_to_num(0.0, 0.0))
                slope = there
            at = moved
        return PenaltyState(trees.unflatten(at - first, head), largest)

    def solved(self, state: PenaltyState, factor: Any) -> tuple[PenaltyState, Tensor]:
        """theta_s by preconditioned conjugate gradients (Polak-Ribiere) with secant steps."""
        lead = self._lead(factor, state.largest)
        at = first = trees.flatten(self.point.head)
        slope = self.slope(at)
        size, eps = trees.norm(slope), torch.finfo(at.dtype).eps
        goal = torch.maximum(RTOL * size, 10 * eps * state.largest * trees.norm(at))
        done = size <= goal
        led = lead(slope)
        way = -led
        for j in range(MOST):
            if all_done(done, j):
                break
            bend = trees.dot(way, self.slope(at + way) - slope)
            length = -trees.dot(way, slope) / torch.where(bend > 0, bend, torch.ones_like(bend))
            moved = at + length.unsqueeze(1) * way
            there = self.slope(moved)
            onward = lead(there)
            share = trees.dot(onward, there - slope) / trees.dot(led, slope)
            way = share.clamp(min=0).unsqueeze(1) * way - onward
            rises = trees.dot(way, there) >= 0
            way = torch.where(rises.unsqueeze(1), -onward, way)
            stays = done.unsqueeze(1)
            at, slope, led = at.where(stays, moved), slope.where(stays, there), onward
            size = trees.norm(slope)
            done = done | (size <= goal) | ~size.isfinite()
        code = torch.where(done, int(Status.COMPLETED), int(Status.NOT_CONVERGED))
        code = code.masked_fill(~size.isfinite(), int(Status.DIVERGED))
        return PenaltyState(trees.unflatten(at - first, self.point.head), state.largest), code

    def _lead(self, factor: Any, largest: Tensor) -> Callable[[Tensor], Tensor]:
        """About the inverse of the Hessian of g at theta*: its factor, or a number."""
        head = self.point.head
        if isinstance(factor, BlockFactor) and bool(factor.usable.all()):
            view = head_view(self.answered)

            def by_blocks(slope: Tensor) -> Tensor:
                right = view.right(trees.unflatten(slope, head))
                return trees.flatten(view.step(factor.solve(right))).to(slope)

            return by_blocks
        if factor and not isinstance(factor, BlockFactor):
            condition = Condition(self.answered)

            def by_factor(slope: Tensor) -> Tensor:
                right = trees.unflatten(slope, head)
                return trees.flatten(condition.solve(right, factor=factor).value)

            return by_factor
        scale = torch.where(largest > 0, largest, torch.ones_like(largest)).unsqueeze(1)
        return lambda slope: slope / scale
