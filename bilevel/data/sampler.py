"""Which rows step k of a seed sees.

The rows of step k depend on (seed, group, k) only: never on how many runs, strategies or steps are
computed together. They are drawn i.i.d. with replacement, in epochs without, or in their
order.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.checks import check_batch_size, check_one_of
from bilevel.core.generators import generator
from bilevel.data.draws import (
    BLOCK,
    Sampling,
    epoch_rows,
    iid_rows,
    sequential_rows,
)
from bilevel.data.rows import Rows
from bilevel.data.training_data import TrainingData
from bilevel.errors import ArgumentError, ShapeError
from bilevel.problem.base import StackelbergProblem
from bilevel.trees import Tree

MOST_ROWS = 100_000
"""Of a batch that draws more rows than there are: blocks of their numbers are kept in memory."""
BatchSize = int | Mapping[str, int | None] | None
"""Rows per step: for every group, by group, or None for all rows."""


class Drawn(NamedTuple):
    """What one step sees: row numbers (R, B) by group, and the noise of all runs, or ()."""

    indices: dict[str, Tensor]
    noise: Tree


class Sampler:
    """Draws the rows, and the noise, of every step of every run.

    `Experienced` takes its place where rows depend on bodies and heads; it overrides the hooks.

    Where the data are of tasks, their rows stay together: what is said of rows holds for tasks.

    Args:
        data: the rows to draw from, with their problem, whose `noise` is asked.
        batch_size: rows per step: an int for every group, a dict by group, None for all rows.
        groups: the groups a batch holds.
        sampling: "iid": rows are drawn independently, with replacement. "epochs": the rows of a
            group of n rows are visited in random permutations, one per epoch, each a draw of its
            own; step k of batches of B takes the positions [k B, (k + 1) B) of these permutations
            one after the other. All batches have B rows: one may straddle two epochs (or hold
            several, where B > n), no row is dropped, and steps 0 to n - 1 visit every row exactly B
            times. "sequential": the same positions of the rows as they are, over and over.

    Raises:
        ArgumentError: a batch size, its groups or `sampling` are none of these.
    """

    def __init__(
        self,
        data: TrainingData,
        batch_size: BatchSize,
        groups: Sequence[str],
        sampling: Sampling = "iid",
    ) -> None:
        check_one_of(sampling, Sampling, "sampling")
        self.data, self.sampling = data, sampling
        names = [name for name in groups if name in data.groups]
        if isinstance(batch_size, Mapping) and data.tasks:
            raise ArgumentError("`batch_size` counts tasks: one number, for all of their groups.")
        if isinstance(batch_size, Mapping):
            unknown = set(batch_size) - set(names)
            if unknown:
                raise ArgumentError(
                    f"`batch_size` names groups that batches do not hold: {sorted(unknown)}; "
                    f"they hold {names}."
                )
            self.batch_sizes = {name: batch_size.get(name) for name in names}
        else:
            self.batch_sizes = dict.fromkeys(names, batch_size)
        for name, size in self.batch_sizes.items():
            check_batch_size(size, f"`batch_size` of {name}")
            if size is not None and size > max(data.sizes[name], MOST_ROWS):
                raise ArgumentError(
                    f"`batch_size` of {name} must be at most {MOST_ROWS:,}, or its "
                    f"{data.sizes[name]:,} rows, got {size:,}."
                )
        asked = getattr(data.problem.noise, "__func__", None) is not StackelbergProblem.noise
        example = data.problem.noise(generator(0, "noise", 0), BLOCK) if asked else None
        self.noisy = example is not None
        if self.noisy:
            check_noise(example, type(data.problem).__name__)
            example = trees.tree_map(lambda leaf: torch.zeros_like(leaf[0]), example)
        self._silence = example
        self.full = self.noiseless(data.everything(), data.dtype)
        self._blocks: dict[Any, tuple[int, Any]] = {}

    def noiseless(self, everything: Rows, dtype: torch.dtype) -> Rows:
        """The groups of `everything` that batches hold, and zeros where they hold noise."""
        full = everything.without(*(set(everything.groups) - set(self.batch_sizes)))
        if self.noisy:
            full.groups["noise"] = trees.cast(self._silence, dtype, self.data.device)
            full.axes["noise"] = None
        return full

    def rows(self, k: int) -> Rows:
        """The batch of step `k` for all runs."""
        return self.assemble(self.draw(k))

    @property
    def first(self) -> Rows:
        """What functions are tried on before the first step (a hook): the rows of step 0."""
        return self.rows(0)

    def at(self, k: int, body: Tree, head: Tree) -> Rows:
        """The batch of step `k` at these bodies and heads (a hook), which it need not look at."""
        return self.rows(k)

    def everything(self, body: Tree, head: Tree) -> Rows:
        """What a record at these is evaluated on (a hook): all rows of all groups, in float64."""
        return self.data.everything(torch.float64)

    @property
    def description(self) -> str:
        """Of an experience that gives the rows (a hook)."""
        return ""

    def recorded(self) -> dict[str, Tensor]:
        """What a record tells of the source of the rows, name -> (R,) (a hook)."""
        return {}

    def snapshot(self) -> dict[str, Tensor] | None:
        """All that evolves with the steps, leaves (R, ...) (a hook); None: nothing does."""
        return None

    def go_on_from(self, snapshot: dict[str, Tensor]) -> None:
        """Stand where a snapshot was taken (a hook)."""

    def draw(self, k: int) -> Drawn:
        """Which rows, and what noise, step `k` sees."""
        return Drawn(*trees.take(tuple(self.draws(k, 1)), 0))

    def draws(self, k: int, count: int) -> Drawn:
        """What the steps k, ..., k + count - 1 see: leaves (count, ...)."""
        indices = {
            name: self._rows("rows", "train" if self.data.tasks else name, size, k, count)
            for name, size in self.batch_sizes.items()
            if size is not None
        }
        return Drawn(indices, self._noise(k, count) if self.noisy else ())

    def assemble(self, drawn: Drawn) -> Rows:
        """The batch that was drawn."""
        indices = drawn.indices
        groups = {**self.full.groups, **self.data.gather(indices)}
        axes = {**self.full.axes, **dict.fromkeys(indices, 0)}
        if self.noisy:
            groups["noise"], axes["noise"] = drawn.noise, 0
        if not indices and not self.noisy:
            return dataclasses.replace(self.full, source=self)
        chunks = None if "train" in indices else self.full.chunks
        if not self.data.tasks:
            return Rows(groups, axes, self.full, self, chunks)
        return Rows(groups, axes, self.full, of_tasks=True, tasks=indices.get("train"))

    @property
    def seeds(self) -> Sequence[int]:
        """Of the runs, in order."""
        return self.data.seeds

    def initial(self, draw: Callable[[torch.Generator], Tree], stream: str) -> Tree:
        """What `draw` returns for the generator of each run's seed, stacked on the run axis."""
        return self.data.initial(draw, stream)

    def more(self, group: str, size: int, j: int) -> Rows:
        """All rows, but for `group`: `size` of it, drawn for every run with the number `j`."""
        index = self.indices(group, size, j, stream="head")
        groups = {**self.full.groups, **self.data.gather({group: index})}
        return Rows(groups, {**self.full.axes, group: 0})

    def indices(self, group: str, size: int, k: int, stream: str = "rows") -> Tensor:
        """The rows of `group` that step `k` sees, (R, size); `stream` tells draws apart."""
        return self._rows(stream, group, size, k, 1)[0]

    def _rows(self, stream: str, group: str, size: int, k: int, count: int) -> Tensor:
        total = self.data.sizes[group]
        pick = epoch_rows if self.sampling == "epochs" else iid_rows

        def draw(seed: int, block: int) -> Tensor:
            if self.sampling == "sequential":
                return sequential_rows(total, size, block)
            return pick(total, size, block, seed, stream, group)

        rows: Tensor = self._drawn((stream, group, size), k, count, draw)
        return rows

    def _noise(self, k: int, count: int) -> Tree:
        def draw(seed: int, block: int) -> Tree:
            noise = self.data.problem.noise(generator(seed, "noise", block), BLOCK)
            return trees.cast(noise, self.data.dtype)

        return self._drawn("noise", k, count, draw)

    def _drawn(self, key: Any, k: int, count: int, draw: Callable[[int, int], Tree]) -> Tree:
        """What `draw(seed, block)` gives for `count` steps from k on, of all runs.

        The steps of one block are views.
        """
        pieces, stop = [], k + count
        while k < stop:
            first, until = k % BLOCK, min(BLOCK, k % BLOCK + stop - k)
            pieces.append(trees.part(self._block(key, k // BLOCK, draw), slice(first, until)))
            k += until - first
        found = pieces[0] if len(pieces) == 1 else trees.join(pieces)
        if self.data.one_run_a_seed:
            return found
        return trees.tree_map(lambda leaf: leaf[:, self.data.seed_index], found)

    def _block(self, key: Any, number: int, draw: Callable[[int, int], Tree]) -> Tree:
        """What `draw` gives for a block of steps, leaves (BLOCK, S, ...); the last one is kept."""
        # a whole block, whichever step is asked for: the rows of a step must not depend on which
        # steps were asked for before it
        kept, block = self._blocks.get(key, (-1, None))
        if kept != number:
            device = self.data.seed_index.device
            drawn = [draw(seed, number) for seed in self.data.distinct]
            block = trees.tree_map(lambda *leaf: moved(torch.stack(leaf, 1), device), *drawn)
            self._blocks[key] = (number, block)
        return block


def moved(block: Tensor, device: torch.device) -> Tensor:
    """A block on a device; copies to CUDA go on while the program does."""
    if device.type != "cuda" or block.device.type != "cpu":
        return block.to(device)
    return block.pin_memory().to(device, non_blocking=True)


def check_noise(noise: Tree, name: str) -> None:
    """Raise unless `noise`, drawn for `BLOCK` steps, has an entry for each of them."""
    for path, leaf in trees.named_leaves(noise):
        if not isinstance(leaf, Tensor) or leaf.shape[:1] != (BLOCK,):
            got = tuple(leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__
            raise ShapeError(
                f"`noise` of {name} must return a tree with leading {BLOCK} when it is asked for "
                f"{BLOCK} steps, got {path or 'a leaf'} {got}."
            )
