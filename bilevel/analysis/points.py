"""The points that an analysis looks at: where the runs of a training stood at some steps."""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.checks import check_instance, check_positive_integer, float_type
from bilevel.core.graph import ordinary
from bilevel.core.status import Status
from bilevel.data.draws import Sampling
from bilevel.data.sampler import BatchSize
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.assembly import Assembly
from bilevel.derivatives.head_point import HeadPoint
from bilevel.errors import ArgumentError, IncompatibleError, spell
from bilevel.heads.base import HeadSolution
from bilevel.heads.default import default_solver
from bilevel.problem.base import StackelbergProblem
from bilevel.strategies import AbstractStrategy
from bilevel.training.arguments import check_strategy, seed_list
from bilevel.training.solution import Solution
from bilevel.training.training import Training
from bilevel.trees import Tree

MOST_STEPS_LOOKED_AT = 1000


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Iterates:
    """Bodies and heads of R runs at some steps of their training, made by `iterates`.

    Attributes:
        problem: what was solved.
        seeds: the seed of each run.
        steps: the numbers of the steps, ascending.
        bodies: for each of them the bodies, leaves (R, ...).
        heads: likewise.
        status: what became of each run, R members of `Status`.

    Examples:
        >>> import bilevel
        >>> from bilevel import analysis
        >>> from problems.toy import ScalarProduct
        >>> solution = bilevel.solve(ScalarProduct(), bilevel.uniform(0.1), steps=5, seeds=2)
        >>> analysis.Iterates.of(solution).steps
        (5,)
    """

    problem: StackelbergProblem
    seeds: tuple[int, ...]
    steps: tuple[int, ...]
    bodies: tuple[Tree, ...]
    heads: tuple[Tree, ...]
    status: tuple[Status, ...]

    @classmethod
    def of(cls, solution: Solution) -> "Iterates":
        """The point where a training ended, as the only one.

        Args:
            solution: of `bilevel.solve`.

        Raises:
            ArgumentError: it is none.
        """
        check_instance(solution, Solution, "solution", "what `solve` returns")
        at = (solution.state.step,), (solution.body,), (solution.head,)
        return cls(solution.problem, solution.seeds, *at, solution.status)

    @functools.cached_property
    def assembly(self) -> Assembly:
        """All rows of all runs, float64, with the oracles that look at them.

        Raises:
            IncompatibleError: the problem has heads of tasks.
        """
        device = trees.leaves(self.bodies[0])[0].device
        data = TrainingData(self.problem, self.seeds, torch.float64, device, chunked=False)
        if data.tasks:
            raise IncompatibleError(
                f"{type(self.problem).__name__} has a head for each task. Landscapes and "
                "curvatures are those of one head."
            )
        return Assembly.of(data)


def point_of(
    points: Iterates, number: int, runs: Sequence[int] | None = None
) -> tuple[HeadPoint, Tensor]:
    """The heads at their bodies at one of the steps, on all rows, float64.

    Args:
        points: of `iterates`.
        number: which of the steps.
        runs: which of the runs; None: all.

    Returns:
        The point; and which of its runs are usable, (R,). Initial points stand in the place of
        others, which diverged.
    """
    made = points.assembly
    at = HeadPoint(made.oracles, made.body, made.head, made.sampler.full)
    body, head = (
        trees.cast(level[number], torch.float64) for level in (points.bodies, points.heads)
    )
    usable = trees.finite(body) & trees.finite(head)
    body, head = trees.where(usable, body, at.body), trees.where(usable, head, at.head)
    at = dataclasses.replace(at, body=body, head=head)
    if runs is None:
        return at, usable
    return at.take(list(runs)), usable[list(runs)]


def answered(point: HeadPoint) -> HeadSolution:
    """The best responses to the bodies of a point, from its heads, by what is exact for them."""
    solver = default_solver(point.problem)
    solver.check(point.problem)
    at = point.oracles, point.body
    memory = solver.init(*at, point.head, point.rows)
    start = solver.start(*at, point.head, memory)
    return solver.solve(*at, start, point.rows, memory, 0)


def failed(found: HeadSolution) -> Tensor:
    """The runs whose heads must not be used, (R,)."""
    codes = [Status(code).failed for code in found.status.tolist()]
    return torch.tensor(codes, device=found.status.device) | ~trees.finite(found.head)


@ordinary()
def iterates(
    problem: StackelbergProblem,
    strategy: AbstractStrategy,
    *,
    at: Sequence[int] = (0, 10, 50, 200, 1000),
    batch_size: BatchSize = 64,
    seeds: int | Sequence[int] = 20,
    sampling: Sampling = "iid",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Iterates:
    """Train, and keep where all runs stood at some steps: what `landscape` and `curvature` look at.

    Args:
        problem: the problem.
        strategy: how the levels move.
        at: numbers of steps, distinct; 0 is the start.
        batch_size: see `bilevel.solve`.
        seeds: a count, or the seeds themselves.
        sampling: see `bilevel.solve`.
        device: likewise.
        dtype: of the training; what looks at the points does so in float64.

    Returns:
        The points, by their steps. A run that diverged stays where it was found to have.

    Raises:
        BilevelError: bad arguments, data or problems, before the training starts.

    Examples:
        >>> import bilevel
        >>> from bilevel import analysis
        >>> from problems.toy import scalar_product
        >>> strategy = bilevel.TwoTimescale(0.05, 0.2, bilevel.SGD())
        >>> found = analysis.iterates(scalar_product(), strategy, at=(0, 100), seeds=3)
        >>> [tuple(body.shape) for body in found.bodies]
        [(3,), (3,)]
    """
    steps = steps_of(at)
    data = TrainingData(problem, seed_list(seeds), float_type(dtype), device)
    check_strategy(strategy, len(data.seeds))
    training = Training(strategy.fitted(problem), data, batch_size, sampling)
    kept = [whole(training.run(steps[: count + 1])) for count in range(len(steps))]
    return Iterates(
        problem,
        tuple(data.seeds),
        steps,
        tuple(one.body for one in kept),
        tuple(one.head for one in kept),
        kept[-1].status,
    )


def whole(solution: Solution) -> Solution:
    """A solution, but Ctrl-C where it ended the training early: its last point is another one."""
    if Status.INTERRUPTED in solution.status:
        raise KeyboardInterrupt
    return solution


def steps_of(at: Sequence[int]) -> tuple[int, ...]:
    """The numbers of steps in order, checked."""
    try:
        given = list(itertools.islice(at, MOST_STEPS_LOOKED_AT + 1))
    except TypeError:
        given = []
    if isinstance(at, str) or not 0 < len(given) <= MOST_STEPS_LOOKED_AT:
        raise ArgumentError(
            f"`at` must be 1 to {MOST_STEPS_LOOKED_AT} numbers of steps, such as (0, 10, 50), got "
            f"{spell(at)}."
        )
    for step in given:
        check_positive_integer(step, "Each step of `at`", zero_allowed=True)
    if len(set(given)) < len(given):
        raise ArgumentError(f"The steps of `at` must be distinct, got {spell(at)}.")
    return tuple(sorted(int(step) for step in given))
