"""The exact head of an objective that is not quadratic."""

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from bilevel import trees
from bilevel.core.checks import Number, check_positive_integer, positive
from bilevel.core.cost import Cost
from bilevel.core.status import Status
from bilevel.data.rows import Rows
from bilevel.derivatives.head_point import HeadPoint
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import IncompatibleError
from bilevel.heads.base import AbstractHeadSolver, HeadSolution
from bilevel.heads.newton.descent import Descent
from bilevel.heads.objectives.base import general_blocks
from bilevel.heads.objectives.known import interacts
from bilevel.heads.objectives.linear import count_blocks
from bilevel.heads.objectives.view import head_view, targets_of, told_by_features
from bilevel.heads.quadratic import all_penalised, quadratic_system, refuse_singular
from bilevel.linear.factor import BlockFactor
from bilevel.problem.base import StackelbergProblem
from bilevel.problem.linear_head import LinearHeadProblem
from bilevel.problem.sets import Everywhere
from bilevel.trees import Tree


class NewtonState(NamedTuple):
    """What is kept from one solve to the next."""

    factor: BlockFactor  # of the last Hessian
    predictions: Tensor  # of the last heads at their body; float32, 0 for runs that failed


@dataclasses.dataclass(frozen=True, eq=False)
class Newton(AbstractHeadSolver):
    r"""The exact head by damped Newton steps on all training rows.

    $$
    \theta \leftarrow \theta - t H^{-1} \partial_\theta g
    \quad\text{until}\quad \max |\partial_\theta g| \le \text{tolerance}
    $$

    In float64 whatever the training's type. The factor of H is
    kept, also from one body to the next: it is made anew where a step by it leaves more than a
    quarter of the gradient, or more than half where a factor costs as much as many steps. The first
    time that the gradient grows, or a step of a new factor falls short, the run starts again where
    g is less: from the head that comes nearest to what the last head predicted at the last body, or
    from a smaller one. Where a step of a new factor falls short, it is halved until g decreases.
    Each run decides for itself.

    For a linear head with a criterion of known curvature (`LogisticLoss`, `SoftmaxLoss`,
    `HuberLoss`, your own) H comes from the features: M x M, or M K x M K where outputs interact; a
    large one is made in float32, which changes the path but not where it ends. Blocks of H beyond
    2,048 x 2,048 are not formed: conjugate gradients use products with H, preconditioned by smaller
    diagonal blocks or, where outputs interact, by their mean curvature times the Gram matrix of the
    features (a Kronecker product, whose factor is small). Any other head takes
    `Oracles.head_hessian`, or products above 1,024 numbers.

    Where features lie far from zero beside an unpenalised bias, they are counted from their means.

    With an unpenalised bias `SoftmaxLoss` determines the biases of the classes but for their sum,
    which is made zero.

    Args:
        tolerance: of the largest entry of $\partial_\theta g$; a number or (R,) numbers. A run that
            cannot reach it for rounding converges too, as near as it gets. With 1e-9 or less, a
            solve that factored goes on to a hundredth of it, which then costs little.
        max_steps: the most steps of one solve.

    Raises:
        ArgumentError: `tolerance` or `max_steps` is not positive.
        IncompatibleError: there is a set of heads.
        SingularHeadError: the features do not determine the head at an initial point.

    Source: Boyd and Vandenberghe, Convex Optimization (2004), section 9.5.2. Differs from the
    source in: 1. old factors are used again (the chord method), 2. steps that shrink the gradient
    by a factor of four are taken without looking at g, 3. where H is singular, a majorant that the
    criterion knows takes its place, its steps doubled while g falls on, 4. a run may start from
    another head than the last, 5. an old factor is corrected by secants.

    Examples:
        >>> import bilevel
        >>> from problems.classification import breast_cancer
        >>> strategy = bilevel.BestResponse(5e-4, bilevel.Newton())
        >>> solution = bilevel.solve(breast_cancer(width=8), strategy, steps=20, seeds=2)
        >>> [status.name for status in solution.status]
        ['COMPLETED', 'COMPLETED']
    """

    tolerance: Number = 1e-10
    max_steps: int = 100
    exact, draws, cost = True, False, Cost(solves=1, passes=1)
    knows_tasks = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "tolerance", positive(self.tolerance, "`tolerance`"))
        check_positive_integer(self.max_steps, "`max_steps`")

    @override
    def check(self, problem: StackelbergProblem) -> None:
        if not isinstance(problem.head_set, Everywhere):
            raise IncompatibleError(
                f"Newton knows no sets of heads, but {type(problem).__name__} has `head_set` = "
                f"{problem.head_set}. Use ProjectedNewton() for bounds; Cvxpy() or "
                "FastSGD(lr, steps) for other sets."
            )

    def init(self, oracles: Oracles, body: Tree, head: Tree, rows: Rows) -> NewtonState:
        """No factor yet; check that the features of a linear head determine it."""
        point = HeadPoint(oracles, body, head, rows.full)
        if isinstance(oracles.problem, LinearHeadProblem) and not all_penalised(point):
            refuse_singular(quadratic_system(point, penalised=False), point)
        return _nothing_known(oracles.problem, head, rows.full)

    def solve(
        self, oracles: Oracles, body: Tree, head: Tree, rows: Rows, state: NewtonState, k: int
    ) -> HeadSolution:
        """From the last heads, by the last factors."""
        view = head_view(HeadPoint(oracles, body, head, rows.full))
        objective, dtype = view.objective, trees.leaves(head)[0].dtype
        resolution = 0.0 if dtype == torch.float64 else 0.5 * torch.finfo(dtype).eps
        start = objective.at(view.vector(head))
        tolerance = trees.per_run(self.tolerance, start.size)
        descent = Descent(objective, start, *state, tolerance, self.max_steps, resolution)
        found = descent.run()
        slope = found.place.slope
        if resolution:  # what is returned is rounded
            rounded = trees.cast(view.head(found.place.point), dtype)
            slope = objective.at(view.vector(rounded)).slope
        failed = found.status >= int(Status.DIVERGED)
        point = found.place.point.masked_fill(failed.unsqueeze(1), torch.nan)
        answer = trees.cast(view.head(point), dtype)
        # the way of a run that failed leads nowhere
        usable = found.factor.usable & ~failed
        made = found.place.predictions.float()
        predictions = made.masked_fill(failed.reshape(-1, *[1] * (made.ndim - 1)), 0.0)
        state = NewtonState(found.factor._replace(usable=usable), predictions)
        residual = trees.norm(view.slope(slope))
        return HeadSolution(answer, residual, found.status, state, found.factor)


def _nothing_known(problem: StackelbergProblem, head: Tree, rows: Rows) -> NewtonState:
    """No factor and predictions of zero, in the shapes of the objective."""
    vectors = trees.flatten(trees.cast(head, torch.float64))
    blocks, predictions = general_blocks(vectors.shape[1]), vectors[:, :0].float()
    if told_by_features(problem, rows):
        outputs = problem.outputs or 1
        interacting = interacts(problem.criterion, problem.outputs, targets_of(rows))
        blocks = count_blocks(head.shape[1], outputs, interacting)
        predictions = predictions.new_zeros(len(vectors), rows.count, outputs)
    return NewtonState(BlockFactor.none(vectors, blocks), predictions)
