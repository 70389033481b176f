"""Functions of one body, one head and its rows, for all heads of R runs at once."""

from collections.abc import Callable
from typing import Any

from torch.func import vmap

from bilevel import trees
from bilevel.data.rows import Rows
from bilevel.trees import Tree


def over_heads(
    function: Callable[..., Any], body: Tree, head: Tree, rows: Rows, *, mapped: bool = True
) -> Any:
    """What a function gives for each head, (H, ...): of each run, or of each of its tasks.

    Args:
        function: of one body, one head and the groups of one run, or of one task.
        body: leaves (R, ...).
        head: leaves (H, ...), one run after the other; () for functions that look at none.
        rows: of the runs.
        mapped: whether a single run is mapped too; False: the function is called as it is, which
            takes a third of the time where tensors are small.
    """
    if not mapped and not rows.of_tasks and runs_of(body) == 1:
        one = (trees.take(level, 0) for level in (body, head))
        return trees.single(function(*one, rows.of_run(0)))
    if not rows.of_tasks and rows.in_dims is None:  # what all share need not be taken apart
        groups = rows.groups
        return vmap(lambda *levels: function(*levels, groups))(body, head)
    if not rows.of_tasks:
        return vmap(function, in_dims=(0, 0, rows.in_dims))(body, head, rows.groups)
    of_body = vmap(function, in_dims=(None, 0, rows.task_dims))
    runs = runs_of(body)
    if runs == 1:  # the body of all tasks, as it is: one mapping less
        return of_body(trees.take(body, 0), head, rows.of_run(0))
    of_runs = vmap(of_body, in_dims=(0, 0, rows.in_dims))
    return trees.fold(of_runs(body, trees.unfold(head, runs), rows.groups))


def averaged(body: Tree, head: Tree) -> Tree:
    """Sums over the heads of a body, divided by their number."""
    share = runs_of(body) / runs_of(head)
    return body if share == 1 else trees.tree_map(lambda leaf: leaf * share, body)


def runs_of(tree: Tree) -> int:
    """How many runs, or heads, there are."""
    return len(trees.leaves(tree)[0])
