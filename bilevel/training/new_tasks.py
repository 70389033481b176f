"""How well heads of new tasks do, which the body was not trained on."""

import dataclasses

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core import parts
from bilevel.data.rows import Rows
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.assembly import heads_of_tasks
from bilevel.derivatives.head_point import HeadPoint
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import SingularHeadError
from bilevel.heads import AbstractHeadSolver
from bilevel.trees import Tree


@dataclasses.dataclass(frozen=True, eq=False)
class NewTasks:
    """New tasks, and how their heads are found at a record.

    Args:
        solver: of the heads, on the rows "train" of each.
        head: where it starts, leaves (R, T, ...), float64.
    """

    solver: AbstractHeadSolver
    head: Tree

    @classmethod
    def of(cls, data: TrainingData, solver: AbstractHeadSolver) -> "NewTasks | None":
        """Those of the data; None: there are none."""
        if data.new_tasks(torch.float64) is None:
            return None
        head = heads_of_tasks(data, data.sizes["test"])
        return cls(solver, trees.cast(head, torch.float64))

    def metrics(self, oracles: Oracles, body: Tree, rows: Rows, part: slice) -> dict[str, Tensor]:
        """Their metrics on the rows "test", each (R,); NaN where a head cannot be found.

        Args:
            oracles: of the problem.
            body: leaves (R, ...), float64.
            rows: of the new tasks of these runs.
            part: which of the runs they are.
        """
        like, head = trees.leaves(body)[0], trees.fold(trees.part(self.head, part))
        at = HeadPoint(oracles, body, head, rows.without("test"))
        solver = parts.part(self.solver, part, like.dtype, like.device)
        try:
            head = heads_at(at, solver)
        except SingularHeadError:
            head = trees.tree_map(lambda leaf: torch.full_like(leaf, torch.nan), head)
        found = oracles.metrics(body, head, rows)
        judged = {name: x for name, x in found.items() if name.startswith("test_")}
        return {name: value.reshape(len(like), -1).mean(1) for name, value in judged.items()}


def heads_at(point: HeadPoint, solver: AbstractHeadSolver) -> Tree:
    """The heads that a solver finds for new tasks, starting from those of the point."""
    at = (point.oracles, point.body)
    memory = solver.init(*at, point.head, point.rows)
    start = solver.start(*at, point.head, memory)
    return solver.solve(*at, start, point.rows, memory, 0).head
