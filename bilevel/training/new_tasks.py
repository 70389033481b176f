"""How well heads of new tasks do, which the body was not trained on."""

import dataclasses

import torch
from torch import Tensor

from bilevel import trees
from bilevel.derivatives.oracles import Oracles
from bilevel.data.rows import Rows
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

    def metrics(self, oracles: Oracles, body: Tree, head: Tree, rows: Rows) -> dict[str, Tensor]:
        """Their metrics on the rows "test", each (R,); NaN where a head cannot be found.

        Args:
            oracles: of the problem.
            body: leaves (R, ...), float64.
            head: the part of `self.head` for these runs.
            rows: of the new tasks of these runs.
        """
        runs, head = len(trees.leaves(body)[0]), trees.fold(head)
        known = rows.without("test")
        try:
            memory = self.solver.init(oracles, body, head, known)
            start = self.solver.start(oracles, body, head, memory)
            head = self.solver.solve(oracles, body, start, known, memory, 0).head
        except SingularHeadError:
            head = trees.tree_map(lambda leaf: torch.full_like(leaf, torch.nan), head)
        found = oracles.metrics(body, head, rows)
        judged = {name: x for name, x in found.items() if name.startswith("test_")}
        return {name: value.reshape(runs, -1).mean(1) for name, value in judged.items()}
