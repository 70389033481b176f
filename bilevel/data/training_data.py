"""The data of a training, on its device and in its type."""

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.checks import check_instance
from bilevel.core.generators import generator
from bilevel.core.memory import says_memory
from bilevel.data.groups import GROUPS, check_finite, check_groups, check_targets
from bilevel.data.known import Known
from bilevel.data.numbered import asks_row_numbers, numbered
from bilevel.data.packed import PackedRows
from bilevel.data.rows import Chunks, Rows, chunks_of
from bilevel.data.tasks import by_tasks, check_tasks, has_tasks
from bilevel.errors import ArgumentError, IncompatibleError, ProblemError, ShapeError, spell
from bilevel.problem.base import Groups, StackelbergProblem
from bilevel.problem.linear_head import LinearHeadProblem
from bilevel.problem.sets import ConvexSet
from bilevel.trees import Tree

ASKED = ("criterion", "outputs", "tasks", "chunk_rows", "redraws_data")
"""What of a problem decides whether its data are in order."""


class TrainingData:
    """The data of a problem for a list of runs, checked, cast and moved once.

    `groups` holds the rows, (n, ...) or (S, n, ...) for S distinct seeds; `sizes` the number of
    rows n; `seed_index` (R,) is the place of every run's seed among the `distinct` ones, in order.
    Training rows that are evaluated in `chunks` stay as they were given. `own` says whether the
    rows are those of the problem, not rounded ones: what it states of itself holds for them;
    `given` whether they came as `groups`; `online` whether there are none, since `experience` of
    the problem gives the rows of each step; `numbered` whether the problem asks for row numbers,
    which rows of its own then have. With `tasks` the leaves are (T, n, ...), and `sizes` the
    number of tasks T.

    Args:
        problem: whose `data` is called: once, or for each distinct seed if it redraws.
        seeds: the seed of every run, in order; seeds may repeat (several strategies).
        dtype: of all floating leaves.
        device: where they live.
        groups: rows in the place of the problem's, for all runs.
        chunked: False: all rows are read, whatever `chunk_rows` of the problem says.
        known: of the problem, from earlier calls: tensors that were looked at are not again.
        experienced: whether who asks can train on rows that depend on what was learned.

    Raises:
        ArgumentError: `problem` is no problem, one of its sets no set, or `device` no device.
        IncompatibleError: rows depend on what was learned, and who asks cannot have such.
        DataError: a group is empty, unknown, not finite or not made of tensors; targets are
            constant or of the wrong type, or labels out of range.
        ShapeError: rows of a group differ in number, shapes depend on the seed, or targets do not
            fit `outputs`.
    """

    @says_memory
    def __init__(
        self,
        problem: StackelbergProblem,
        seeds: Sequence[int],
        dtype: torch.dtype,
        device: torch.device | str,
        *,
        groups: Groups | None = None,
        chunked: bool = True,
        known: Known | None = None,
        experienced: bool = False,
    ) -> None:
        check_instance(problem, StackelbergProblem, "problem", "an instance of your problem")
        for name in ("body_set", "head_set"):
            check_instance(getattr(problem, name), ConvexSet, name, "Box(0, 1)")
        if known is None:  # else a body is there
            check_device(device)
        self.problem, self.dtype, self.device = problem, dtype, device
        self._number(seeds)
        self.given = groups is not None
        self.online = not self.given and is_online(problem.experience)
        self.tasks = getattr(problem, "tasks", False) is not False and has_tasks(problem)
        self.numbered = asks_row_numbers(problem)
        if self.online:
            self._check_experience(experienced)
        self.per_seed = problem.redraws_data and not self.given and not self.online
        raw = groups
        if raw is None:
            raw = self._redrawn() if self.per_seed else problem.data()
        of = (raw, dtype, *(getattr(problem, name, None) for name in ASKED))
        fresh = known is None or not known.holds("data", of)
        rows = self._checked(raw) if fresh else trees.detach(raw)
        self.own = not self.given and not self.per_seed and (dtype == torch.float64 or not rows)
        self.chunks: Chunks | None = None
        if chunked and not self.given and isinstance(problem, LinearHeadProblem):
            size = problem.chunk_rows
            self.chunks = None if size is None else chunks_of(problem, size, rows, dtype)
        left = () if self.chunks is None else ("train",)
        self.groups: Groups = {
            name: group if name in left else trees.cast(group, dtype, device)
            for name, group in rows.items()
        }
        # labels that NumPy changed give finite numbers of another loss
        if isinstance(problem, LinearHeadProblem) and (fresh or not problem.criterion.quadratic):
            adapted = self.tasks and self.given
            check_targets(problem, self.groups, per_seed=self.per_seed, adapted=adapted)
        if fresh and known is not None and trees.shared(raw, rows):
            known.note("data", of)
        if self.numbered and not self.given:
            self.groups = numbered(self.groups, per_seed=self.per_seed, tasks=self.tasks)
        axis = 1 if self.per_seed else 0
        self.sizes = {name: trees.leaves(g)[0].shape[axis] for name, g in self.groups.items()}
        self._packs: dict[str, PackedRows] = {}

    def _number(self, seeds: Sequence[int]) -> None:
        """Take `seeds` for those of the runs."""
        self.seeds, self.distinct = list(seeds), sorted(set(seeds))
        index = {seed: i for i, seed in enumerate(self.distinct)}
        self.seed_index = torch.tensor([index[seed] for seed in seeds], device=self.device)
        self.one_run_a_seed = self.seeds == self.distinct

    def _check_experience(self, experienced: bool) -> None:
        """Refuse what does not go with it."""
        problem, name = self.problem, type(self.problem).__name__
        if not experienced:
            raise IncompatibleError(
                f"{name} has `experience`: its rows depend on what was learned, and there are none "
                "before. Train it by `solve` or `compare`; at a single point pass rows as "
                f"`batch=`, if its functions ask for {', '.join(GROUPS)} only."
            )
        if self.tasks:
            raise IncompatibleError(
                f"{name} has `tasks` and `experience`: heads of tasks answer to data that are "
                "there before. Leave out one of the two."
            )
        if getattr(problem.noise, "__func__", None) is not StackelbergProblem.noise:
            raise IncompatibleError(
                f"{name} has `noise` and `experience`, which gives all of its rows: let it draw "
                "the noise, too."
            )

    def _checked(self, raw: Groups) -> Groups:
        """The rows, if they are in order."""
        if self.online and raw:
            raise ProblemError(
                f"{type(self.problem).__name__} has `experience`, which gives all of its rows: "
                "its `data` must return {}."
            )
        rows = raw if self.per_seed else check_groups(raw)
        if self.tasks:
            check_tasks(trees.take(rows, 0) if self.per_seed else rows)
        too_large = f" in {self.dtype}: standardise them, or use float64"
        check_finite(rows, too_large, self.dtype, named=not self.per_seed)
        return rows

    def _redrawn(self) -> Groups:
        """The rows of every seed, leaves (S, n, ...)."""
        drawn = [check_groups(self.problem.data(seed)) for seed in self.distinct]
        called = f"`data(seed)` of {type(self.problem).__name__}"
        if not trees.equal(drawn[0], check_groups(self.problem.data(self.distinct[0]))):
            raise ProblemError(
                f"{called} gives two different answers for one seed, so strategies would not see "
                "the same rows. Draw from the seed only."
            )
        if not all(trees.same_structure(drawn[0], other) for other in drawn[1:]):
            raise ShapeError(
                f"{called} must return the same groups and shapes for every seed: runs are stacked."
            )
        return trees.stack(drawn) if drawn[0] else {}

    def part(self, runs: slice) -> "TrainingData":
        """The same data for some of the runs."""
        found = self._for_seeds(self.seeds[runs])
        if self.per_seed and found.distinct != self.distinct:
            places = [self.distinct.index(seed) for seed in found.distinct]
            found.groups = trees.take(self.groups, torch.tensor(places, device=self.device))
            found._packs = {}
        return found

    def repeated(self, times: int) -> "TrainingData":
        """The same data for `times` times as many runs, seeds in the same order each time."""
        return self._for_seeds(self.seeds * times)

    def _for_seeds(self, seeds: list[int]) -> "TrainingData":
        found = copy.copy(self)
        found._number(seeds)
        return found

    def initial(self, draw: Callable[[torch.Generator], Tree], stream: str) -> Tree:
        """What `draw` returns for the generator of each run's seed, stacked on the run axis."""
        drawn = [draw(generator(seed, stream)) for seed in self.distinct]
        for point in drawn:
            trees.check(point, f"init_{stream}()", ProblemError)
        again = draw(generator(self.distinct[0], stream))
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
        """All rows of all groups, test rows included, but for those of new tasks."""
        return self._all(by_tasks(self.groups)[0] if self.tasks else self.groups, dtype)

    def new_tasks(self, dtype: torch.dtype) -> Rows | None:
        """All rows of new tasks; None: there are none."""
        found = by_tasks(self.groups)[1:] if self.tasks else []
        return self._all(found[0], dtype) if found else None

    @property
    def counts(self) -> dict[str, int]:
        """How many rows each group has, those of all tasks together."""
        first, last = int(self.per_seed), int(self.per_seed) + 1 + self.tasks
        found = dict.fromkeys(self.groups, 0)
        for some in by_tasks(self.groups) if self.tasks else [self.groups]:
            for name, group in some.items():
                found[name] += trees.leaves(group)[0].shape[first:last].numel()
        return found

    def _all(self, groups: Groups, dtype: torch.dtype | None) -> Rows:
        axis: int | None = 0 if self.per_seed else None
        if self.per_seed and not self.one_run_a_seed:
            groups = trees.tree_map(lambda leaf: leaf[self.seed_index], groups)
        if dtype is not None and self.chunks is None:
            groups = trees.cast(groups, dtype)
        axes: dict[str, int | None] = dict.fromkeys(groups, axis)
        return Rows(groups, axes, chunks=self.chunks, of_tasks=self.tasks)

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

            # one flat table of the rows of all seeds, in which `flat` counts through
            def pick(leaf: Tensor, flat: Tensor = flat) -> Tensor:
                rows = leaf.flatten(0, 1) if self.per_seed else leaf
                picked = rows.index_select(0, flat.flatten().to(rows.device))
                return picked.reshape(*flat.shape, *rows.shape[1:])

            found[name] = trees.tree_map(pick, self.groups[name])
            if self.chunks is not None:
                found[name] = trees.cast(found[name], self.dtype, self.device)
        return found

    def _packed(self, name: str) -> PackedRows | None:
        """The rows of a group as one matrix, where that is worth it; made once, and eagerly."""
        if self.chunks is not None:
            return None
        packed = self._packs.get(name)
        if packed is None and not torch.compiler.is_compiling():
            packed = PackedRows.of(self.groups[name], first=2 if self.per_seed else 1)
            self._packs = {**self._packs, name: packed}
        return packed if packed is not None and packed.shapes else None


def is_online(experience: object) -> bool:
    """Whether `experience` of a problem is its own, and its rows are those of it."""
    return getattr(experience, "__func__", None) is not StackelbergProblem.experience


def check_device(device: torch.device | str) -> None:
    """Raise unless torch can put a tensor there."""
    check_instance(device, str | torch.device, "device", 'torch.device("cpu"), or its name')
    try:
        torch.zeros(1, device=device).item()  # "meta" holds no numbers
    except (RuntimeError, AssertionError) as error:  # torch raises both
        reason, given = str(error).partition("\n")[0], spell(str(device))
        raise ArgumentError(f"`device` {given} cannot be used here: {reason}.") from error
