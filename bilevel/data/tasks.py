"""Groups of tasks: what the data of a problem with a head for each task must look like.

The group "test" may be rows of the same tasks, or a dict of groups: those of new tasks, "train" to
find their heads and "test" to judge them.
"""

from bilevel import trees
from bilevel.errors import DataError, ShapeError
from bilevel.problem.base import Groups


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
