"""The head by projected gradient steps on a fast timescale."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from bilevel import trees
from bilevel.core.checks import (
    Number,
    check_batch_size,
    check_flag,
    check_positive_integer,
    positive,
)
from bilevel.core.cost import Cost
from bilevel.core.schedules import Rate, set_schedules, step_size
from bilevel.core.status import Status
from bilevel.core.waiting import all_done
from bilevel.data.rows import Rows
from bilevel.derivatives.head_point import HeadPoint
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import ArgumentError
from bilevel.heads.base import AbstractHeadSolver, HeadSolution
from bilevel.optimizers.sgd import descend
from bilevel.problem.sets import Everywhere
from bilevel.problem.sets.base import Derivative
from bilevel.trees import Tree


class Step(NamedTuple):
    """One inner step.

    Attributes:
        point: the heads before it, on its rows.
        lr: its size.
        derivative: of the projection at its end; None: there is no set.
    """

    point: HeadPoint
    lr: Number
    derivative: Derivative | None


@dataclasses.dataclass(frozen=True, eq=False)
class FastSGD(AbstractHeadSolver):
    r"""Gradient steps on the head, a fixed number of them or to a tolerance.

    $$\theta \leftarrow \mathrm{Proj}_\Theta[\theta - \eta_j\, \partial_\theta g(w, \theta)]$$

    Args:
        lr: the step size $\eta_j$, a schedule over the inner steps or a number; below $2/L$ to
            converge.
        steps: how many, at least 1.
        batch_size: rows of "train" per inner step, drawn like those of the training, but on their
            own; None: all rows.
        tolerance: stop a run when $\lVert\partial_\theta g\rVert$, or with a head set the norm of
            the gradient mapping $(\theta - \mathrm{Proj}(\theta - \eta d)) / \eta$, is at most
            this, None: never. Needs `batch_size=None`: a sampled gradient does not vanish.
        restart: whether each solve starts anew, at the problem's `head_start` or else at the
            initial head; False: from the last head.

    Raises:
        ArgumentError: a number is out of its range, or a tolerance goes with sampled rows.
        IncompatibleError: from a training, where the problem has no rows to draw.

    Source: stochastic gradient descent, Robbins and Monro 1951, projected. Differs from the source
    in: 1. a fixed number of steps, or a tolerance.

    Examples:
        >>> import bilevel, torch
        >>> from problems.toy import ScalarProduct
        >>> solver = bilevel.FastSGD(0.1, steps=500, tolerance=1e-4)    # 2 / L is 0.4
        >>> bilevel.best_response(ScalarProduct(), torch.tensor(2.0), solver).head
        tensor(0.4000)
    """

    lr: Rate
    steps: int
    batch_size: int | None = None
    tolerance: Number | None = None
    restart: bool = dataclasses.field(default=False, metadata={"added": True})

    def __post_init__(self) -> None:
        set_schedules(self, "lr")
        check_positive_integer(self.steps, "`steps`")
        check_batch_size(self.batch_size, "`batch_size`")
        check_flag(self.restart, "restart")
        if self.tolerance is not None:
            object.__setattr__(self, "tolerance", positive(self.tolerance, "`tolerance`"))
            if self.batch_size is not None:
                raise ArgumentError(
                    "`tolerance` needs `batch_size=None`: the gradient of sampled rows does not "
                    "vanish at the solution."
                )

    def init(self, oracles: Oracles, body: Tree, head: Tree, rows: Rows) -> Any:
        """Nothing to remember, or the head to start anew from; the head is the warm start."""
        if self.batch_size is not None and rows.source is None:
            raise ArgumentError(
                "FastSGD with `batch_size` draws rows on its own, which only `solve` and `compare` "
                "offer. Leave `batch_size=None` at a single point."
            )
        return head if self.restart and oracles.head_start(body, head) is None else ()

    def start(self, oracles: Oracles, body: Tree, head: Tree, state: Any) -> Tree:
        """The last head, or where it starts anew."""
        if not self.restart:
            return head
        started = oracles.head_start(body, head)
        return state if started is None else started

    def solve(
        self, oracles: Oracles, body: Tree, head: Tree, rows: Rows, state: Any, k: int
    ) -> HeadSolution:
        """The steps; runs that reached the tolerance stand still."""
        project = oracles.problem.head_set.project
        runs, device = len(trees.leaves(head)[0]), trees.leaves(head)[0].device
        done = torch.zeros(runs, dtype=torch.bool, device=device)
        for j in range(self.steps):
            lr = step_size(self.lr, j)
            batch = self._rows(rows, k * self.steps + j)
            slope = oracles.head_gradient(body, head, batch)
            moved = project(descend(head, slope, lr))
            if self.tolerance is not None:
                size = _residual(oracles, head, slope, lr)
                done = done | (size <= trees.per_run(self.tolerance, size))
                if all_done(done, j):
                    break
                moved = trees.where(done, head, moved)
            head = moved
        slope = oracles.head_gradient(body, head, rows.full)
        residual = _residual(oracles, head, slope, step_size(self.lr, self.steps - 1))
        return HeadSolution(head, residual, self._status(residual), state)

    def path(self, start: HeadPoint, k: int) -> Iterator[Step]:
        """The steps that `solve` makes from a point with the number `k`, one after the other."""
        head_set = start.problem.head_set
        head, derivative = start.head, None
        for j in range(self.steps):
            lr = step_size(self.lr, j)
            point = start.at(head).on(self._rows(start.rows, k * self.steps + j))
            head = descend(head, point.gradient(), lr)
            if not isinstance(head_set, Everywhere):
                head, derivative = head_set.linearised(head)
            yield Step(point, lr, derivative)

    @property
    @override
    def restarts(self) -> bool:
        return self.restart

    @property
    def knows_tasks(self) -> bool:
        """On all rows of each: tasks are what a batch draws."""
        return self.batch_size is None

    @property
    def compilable(self) -> bool:
        """With a fixed number of steps, on all rows."""
        return self.tolerance is None and self.batch_size is None

    @property
    def draws(self) -> bool:
        """Rows of its own, with a `batch_size`."""
        return self.batch_size is not None

    @property
    def cost(self) -> Cost:
        """A gradient per inner step, on a batch or on all rows, and one on all for the residual."""
        if self.batch_size is None:
            return Cost(passes=self.steps + 1)
        return Cost(gradients=self.steps, passes=1)

    def _rows(self, rows: Rows, j: int) -> Rows:
        """All rows, or the rows of inner step j in the place of the training rows."""
        if self.batch_size is None or rows.source is None:
            return rows.full
        return rows.source.more("train", self.batch_size, j)

    def _status(self, residual: Tensor) -> Tensor:
        ending = Status.COMPLETED if self.tolerance is None else Status.CONVERGED
        code = torch.full_like(residual, int(ending), dtype=torch.int64)
        if self.tolerance is not None:
            code = code.masked_fill(
                residual > trees.per_run(self.tolerance, residual), int(Status.NOT_CONVERGED)
            )
        return code.masked_fill(~residual.isfinite(), int(Status.DIVERGED))


def _residual(oracles: Oracles, head: Tree, slope: Tree, lr: Number) -> Tensor:
    """|d_theta g| per run; with a set of heads |theta - Proj(theta - lr d)| / lr."""
    head_set = oracles.problem.head_set
    if isinstance(head_set, Everywhere):
        return trees.norm(slope)  # the quotient would be rounding for small steps
    moved = head_set.project(descend(head, slope, lr))
    size = trees.norm(trees.tree_map(torch.sub, head, moved))
    return size / trees.per_run(lr, size)
