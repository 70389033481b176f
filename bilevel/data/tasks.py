"""Groups of tasks: what the data of a problem with a head for each task must look like.

The group "test" may be rows of the same tasks, or a dict of groups: those of new tasks, "train" to
find their heads and "test" to judge them.
"""

from torch import Tensor

from bilevel import trees
from bilevel.core.arrays import tensor_of
from bilevel.core.checks import check_flag
from bilevel.errors import DataError, IncompatibleError, ShapeError
from bilevel.problem.base import Batch, Groups, StackelbergProblem
from bilevel.problem.linear_head import LinearHeadProblem


def has_tasks(problem: StackelbergProblem) -> bool:
    """Whether a problem has a head for each task.

    Raises:
        ArgumentError: `tasks` of a linear head problem is neither True nor False.
        IncompatibleError: the heads of a problem with `tasks = True` are not linear in features.
    """
    if isinstance(problem, LinearHeadProblem):
        check_flag(problem.tasks, "tasks")  # their number is the first dimension of the data
        return bool(problem.tasks)
    if getattr(problem, "tasks", False) is True:
        raise IncompatibleError(
            f"{type(problem).__name__} sets `tasks = True`, which a LinearHeadProblem knows: a "
            "head for each task. Make it one, or let `head_objective` be the average over tasks, "
            "whose heads are the rows of one head."
        )
    return False


def by_tasks(groups: Groups) -> list[Groups]:
    """The groups of the tasks, and those of new tasks if there are any."""
    if not isinstance(groups.get("test"), dict):
        return [groups]
    known = {name: group for name, group in groups.items() if name != "test"}
    return [known, groups["test"]]


def check_tasks(groups: Groups) -> None:
    """Check that all leaves have a task axis before that of the rows.

    Raises:
        DataError: new tasks lack a group.
        ShapeError: a leaf is not (T, n, ...), or T differs.
    """
    for some in by_tasks(groups):
        if some is groups.get("test") and set(some) != {"train", "test"}:
            raise DataError(
                'data["test"] of new tasks is a dict of "train", the rows that their heads are '
                f'found on, and "test", those that judge them; got {sorted(some)}.'
            )
        tasks = {}
        for name, group in some.items():
            rows = {}
            for path, leaf in trees.named_leaves(group):
                where = f'data["{name}"]{path}'
                if leaf.ndim < 2 or not leaf.shape[1]:
                    raise ShapeError(
                        f"{where} must have the shape (T, n, ...), n rows for each of T tasks, got "
                        f"{tuple(leaf.shape)}."
                    )
                tasks[where], rows[where] = leaf.shape[:2]
            if len(set(rows.values())) > 1:
                raise ShapeError(f'The leaves of data["{name}"] differ in their rows: {rows}.')
        if len(set(tasks.values())) > 1:
            raise ShapeError(f"Groups differ in their number of tasks: {tasks}.")


def new_task(problem: StackelbergProblem, inputs: Tensor, targets: Tensor) -> tuple[Groups, bool]:
    """Rows of new tasks as groups, and whether it is one task, whose axis is added.

    Raises:
        IncompatibleError: the problem has no tasks.
        ShapeError: inputs and targets are not of the same rows.
    """
    if not isinstance(problem, LinearHeadProblem) or not problem.tasks:
        raise IncompatibleError(
            f"{type(problem).__name__} has no tasks to adapt to: `best_response` with `batch=` "
            "finds the head for other rows."
        )
    inputs, targets = tensor_of(inputs, "inputs"), tensor_of(targets, "targets")
    by_output = problem.outputs is not None and targets.is_floating_point()  # no labels
    alone = targets.ndim == 1 or (by_output and targets.ndim == 2)
    axes = 1 if alone else 2
    if inputs.shape[:axes] != targets.shape[:axes]:
        raise ShapeError(
            f"`inputs` {tuple(inputs.shape)} and `targets` {tuple(targets.shape)} must be of the "
            "same rows: (n, ...) of one task, (T, n, ...) of several."
        )
    if alone:
        inputs, targets = inputs.unsqueeze(0), targets.unsqueeze(0)
    return {"train": Batch(inputs, targets)}, alone
