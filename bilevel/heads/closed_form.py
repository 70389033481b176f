"""The exact head of a quadratic objective."""

import dataclasses
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from bilevel import trees
from bilevel.core.checks import check_instance
from bilevel.core.cost import Cost
from bilevel.core.status import Status
from bilevel.data.rows import Rows
from bilevel.derivatives.head_point import HeadPoint
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import IncompatibleError
from bilevel.heads.base import AbstractHeadSolver, HeadSolution
from bilevel.heads.quadratic import landing
from bilevel.heads.rows_used import AbstractHeadData, FullData, RunningData
from bilevel.linear.systems import PrimalSystem
from bilevel.problem.base import StackelbergProblem
from bilevel.problem.linear_head import LinearHeadProblem
from bilevel.problem.sets import ConvexSet, Everywhere
from bilevel.trees import Tree


@dataclasses.dataclass(frozen=True, eq=False)
class ClosedForm(AbstractHeadSolver):
    r"""The exact head of a quadratic g, by a Cholesky factorisation in float64.

    $$\theta^*(w) = H^{-1} b$$

    A linear head with squared error: $H = Z^\top S Z/n + \operatorname{diag}(p)$,
    $b = Z^\top S t/n + p\,q$. With fewer rows than features (and everything penalised) the n x n
    kernel is factored instead. Features that do not depend on the body are multiplied once.
    Features and penalties may be of any scale; beside a bias, features and targets are counted from
    their means, so that they may lie far from zero.

    Any other head is solved through its Hessian if g is quadratic in it. That is checked at random
    heads and at the initial ones, and $\partial_\theta g$ of every solution: where it does not
    vanish, g is not quadratic between the head before and the solution, and the run's status is
    `NOT_QUADRATIC`.

    Args:
        data: on which rows: `FullData()`, all training rows (the default); `BatchData()`, those of
            the step; `RunningData()`, running averages over the batches.

    Raises:
        IncompatibleError: g is not quadratic in the head, or the head is too large for a Hessian.
        SingularHeadError: the Hessian, its diagonal scaled to one, is singular at an initial point.
            (Where it becomes so later, the smallest sufficient part of its diagonal is added, and
            the run's status is `JITTERED`.)

    Source: the normal equations; Golub and Van Loan, Matrix Computations (4th ed. 2013), sections
    4.2 and 5.3. Differs from the source in: 1. the kernel of the rows is factored where it is
    smaller. 2. Columns are counted from their means, and the diagonal is scaled to one.

    Examples:
        >>> import bilevel, torch
        >>> from problems.analytic import analytic
        >>> bilevel.best_response(analytic("A1"), torch.tensor(2.0), bilevel.ClosedForm()).residual
        0.0
    """

    data: AbstractHeadData = FullData()  # noqa: RUF009 - frozen
    compilable = True  # runs that need a jitter are repeated eagerly, see `factorise`
    draws = False

    def __post_init__(self) -> None:
        check_instance(self.data, AbstractHeadData, "data", "FullData()")

    def check(self, problem: StackelbergProblem) -> None:
        """Refuse criteria that are not quadratic, and what the data cannot be made for."""
        if isinstance(problem, LinearHeadProblem) and not problem.criterion.quadratic:
            raise IncompatibleError(
                f"{type(problem.criterion).__name__} is not quadratic in the prediction, so its "
                "heads have no closed form. Use Newton(), or FastSGD(lr, steps)."
            )
        self.data.check(problem)

    def init(self, oracles: Oracles, body: Tree, head: Tree, rows: Rows) -> Any:
        """Check that H is positive definite; what the data keep."""
        return self.data.init(HeadPoint(oracles, body, head, rows))

    def solve(
        self, oracles: Oracles, body: Tree, head: Tree, rows: Rows, state: Any, k: int
    ) -> HeadSolution:
        """The exact heads on the rows of `data`."""
        point = HeadPoint(oracles, body, head, rows)
        system, state = self.data.system(point, state)
        numbers, status, factor = system.factorised()
        if isinstance(oracles.problem, LinearHeadProblem):
            solved = numbers if head.ndim == 3 else numbers.squeeze(2)
            solved, off = solved.to(head.dtype), None
        else:
            assert isinstance(system, PrimalSystem)
            found = landing(point if self.uses_batch else point.full, system, (numbers, status))
            solved, off = found.head, found.off
            status = status.masked_fill(~found.agrees, int(Status.NOT_QUADRATIC))
        solved, status = self._constrain(oracles.problem.head_set, solved, status)
        # a right side that is no number does not show in the factorisation
        lost = ~trees.finite(solved) if off is None else ~(trees.finite(solved) & off.isfinite())
        status = torch.where(lost, status.clamp(min=int(Status.DIVERGED)), status)
        if off is not None and isinstance(oracles.problem.head_set, Everywhere):
            residual = off
        else:
            residual = system.gradient_norm(_numbers(solved, None if off is None else head))
        kept = factor if self.exact else None  # averages are no Hessian of g
        return HeadSolution(solved, residual, status, state, kept)

    @property
    def knows_tasks(self) -> bool:
        """Averages over the batches of a task would be averages over one and the same rows."""
        return self.exact

    @property
    @override
    def uses_batch(self) -> bool:
        return self.data.uses_batch

    @property
    def exact(self) -> bool:
        """Of the g of its rows; running averages have an answer of their own."""
        return not isinstance(self.data, RunningData)

    @property
    def cost(self) -> Cost:
        """One exact solve; a pass through all rows unless it is on the batch."""
        return Cost(solves=1, passes=0 if self.uses_batch else 1)

    @staticmethod
    def _constrain(head_set: ConvexSet, head: Tree, status: Tensor) -> tuple[Tree, Tensor]:
        """Project onto the head set: exact for one number, else inexact, which is reported."""
        if isinstance(head_set, Everywhere):
            return head, status
        projected = head_set.project(head)
        moved = trees.norm(trees.tree_map(torch.sub, projected, head))
        outside = moved > 10 * torch.finfo(moved.dtype).eps * trees.norm(head)
        if trees.flatten(head).shape[1] > 1:
            # a code that is worse stays
            status = torch.where(outside, status.clamp(min=int(Status.OUTSIDE_SET)), status)
        return projected, status


def _numbers(solved: Tree, start: Tree | None) -> Tensor:
    """What the system solves for, (R, m, K): a linear head, or the way to another from `start`."""
    if start is None:
        theta: Tensor = solved.double()
        return theta if theta.ndim == 3 else theta.unsqueeze(2)
    step = trees.tree_map(lambda a, b: a.double() - b.double(), solved, start)
    return trees.flatten(step).unsqueeze(2)
