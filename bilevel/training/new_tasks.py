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
from bilevel.errors import BilevelError, ProblemError, SingularHeadError
from bilevel.heads import AbstractHeadSolver
from bilevel.problem.base import StackelbergProblem
from bilevel.strategies import AbstractStrategy
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
    def of(cls, data: TrainingData, strategy: AbstractStrategy) -> "NewTasks | None":
        """Those of the data, and how a strategy finds their heads; None: there are none."""
        if data.new_tasks(torch.float64) is None:
            return None
        head = heads_of_tasks(data, data.sizes["test"])
        return cls(strategy.adapter(data.problem), trees.cast(head, torch.float64))

    def heads(self, part: slice) -> Tree:
        """Where the solver starts in some of the runs, one task after the other."""
        return trees.fold(trees.part(self.head, part))

    def metrics(self, at: HeadPoint, rows: Rows, part: slice) -> dict[str, Tensor]:
        """Their metrics on the rows "test", each (R,); NaN in runs where a head cannot be found.

        Args:
            at: `heads`, their bodies, and the rows that g is meant on, float64.
            rows: of all groups of these runs.
            part: which of the runs they are.

        Raises:
            ProblemError: functions of the problem do not fit these rows.
        """
        name, head = type(at.problem).__name__, at.head
        like = trees.leaves(at.body)[0]
        runs, solver = len(like), parts.part(self.solver, part, like)
        try:
            head = heads_at(at, solver)
        except SingularHeadError:
            if runs > 1:
                apart = [self._of_run(at, rows, part, run) for run in range(runs)]
                return {name: torch.cat([one[name] for one in apart]) for name in apart[0]}
            head = trees.tree_map(lambda leaf: torch.full_like(leaf, torch.nan), head)
        except BilevelError:
            raise
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ProblemError(
                f'The heads of the new tasks in data["test"] of {name} cannot be found from their '
                'rows "train", which must be of the form of data["train"]; there is no other group '
                f"for them. Found: {type(error).__name__}: {error}"
            ) from error
        try:
            found = at.oracles.metrics(at.body, head, rows)
        except BilevelError:
            raise
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise asked_twice(at.problem, error) from error
        judged = {metric: x for metric, x in found.items() if str(metric).startswith("test_")}
        for metric, value in judged.items():
            if value.shape != trees.leaves(head)[0].shape[:1]:
                raise ProblemError(
                    f"`metrics` of {name} must return 0-dim tensors, but {metric!r} of a new task "
                    f"is {tuple(value.shape[1:])}."
                )
        return {metric: value.reshape(runs, -1).mean(1) for metric, value in judged.items()}

    def _of_run(self, at: HeadPoint, rows: Rows, part: slice, run: int) -> dict[str, Tensor]:
        """The metrics of one of the runs."""
        one, place = slice(run, run + 1), (part.start or 0) + run
        where = slice(place, place + 1)
        body, of_run = trees.part(at.body, one), at.rows.take(one)
        alone = HeadPoint(at.oracles, body, self.heads(where), of_run)
        return self.metrics(alone, rows.take(one), where)


def asked_twice(problem: StackelbergProblem, error: Exception) -> ProblemError:
    """What is said where `metrics` does not know what to do without a group."""
    return ProblemError(
        f"`metrics` of {type(problem).__name__} is asked twice: for the tasks, without the group "
        '"test", and for the new tasks in data["test"], with their "train" and "test" alone. It '
        f'must return what it can, `if "test" in data`. Found: {type(error).__name__}: {error}'
    )


def heads_at(point: HeadPoint, solver: AbstractHeadSolver) -> Tree:
    """The heads that a solver finds for new tasks, starting from those of the point."""
    point = point if solver.knows_tasks else point.apart
    at = (point.oracles, point.body)
    memory = solver.init(*at, point.head, point.rows)
    start = solver.start(*at, point.head, memory)
    return solver.solve(*at, start, point.rows, memory, 0).head
