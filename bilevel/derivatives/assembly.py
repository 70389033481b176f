"""What R runs of a problem are computed with, put together in one place."""

import copy
import dataclasses

import torch

from bilevel import trees
from bilevel.core.generators import generator
from bilevel.core.progress import RowCallback
from bilevel.data.draws import Sampling
from bilevel.data.experience import Experienced
from bilevel.data.known import Known
from bilevel.data.sampler import BatchSize, Sampler
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.head_point import HeadPoint
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import ProblemError
from bilevel.trees import Tree


@dataclasses.dataclass(frozen=True, eq=False)
class Assembly:
    """R runs of a problem before their first step.

    Attributes:
        oracles: of the problem.
        data: of the runs.
        sampler: of the rows of their steps.
        body: the initial bodies, in their set, leaves (R, ...).
        head: the initial heads, likewise; (R, T, ...) with tasks.
    """

    oracles: Oracles
    data: TrainingData
    sampler: Sampler
    body: Tree
    head: Tree

    @property
    def heads(self) -> Tree:
        """The initial heads as the oracles take them: with tasks (R T, ...)."""
        return trees.fold(self.head) if self.data.tasks else self.head

    def moved(self, body: Tree) -> "Assembly":
        """The same runs at other bodies."""
        return dataclasses.replace(self, body=body)

    def apart(self) -> "Assembly":
        """Each task of all runs as a run of its own, with a body of its own, on all its rows."""
        at = HeadPoint(self.oracles, self.body, self.heads, self.sampler.full).apart
        sampler = copy.copy(self.sampler)
        sampler.full = at.rows
        return Assembly(at.oracles, self.data, sampler, at.body, at.head)

    @classmethod
    def of(
        cls,
        data: TrainingData,
        batch_size: BatchSize = None,
        sampling: Sampling = "iid",
        *,
        report: RowCallback | None = None,
        mapped: bool = True,
        known: Known | None = None,
        body: Tree = None,
    ) -> "Assembly":
        """Oracles, rows and initial points of the runs that `data` are for.

        Args:
            data: with the problem that they are of.
            batch_size: see `Sampler`.
            sampling: likewise.
            report: see `Oracles`.
            mapped: likewise.
            known: of the problem, from earlier calls at a point.
            body: bodies that are known to fit the problem; None: the initial ones.

        Raises:
            ArgumentError: see `Sampler`.
            ShapeError: a set does not fit its points, or these differ in shape between seeds.
            ProblemError: an initial point is no tree of finite numbers, or not the seed's alone.
        """
        oracles = Oracles(data.problem, report, mapped=mapped)
        groups = tuple(data.groups) if data.given else oracles.sampled_groups
        sampler = Sampler(data, None if data.online else batch_size, groups, sampling)
        oracles.known = known
        body = _initial(data, "body") if body is None else body
        if known is None:
            head = _initial(data, "head")
        else:
            head = trees.tree_map(torch.clone, _known_head(data, known))
        if data.online:
            sampler = Experienced(data, body, head)
        return cls(oracles, data, sampler, body, head)


def _known_head(data: TrainingData, known: Known) -> Tree:
    """The initial heads, looked at and moved once, as long as `init_head` draws the same."""
    # what it draws from, a network or an array, need not be an attribute that tells its changes
    drawn = data.problem.init_head(generator(data.distinct[0], "head"))
    found = known.of_equal("head", drawn)
    if found is not None:
        return found
    trees.check(drawn, "init_head()", ProblemError)
    found = _initial(data, "head")
    known.note_equal("head", drawn, found)
    return found


def _initial(data: TrainingData, level: str) -> Tree:
    """The initial points of all runs, projected onto their set; a head for each task."""
    draw = getattr(data.problem, f"init_{level}")
    convex = getattr(data.problem, f"{level}_set")
    if not (data.tasks and level == "head"):
        points = data.initial(draw, level)
        convex.check(trees.take(points, 0))
        return convex.project(points)
    points = trees.fold(heads_of_tasks(data, data.sizes["train"]))
    convex.check(trees.take(points, 0))
    return trees.unfold(convex.project(points), len(data.seeds))


def heads_of_tasks(data: TrainingData, tasks: int) -> Tree:
    """Heads as `init_head` draws them, one task after the other, leaves (R, T, ...)."""
    draw = data.problem.init_head
    return data.initial(lambda g: trees.stack([draw(g) for _ in range(tasks)]), "head")
