"""Rows for R runs: all at once, or the training rows in chunks.

g of a linear head is an average over its training rows, plus terms that know none of them. On all
rows it is therefore the sum of g on chunks of them, each times its share of the rows, and so are
its derivatives. Chunks are cut out, cast and moved one after the other, so that a memory map is
never read as a whole.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.checks import check_positive_integer
from bilevel.core.progress import RowCallback
from bilevel.errors import IncompatibleError
from bilevel.problem.base import Groups
from bilevel.problem.linear_head import LinearHeadProblem
from bilevel.trees import Tree


class Chunks(NamedTuple):
    """How the training rows are evaluated.

    Attributes:
        rows: how many at once.
        dtype: what they are rounded to before anything else, the type of the training.
    """

    rows: int
    dtype: torch.dtype


class RowSource(Protocol):
    """Where rows come from, for what draws on its own."""

    @property
    def seeds(self) -> Sequence[int]:
        """Of the runs, in order."""

    def initial(self, draw: Callable[[torch.Generator], Tree], stream: str) -> Tree:
        """What `draw` returns for the generator of each run's seed, stacked on the run axis."""

    def more(self, group: str, size: int, j: int) -> "Rows":
        """All rows, but for `group`: `size` of it, drawn for every run with the number `j`."""


def same_rows(one: tuple[Any, Any], other: tuple[Any, Any]) -> bool:
    """Whether two of `Rows.identity` are the same objects."""
    return one[0] is other[0] and one[1] is other[1]


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """Rows for R runs: what the oracles take as their batch.

    Attributes:
        groups: the row groups; leaves (R, n, ...) or, shared by all runs, (n, ...).
        axes: for each group 0 (it has a run axis) or None (it is shared).
        all_rows: the groups with all their rows; None where this is it.
        source: of further rows, for solvers that sample on their own; None where nobody may.
        chunks: None: `groups` are of one type, on one device, and evaluated at once. Otherwise
            "train" is shared, as it was given, and evaluated in chunks.
        of_tasks: whether leaves have a task axis, (R, T, n, ...) or (T, n, ...); noise has none.
        tasks: which tasks of all they are of, (R, B); None: all T.
    """

    groups: Groups
    axes: dict[str, int | None]
    all_rows: "Rows | None" = None
    source: RowSource | None = None
    chunks: Chunks | None = None
    of_tasks: bool = False
    tasks: Tensor | None = None

    @property
    def full(self) -> "Rows":
        """All rows that the heads answer to: those of a task are in each of its batches."""
        return self if self.all_rows is None or self.of_tasks else self.all_rows

    @property
    def identity(self) -> tuple[Any, Any]:
        """What tells features on these rows from others: the rows, and the noise they are under."""
        return self.groups["train"], self.groups.get("noise")

    @property
    def in_dims(self) -> dict[str, int | None] | int | None:
        """The axes as `vmap` wants them; one value for all is quicker for it to digest."""
        distinct = set(self.axes.values())
        return distinct.pop() if len(distinct) == 1 else self.axes

    @property
    def task_dims(self) -> dict[str, int | None]:
        """The task axes of one run."""
        return {name: None if name == "noise" else 0 for name in self.groups}

    @property
    def count(self) -> int:
        """How many training rows there are, of a task if there are tasks; 1 where g has none."""
        if "train" not in self.groups:
            return 1
        axis = (0 if self.axes["train"] is None else 1) + self.of_tasks
        return trees.leaves(self.groups["train"])[0].shape[axis]

    @property
    def parts(self) -> int:
        """In how many chunks they are evaluated."""
        return 1 if self.chunks is None else -(-self.count // self.chunks.rows)

    def of_runs(self, runs: int) -> Groups:
        """The groups with a run axis on all leaves; shared ones are views."""
        return {
            name: group
            if self.axes[name] == 0
            else trees.tree_map(lambda x: x.expand(runs, *x.shape), group)
            for name, group in self.groups.items()
        }

    def of_run(self, run: int) -> Groups:
        """The groups of one run."""
        return {
            name: trees.take(group, run) if self.axes[name] == 0 else group
            for name, group in self.groups.items()
        }

    @property
    def alone(self) -> Groups:
        """The groups of the first run, and of its first task."""
        groups, tasks = self.of_run(0), self.task_dims if self.of_tasks else {}
        return {n: trees.take(g, 0) if tasks.get(n) == 0 else g for n, g in groups.items()}

    def apart(self, runs: int) -> "Rows":
        """Each task of R runs as a run of its own: leaves (R T, n, ...)."""
        if not self.of_tasks:
            return self
        groups = self.of_runs(runs)
        tasks = trees.leaves(groups["train"])[0].shape[1]
        split = {name: trees.fold(group) for name, group in groups.items() if name != "noise"}
        if "noise" in groups:
            split["noise"] = trees.tree_map(
                lambda leaf: leaf.repeat_interleave(tasks, 0), groups["noise"]
            )
        return Rows(split, dict.fromkeys(split, 0))

    def without(self, *names: str) -> "Rows":
        """The same rows without some groups."""
        kept = {name: group for name, group in self.groups.items() if name not in names}
        return dataclasses.replace(self, groups=kept, axes={name: self.axes[name] for name in kept})

    def take(self, index: Tensor | slice) -> "Rows":
        """The same rows for some of the runs (for evaluations: nothing can be sampled from it)."""
        groups = {
            name: group if self.axes[name] is None else trees.tree_map(lambda x: x[index], group)
            for name, group in self.groups.items()
        }
        return Rows(groups, self.axes, chunks=self.chunks, of_tasks=self.of_tasks)

    def cast(self, dtype: torch.dtype) -> "Rows":
        """The same rows in another floating type; chunks are cast when they are evaluated."""
        groups = self.groups if self.chunks is not None else trees.cast(self.groups, dtype)
        return Rows(groups, self.axes, chunks=self.chunks, of_tasks=self.of_tasks)

    def chunk(self, start: int, like: Tensor) -> "Rows":
        """The training rows of one chunk alone, in the type and on the device of `like`."""
        assert self.chunks is not None
        rows = slice(start, start + self.chunks.rows)
        some = trees.cast(trees.part(self.groups["train"], rows), self.chunks.dtype)
        return Rows({"train": trees.cast(some, like.dtype, like.device)}, {"train": None})

    def first(self, body: Tree) -> "Rows":
        """The first chunk and the other groups, to try functions on; all rows if not in chunks."""
        if self.chunks is None:
            return self
        train = self.chunk(0, trees.leaves(body)[0])
        return Rows({**self.whole(body).groups, **train.groups}, self.axes)

    def split(
        self, body: Tree, report: RowCallback | None = None
    ) -> Iterator[tuple[float, "Rows"]]:
        """The chunks, each with its share of the rows, in the type of the bodies."""
        assert self.chunks is not None
        total, like = self.count, trees.leaves(body)[0]
        for start in range(0, total, self.chunks.rows):
            done = min(start + self.chunks.rows, total)
            yield (done - start) / total, self.chunk(start, like)
            if report is not None:
                report(done, total)

    def with_targets(self, body: Tree) -> "Rows":
        """For metrics of predictions: targets in the type of the bodies, inputs as they are."""
        if self.chunks is None:
            return self
        like, groups = trees.leaves(body)[0], {}
        for name, group in self.groups.items():
            targets = trees.cast(group.targets, like.dtype, like.device)
            groups[name] = group._replace(targets=targets)
        return Rows(groups, self.axes)

    def whole(self, body: Tree) -> "Rows":
        """All rows for functions that are no averages over rows; "train" stays as it was given."""
        if self.chunks is None:
            return self
        like = trees.leaves(body)[0]
        rest = trees.cast(self.without("train").groups, like.dtype, like.device)
        return Rows({**self.groups, **rest}, self.axes)


def chunks_of(
    problem: LinearHeadProblem, size: int, groups: Groups, dtype: torch.dtype
) -> Chunks | None:
    """How the training rows are evaluated, `size` at once; None: there are no more than that.

    Raises:
        ArgumentError: the size, `chunk_rows` of the problem, is not a positive integer.
        IncompatibleError: g of the problem is not known to be a sum over chunks.
    """
    name = type(problem).__name__
    check_positive_integer(size, f"`chunk_rows` of {name}", " or None (all rows at once)")
    reasons = {
        "overrides `row_weights`, which may weigh rows by all others": problem.overrides(
            "row_weights"
        ),
        "redraws its data for every seed": problem.redraws_data,
        f"has {type(problem.criterion).__name__}": not problem.criterion.quadratic,
        "has a head for each task": problem.tasks,
    }
    for reason, holds in reasons.items():
        if holds:
            raise IncompatibleError(
                f"{name} sets `chunk_rows` and {reason}. Chunks are for squared errors on rows "
                "that all runs share, without weights: set `chunk_rows = None`."
            )
    train = trees.leaves(groups["train"])[0]
    return Chunks(size, dtype) if len(train) > size else None
