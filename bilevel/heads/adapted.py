"""Heads of new tasks."""

from torch import Tensor

from bilevel import trees
from bilevel.core.checks import check_instance
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.assembly import Assembly
from bilevel.errors import IncompatibleError
from bilevel.heads.base import AbstractHeadSolver, HeadSolution
from bilevel.heads.default import default_solver
from bilevel.problem.base import Batch, StackelbergProblem
from bilevel.problem.linear_head import LinearHeadProblem
from bilevel.trees import Tree


def adapted(
    problem: StackelbergProblem,
    body: Tree,
    inputs: Tensor,
    targets: Tensor,
    solver: AbstractHeadSolver | None = None,
) -> HeadSolution:
    """The heads of one new task for each of R bodies.

    Args:
        problem: with `tasks`.
        body: leaves (R, ...).
        inputs: (n, ...), the rows that are known of the task.
        targets: (n,) or (n, K).
        solver: None: what is exact for the heads; else one that starts at the problem's
            `head_start`, or else at a head of `init_head`.

    Raises:
        IncompatibleError: the problem has no tasks, or the solver does not fit.
    """
    if not isinstance(problem, LinearHeadProblem) or not problem.tasks:
        raise IncompatibleError(
            f"{type(problem).__name__} has no tasks to adapt to: `best_response` with `batch=` "
            "finds the head for other rows."
        )
    solver = default_solver(problem) if solver is None else solver
    check_instance(solver, AbstractHeadSolver, "solver", "ClosedForm()")
    solver.check(problem)
    like = trees.leaves(body)[0]
    task = {"train": Batch(inputs.unsqueeze(0), targets.unsqueeze(0))}
    data = TrainingData(problem, [0] * len(like), like.dtype, like.device, groups=task)
    made = Assembly.of(data)
    rows, oracles = made.sampler.full, made.oracles
    start = oracles.head_start(body, made.heads)
    at = (oracles, body, made.heads if start is None else start, rows)
    return solver.solve(*at, solver.init(*at), 0)
