"""Which rows step k of a seed sees, and the random streams of a seed.

The rows of step k depend on (seed, group, k) only: never on how many runs, strategies or steps are
computed together. They are drawn i.i.d. with replacement, or in epochs without.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bilevel import trees
from bilevel.drawing import BLOCK, Sampling, check_sampling, epoch_rows, iid_rows, sequential_rows
from bilevel.drawing import generator as generator
from bilevel.errors import ArgumentError, ProblemError, ShapeError
from bilevel.packing import PackedRows
from bilevel.problem import Groups, StackelbergProblem
from bilevel.row_groups import check_finite, check_groups
from bilevel.rows import Rows as Rows
from bilevel.rows import chunks_of
from bilevel.trees import Tree

BatchSize = int | Mapping[str, int | None] | None
"""Rows per step: for every group, by group, or None for all rows."""


class TrainingData:
    """The data of a problem for a list of runs, checked, cast and moved once.

    `groups` holds the rows, (n, ...) or (S, n, ...) for S distinct seeds; `sizes` the number of
    rows n. Training rows that are evaluated in `chunks` stay as they were given.

    Args:
        problem: whose `data` is called: once, or for each distinct seed if it redraws.
        seeds: the seed of every run, in order; seeds may repeat (several strategies).
        dtype: of all floating leaves.
        device: where they live.
        chunked: False: all rows are read, whatever `chunk_rows` of the problem says.

    Raises:
        DataError: a group is empty, unknown, not finite or not made of tensors.
        ShapeError: rows of a group differ in number, or shapes depend on the seed.
    """

    def __init__(
        self,
        problem: StackelbergProblem,
        seeds: Sequence[int],
        dtype: torch.dtype,
        device: torch.device | str,
        *,
        chunked: bool = True,
    ) -> None:
        distinct = sorted(set(seeds))
        check_device(device)
        self.seeds, self.dtype, self.device = list(seeds), dtype, device
        self.per_seed = problem.redraws_data
        index = {seed: i for i, seed in enumerate(distinct)}
        self.seed_index = torch.tensor([index[seed] for seed in seeds], device=device)
        if self.per_seed:
            drawn = [check_groups(problem.data(seed)) for seed in distinct]
            if not trees.equal(drawn[0], check_groups(problem.data(distinct[0]))):
                raise ProblemError(
                    f"`data(seed)` of {type(problem).__name__} gives two different answers for one "
                    "seed, so strategies would not see the same rows. Draw from the seed only."
                )
            for other in drawn[1:]:
                if not trees.same_structure(drawn[0], other):
                    raise ShapeError(
                        f"`data(seed)` of {type(problem).__name__} must return the same groups and "
                        "shapes for every seed: runs are stacked."
                    )
            groups = trees.stack(drawn) if drawn[0] else {}
        else:
            groups = check_groups(problem.data())
        self.chunks = chunks_of(problem, groups, dtype) if chunked else None
        left = () if self.chunks is None else ("train",)
        self.groups: Groups = {
            name: group if name in left else trees.cast(group, dtype, device)
            for name, group in groups.items()
        }
        too_large = f" in {dtype}: standardise them, or use float64"
        for name, group in self.groups.items():
            seen = dtype if name in left else None
            check_finite({name: group}, too_large, seen, named=not self.per_seed)
        axis = 1 if self.per_seed else 0
        self.sizes = {name: trees.leaves(g)[0].shape[axis] for name, g in self.groups.items()}
        self._packs: dict[str, PackedRows] = {}

    @property
    def one_run_a_seed(self) -> bool:
        """Whether the runs are the distinct seeds, in order."""
        return self.seeds == sorted(set(self.seeds))

    def part(self, runs: slice) -> "TrainingData":
        """The same data for some of the runs."""
        copy = object.__new__(TrainingData)
        copy.__dict__.update(self.__dict__)
        copy.seeds = self.seeds[runs]
        before, distinct = sorted(set(self.seeds)), sorted(set(copy.seeds))
        index = {seed: i for i, seed in enumerate(distinct)}
        copy.seed_index = torch.tensor([index[seed] for seed in copy.seeds], device=self.device)
        if self.per_seed and len(distinct) < len(before):
            kept = torch.tensor([before.index(seed) for seed in distinct], device=self.device)
            copy.groups = trees.take(self.groups, kept)
        return copy

    def repeated(self, times: int) -> "TrainingData":
        """The same data for `times` times as many runs, seeds in the same order each time."""
        copy = object.__new__(TrainingData)
        copy.__dict__.update(self.__dict__)
        copy.seeds = self.seeds * times
        copy.seed_index = self.seed_index.repeat(times)
        return copy

    def initial(self, draw: Callable[[torch.Generator], Tree], stream: str) -> Tree:
        """What `draw` returns for the generator of each run's seed, stacked on the run axis."""
        drawn = [draw(generator(seed, stream)) for seed in sorted(set(self.seeds))]
        for point in drawn:
            trees.check(point, f"init_{stream}()", ProblemError)
        again = draw(generator(min(self.seeds), stream))
        if not trees.equal(drawn[0], again):
            raise ProblemError(
                f"`init_{stream}` gives two different points for one seed, so strategies would not "
                "start alike. Draw with `generator=generator`, and with nothing else."
            )
        for other in drawn[1:]:
            if not trees.same_structure(drawn[0], other):
                raise ShapeError(f"`init_{stream}` must return the same shapes for every seed.")
        stacked = trees.detach(trees.cast(trees.stack(drawn), self.dtype, self.device))
        return trees.take(stacked, self.seed_index)

    def everything(self, dtype: torch.dtype | None = None) -> Rows:
        """All rows of all groups, test rows included."""
        axis = 0 if self.per_seed else None
        groups = self.groups
        if self.per_seed and not self.one_run_a_seed:
            groups = trees.tree_map(lambda leaf: leaf[self.seed_index], groups)
        if dtype is not None and self.chunks is None:
            groups = trees.cast(groups, dtype)
        return Rows(groups, dict.fromkeys(groups, axis), chunks=self.chunks)

    def gather(self, indices: Mapping[str, Tensor]) -> Groups:
        """The rows `indices[group]` (R, B) of each group, leaves (R, B, ...)."""
        found: Groups = {}
        for name, index in indices.items():
            flat = index
            if self.per_seed:
                flat = index + (self.seed_index * self.sizes[name]).unsqueeze(1)
            packed = self._packed(name)
            if packed is not None:
                found[name] = packed.rows(flat)
                continue

            def pick(leaf: Tensor, flat: Tensor = flat) -> Tensor:
                rows = leaf.flatten(0, 1) if self.per_seed else leaf
                picked = rows.index_select(0, flat.flatten().to(rows.device))
                return picked.reshape(*flat.shape, *rows.shape[1:])

            found[name] = trees.tree_map(pick, self.groups[name])
            if self.chunks is not None:
                found[name] = trees.cast(found[name], self.dtype, self.device)
        return found

    def _packed(self, name: str) -> PackedRows | None:
        """The rows of a group as one matrix, where that is worth it; made once."""
        if self.chunks is not None or torch.compiler.is_compiling():
            return None
        group, packed = self.groups[name], self._packs.get(name)
        if packed is None or packed.group is not group:
            packed = PackedRows.of(group, first=2 if self.per_seed else 1)
            self._packs = {**self._packs, name: packed}
        return packed if packed.worthwhile else None


class Drawn(NamedTuple):
    """What one step sees: row numbers (R, B) by group, and the noise of all runs, or ()."""

    indices: dict[str, Tensor]
    noise: Tree


class Sampler:
    """Draws the rows, and the noise, of every step of every run.

    Args:
        problem: whose `noise` is asked.
        data: the rows to draw from.
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
        problem: StackelbergProblem,
        data: TrainingData,
        batch_size: BatchSize,
        groups: Sequence[str],
        sampling: Sampling = "iid",
    ) -> None:
        check_sampling(sampling)
        self.problem, self.data, self.sampling = problem, data, sampling
        names = [name for name in groups if name in data.groups]
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
        example = problem.noise(generator(0, "noise", 0), BLOCK)
        self.noisy = example is not None
        if self.noisy:
            check_noise(example, type(problem).__name__)
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

    def draw(self, k: int) -> Drawn:
        """Which rows, and what noise, step `k` sees."""
        indices = {
            name: self.indices(name, size, k)
            for name, size in self.batch_sizes.items()
            if size is not None
        }
        return Drawn(indices, self._noise(k) if self.noisy else ())

    def assemble(self, drawn: Drawn) -> Rows:
        """The batch that was drawn."""
        indices = drawn.indices
        groups = {**self.full.groups, **self.data.gather(indices)}
        axes = {**self.full.axes, **dict.fromkeys(indices, 0)}
        if self.noisy:
            groups["noise"], axes["noise"] = drawn.noise, 0
        if not indices and not self.noisy:
            return dataclasses.replace(self.full, sampler=self)
        chunks = None if "train" in indices else self.full.chunks
        return Rows(groups, axes, self.full, self, chunks)

    def indices(self, group: str, size: int, k: int, stream: str = "rows") -> Tensor:
        """The rows of `group` that step `k` sees, (R, size); `stream` tells draws apart."""
        total = self.data.sizes[group]
        pick = epoch_rows if self.sampling == "epochs" else iid_rows

        def draw(seed: int, block: int) -> Tensor:
            if self.sampling == "sequential":
                return sequential_rows(total, size, block)
            return pick(total, size, block, seed, stream, group)

        block = self._block((stream, group, size), k, draw)
        drawn: Tensor = self._of_runs(block[k % BLOCK])
        return drawn

    def _noise(self, k: int) -> Tree:
        def draw(seed: int, block: int) -> Tree:
            noise = self.problem.noise(generator(seed, "noise", block), BLOCK)
            return trees.cast(noise, self.data.dtype)

        block = self._block("noise", k, draw)
        return trees.tree_map(lambda leaf: self._of_runs(leaf[k % BLOCK]), block)

    def _of_runs(self, drawn: Tensor) -> Tensor:
        """What was drawn for the distinct seeds, (S, ...), for the runs, (R, ...)."""
        return drawn if self.data.one_run_a_seed else drawn[self.data.seed_index]

    def _block(self, key: Any, k: int, draw: Any) -> Any:
        """The block that holds step k, leaves (BLOCK, S, ...), drawn when it is first needed."""
        number, block = self._blocks.get(key, (-1, None))
        if number != k // BLOCK:
            number = k // BLOCK
            data = self.data
            drawn = [draw(seed, number) for seed in sorted(set(data.seeds))]
            block = trees.tree_map(
                lambda *leaf: torch.stack(leaf, 1).to(data.seed_index.device), *drawn
            )
            self._blocks[key] = (number, block)
        return block


def check_batch_size(size: object, name: str) -> None:
    """Raise unless `size` is None or a positive int."""
    if size is None:
        return
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ArgumentError(f"{name} must be a positive integer or None (all rows), got {size!r}.")


def check_device(device: torch.device | str) -> None:
    """Raise unless torch can put a tensor there."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises both
        reason = str(error).partition("\n")[0]
        raise ArgumentError(f"`device` {str(device)!r} cannot be used here: {reason}.") from error


def check_noise(noise: Tree, name: str) -> None:
    """Raise unless `noise`, drawn for `BLOCK` steps, has an entry for each of them."""
    for path, leaf in trees.named_leaves(noise):
        if not isinstance(leaf, Tensor) or leaf.shape[:1] != (BLOCK,):
            got = tuple(leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__
            raise ShapeError(
                f"`noise` of {name} must return a tree with leading {BLOCK} when it is asked for "
                f"{BLOCK} steps, got {path or 'a leaf'} {got}."
            )
