"""Objectives as functions of their rows: what runs without an error and is wrong all the same."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bilevel import trees
from bilevel.core.graph import gradients, variable
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.assembly import Assembly
from bilevel.derivatives.head_point import HeadPoint
from bilevel.problem.auxiliary import AuxiliaryProblem
from bilevel.problem.base import Groups, StackelbergProblem
from bilevel.problem.linear_head import LinearHeadProblem
from bilevel.testing.bench import RUNS, Bench
from bilevel.testing.finding import Finding, refusals, require, unchanged
from bilevel.trees import Tree

ROUNDED = 1e-9
"""Values that differ by less, relative to their size, are the same."""
ROWS = (61, 59, 53, 47, 43, 41, 37, 31, 29, 23, 19, 17, 13, 11, 7, 5, 3)
"""Of a small batch: the first that is no other size of the problem."""


class One(NamedTuple):
    """One run of a problem, on all rows or on some, float64.

    Attributes:
        problem: the problem.
        body: without a run axis.
        head: likewise.
        groups: likewise.
    """

    problem: StackelbergProblem
    body: Tree
    head: Tree
    groups: Groups

    @classmethod
    def of(cls, bench: Bench, run: int = 0) -> "One":
        """A run of a bench."""
        one = bench.alone(run)
        levels = (one.body, one.head, one.rows.of_runs(1))
        return cls(bench.problem, *(trees.take(tree, 0) for tree in levels))

    @property
    def names(self) -> list[str]:
        """Of the objectives: F where it is not g."""
        more = [] if self.problem.is_stackelberg else ["body_objective"]
        return ["head_objective", *more]

    @property
    def row_groups(self) -> list[str]:
        """The groups that have several rows."""
        sizes = {name: _count(group) for name, group in self.groups.items() if name != "noise"}
        return [name for name, size in sizes.items() if size > 3]

    def value(self, name: str, groups: Groups | None = None) -> float | None:
        """An objective; None where it cannot be evaluated on such rows."""
        groups = self.groups if groups is None else groups
        try:
            with torch.no_grad():
                found = float(getattr(self.problem, name)(self.body, self.head, groups))
        except Exception:  # whatever a function raises on fewer rows than it expects
            return None
        return found if found == found and abs(found) != float("inf") else None

    def rows(self, name: str, places: list[int]) -> Groups:
        """All groups, of one of them the rows at some places."""
        return {**self.groups, name: trees.tree_map(lambda x: x[places], self.groups[name])}

    def few(self, name: str, share: int = 1) -> int | None:
        """A number of rows, up to a share of them, that is no other size of the problem."""
        taken = {size for leaf in trees.leaves((self.body, self.head)) for size in leaf.shape}
        taken |= {size for leaf in trees.leaves(self.groups) for size in leaf.shape[1:]}
        most = _count(self.groups[name]) // share
        return next((size for size in ROWS if size <= most and size not in taken), None)


def check_calls(problem: StackelbergProblem) -> Finding | None:
    """Objectives leave their arguments alone and give one value for the same ones.

    Before anything else is asked, since both spoil all that is. What raises is told later.
    """
    with refusals():
        data = TrainingData(problem, [0], torch.float64, "cpu", chunked=False)
        made = Assembly.of(data)
    at = HeadPoint(made.oracles, made.body, made.heads, made.sampler.full)
    at = at.apart.take([0]) if data.tasks else at
    levels = (at.body, at.head, at.rows.of_runs(1))
    one = One(problem, *(trees.tree_map(torch.clone, trees.take(x, 0)) for x in levels))
    name, before = type(problem).__name__, torch.get_rng_state()
    for objective in one.names:
        given = {"body": one.body, "head": one.head, "batch": one.groups}
        with unchanged(f"`{objective}` of {name}", **given):
            first = one.value(objective)
        again = one.value(objective)
        if first is None or again is None:
            continue
        drawn = not torch.equal(before, torch.get_rng_state())
        torch.set_rng_state(before)
        require(
            not drawn and same(first, again),
            f"`{objective}` of {name} gives {first:.6g} and {again:.6g} for the same arguments, or "
            "draws random numbers: gradients, bounds and repeated runs would be of other functions "
            "each time. Draw in `data`, or in `noise`, whose entry of the step is "
            '`batch["noise"]`; do not keep anything from call to call, and evaluate modules with '
            "`split`, which keeps dropout out.",
        )
    return Finding("repeated calls", "give the same values and change nothing")


def check_rows(bench: Bench) -> Finding | None:
    """Objectives are means over rows, in whatever order these come."""
    one = One.of(bench)
    if isinstance(one.problem, AuxiliaryProblem) or not one.row_groups:
        return None  # whose objectives only judge
    for group in one.row_groups:
        for objective in one.names:
            told = _check_order(one, bench.name, objective, group)
            if told is not None:
                return told
            _check_mean(one, bench.name, objective, group)
    return Finding("rows", f"of {', '.join(one.row_groups)}: means over them, in any order")


def _check_order(one: One, name: str, objective: str, group: str) -> Finding | None:
    """The same value for rows in reverse, of a small batch if there may be one."""
    size = one.few(group, 2)
    kept = _count(one.groups[group])
    values: list[float | None] = [None, None]
    for count in (size, kept):
        if count is None or None not in values:
            continue
        kept = count
        places = list(range(count))
        values = [one.value(objective, one.rows(group, some)) for some in (places, places[::-1])]
    if None in values or same(*values):  # type: ignore[arg-type]
        return None
    batches = kept < _count(one.groups[group])
    weighted = isinstance(one.problem, LinearHeadProblem) and one.problem.overrides("row_weights")
    told = (
        f'`{objective}` of {name} gives {values[0]:.6g} for {kept} rows of data["{group}"] and '
        f"{values[1]:.6g} for the same rows in reverse."
    )
    remedy = (
        " Batches hold other rows at each step, in any order, so weights by their place in the "
        "batch are those of other rows. Look them up by a number that is part of each row, such "
        'as `batch["train"].row_numbers`.'
    )
    require(not (batches and weighted), f"{told}{remedy}")
    return Finding(
        "rows",
        f"{told} Batches hold rows in any order: train with `batch_size=None`, or let what "
        "belongs to a row be part of it",
    )


def _check_mean(one: One, name: str, objective: str, group: str) -> None:
    """No value that grows by the same with each copy of the rows."""
    size = one.few(group)
    if size is None:
        return
    places = list(range(size))
    copies = [one.value(objective, one.rows(group, places * k)) for k in (1, 2, 3)]
    if None in copies:
        return
    first, second, third = (x for x in copies if x is not None)
    grown, again = second - first, third - second
    scale = abs(first) + abs(third)
    sums = abs(grown) > 1e-6 * scale and abs(again - grown) <= ROUNDED * scale
    require(
        not sums,
        f'`{objective}` of {name} is a sum over the rows of data["{group}"]: with each of them '
        f"twice it is {second:.6g} instead of {first:.6g}. Take the mean: else rates depend on "
        "`batch_size`, penalties weigh less in larger batches, and records, on all rows, are of "
        "another function than the steps.",
    )


def check_broadcast(bench: Bench) -> None:
    """Predictions (n, 1) against targets (n,) make n x n differences."""
    one = One.of(bench)
    for group in one.row_groups:
        size = one.few(group)
        if size is None:
            continue
        groups = one.rows(group, list(range(size)))
        for objective in one.names:
            with _Wide(size) as wide, torch.enable_grad():
                at = One(one.problem, one.body, variable(one.head), groups)
                try:
                    getattr(at.problem, objective)(at.body, at.head, at.groups)
                except Exception:  # as in `One.value`
                    continue
            require(
                wide.seen is None,
                f"`{objective}` of {bench.name} takes {wide.seen} of shapes (n, 1) and (n,) for "
                f'{size} rows of data["{group}"]: they are broadcast to (n, n), every prediction '
                "against every target. Drop the axis of the predictions, `.squeeze(1)`, or give "
                "the targets one.",
            )


class _Wide(TorchFunctionMode):
    """Looks for operations on (n, 1) and (n,) of which one depends on the head.

    Args:
        rows: n.
    """

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self.seen: str | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        given = [x for x in args if isinstance(x, Tensor)]
        shapes = {tuple(x.shape): x.requires_grad for x in given}
        column, flat = (shapes.get(shape) for shape in ((self.rows, 1), (self.rows,)))
        name = getattr(func, "__name__", str(func))
        if column is not None and flat is not None and column != flat:
            made = found if isinstance(found, tuple | list) else [found]
            wide = any(isinstance(x, Tensor) and x.shape == (self.rows,) * 2 for x in made)
            if wide or name.endswith("loss"):
                self.seen = f"`{name}`"
        return found


def check_head_in_use(bench: Bench) -> Finding | None:
    """Numbers of the head whose derivative is the same whatever the rows: a penalty's alone."""
    still: Tensor | None = None
    for run in range(RUNS):  # a unit that is off at one body is on at another
        here = _unmoved(One.of(bench, run))
        if here is None:
            return None
        still = here if still is None else still & here
    assert still is not None
    count, total = int(still.sum()), still.numel()
    if not 0 < count < total:
        return None
    return Finding(
        "head in use",
        f"{count} of the {total} numbers of the head have a derivative that is the same for other "
        f"rows, at {RUNS} points: no row has a say in them, as of features that are zero, and a "
        "penalty alone holds them. Leave them out of `init_head`, or check the features",
    )


def _unmoved(one: One) -> Tensor | None:
    """Where d_theta g is the same on three small batches, (P,); None: there are none."""
    size = one.few("train", 2) if "train" in one.row_groups else None
    if size is None:
        return None
    slopes, places = [], list(range(_count(one.groups["train"])))
    # three, as the rows of two may mirror one another
    for some in (places[:size], places[-size:], places[::2][:size]):
        with torch.enable_grad():
            head = variable(one.head)
            try:
                value = one.problem.head_objective(one.body, head, one.rows("train", some))
            except Exception:  # as in `One.value`
                return None
            found = gradients([value], trees.leaves(head))
        slopes.append(torch.cat([slope.flatten() for slope in found]))
    return (slopes[0] == slopes[1]) & (slopes[0] == slopes[2])


def _count(group: Tree) -> int:
    """How many rows a group has."""
    leaves = trees.leaves(group)
    return min((len(leaf) if leaf.ndim else 0 for leaf in leaves), default=0)


def same(a: float, b: float) -> bool:
    """Whether two numbers are equal up to rounding."""
    return abs(a - b) <= ROUNDED * (abs(a) + abs(b)) + 1e-300
