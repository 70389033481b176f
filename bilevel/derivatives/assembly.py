"""What R runs of a problem are computed with, put together in one place."""

import dataclasses

from bilevel import trees
from bilevel.core.progress import RowCallback
from bilevel.data.draws import Sampling
from bilevel.data.sampler import BatchSize, Sampler
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.oracles import Oracles
from bilevel.trees import Tree


@dataclasses.dataclass(frozen=True, eq=False)
class Assembly:
    """R runs of a problem before their first step.

    Attributes:
        oracles: of the problem.
        data: of the runs.
        sampler: of the rows of their steps.
        body: the initial bodies, in their set, leaves (R, ...).
        head: the initial heads, likewise.
    """

    oracles: Oracles
    data: TrainingData
    sampler: Sampler
    body: Tree
    head: Tree

    @classmethod
    def of(
        cls,
        data: TrainingData,
        batch_size: BatchSize = None,
        sampling: Sampling = "iid",
        *,
        report: RowCallback | None = None,
    ) -> "Assembly":
        """Oracles, rows and initial points of the runs that `data` are for.

        Args:
            data: with the problem that they are of.
            batch_size: see `Sampler`.
            sampling: likewise.
            report: see `Oracles`.

        Raises:
            ArgumentError: see `Sampler`.
            ShapeError: a set does not fit its points, or these differ in shape between seeds.
            ProblemError: an initial point is no tree of finite numbers, or not the seed's alone.
        """
        oracles = Oracles(data.problem, report)
        groups = tuple(data.groups) if data.given else oracles.sampled_groups
        sampler = Sampler(data, batch_size, groups, sampling)
        body, head = (_initial(data, level) for level in ("body", "head"))
        return cls(oracles, data, sampler, body, head)


def _initial(data: TrainingData, level: str) -> Tree:
    """The initial points of all runs, projected onto their set."""
    points = data.initial(getattr(data.problem, f"init_{level}"), level)
    convex = getattr(data.problem, f"{level}_set")
    convex.check(trees.take(points, 0))
    return convex.project(points)
