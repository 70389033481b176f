"""The rows of steps that depend on what was learned so far."""

import torch
from torch import Tensor
from typing_extensions import override

from bilevel import trees
from bilevel.core.checks import check_instance
from bilevel.data.rows import Rows
from bilevel.data.sampler import Sampler
from bilevel.data.training_data import TrainingData
from bilevel.errors import ArgumentError, ProblemError, ShapeError, counted
from bilevel.problem.base import Groups
from bilevel.problem.experience import AbstractExperience
from bilevel.trees import Tree


class Experienced(Sampler):
    """What the `experience` of a problem gives, in the place of rows that are drawn from data.

    A step has no rows but its own: `full` of them are themselves.

    Args:
        data: whose problem is asked, for the seeds of all runs.
        body: the initial bodies, leaves (R, ...).
        head: the initial heads, likewise.

    Raises:
        ArgumentError: `experience` of the problem returns no `AbstractExperience`.
        ProblemError: its groups are not those of a batch.
        ShapeError: their leaves have no run axis.
    """

    def __init__(self, data: TrainingData, body: Tree, head: Tree) -> None:
        super().__init__(data, None, ())
        made = data.problem.experience(data.seeds, body, head)
        what = f"experience of {type(data.problem).__name__}"
        check_instance(made, AbstractExperience, what, "an instance of your experience")
        self.experience: AbstractExperience = made
        self._looked_at = False
        groups = self._checked(made.evaluated(body, head), "evaluated")
        self.full = self._rows_of(groups)

    @property
    @override
    def first(self) -> Rows:
        return self.full

    @override
    def at(self, k: int, body: Tree, head: Tree) -> Rows:
        groups = self.experience.rows(k, body, head)
        if not self._looked_at:
            groups, self._looked_at = self._checked(groups, "rows"), True
        return self._rows_of(groups)

    @override
    def everything(self, body: Tree, head: Tree) -> Rows:
        return self._rows_of(self.experience.evaluated(body, head)).cast(torch.float64)

    @override
    def noiseless(self, everything: Rows, dtype: torch.dtype) -> Rows:
        return everything

    @override
    def more(self, group: str, size: int, j: int) -> Rows:
        if group != "train":
            raise ArgumentError(f'An experience has more rows of "train" only, not of {group!r}.')
        return self._rows_of(self.experience.more(size, j))

    @override
    def rows(self, k: int) -> Rows:
        self.experience.refuse("rows that do not depend on bodies and heads")

    @property
    @override
    def description(self) -> str:
        return self.experience.description

    @override
    def recorded(self) -> dict[str, Tensor]:
        return self.experience.recorded()

    @override
    def snapshot(self) -> dict[str, Tensor]:
        found = self.experience.snapshot()
        self._check_runs(found, "snapshot")
        return found

    @override
    def go_on_from(self, snapshot: dict[str, Tensor]) -> None:
        known = self.experience.snapshot()
        if known.keys() != snapshot.keys():
            differing = ", ".join(sorted(known.keys() ^ snapshot.keys()))
            raise ArgumentError(
                f"`state` does not fit: the experience that it holds is another one ({differing}). "
                "Pass that of a training of the same problem."
            )
        self.experience.go_on_from(snapshot)

    def _rows_of(self, groups: Groups) -> Rows:
        return Rows(groups, dict.fromkeys(groups, 0), source=self)

    def _checked(self, groups: Groups, hook: str) -> Groups:
        """The groups, if every leaf has a run axis, and the type that it had at first."""
        called = f"`{hook}` of {type(self.experience).__name__}"
        if not isinstance(groups, dict) or "train" not in groups:
            raise ProblemError(f'{called} must return a dict of groups, "train" among them.')
        self._check_runs(groups, hook)
        if hook == "rows":
            known = {path: leaf.dtype for path, leaf in trees.named_leaves(self.full.groups)}
            for path, leaf in trees.named_leaves(groups):
                if leaf.dtype != known.get(path, leaf.dtype):
                    raise ProblemError(
                        f"{called} must return tensors of the types of `evaluated`, got "
                        f"{leaf.dtype}, not {known[path]}, at {path}."
                    )
        return groups

    def _check_runs(self, made: Tree, hook: str) -> None:
        called = f"`{hook}` of {type(self.experience).__name__}"
        for path, leaf in trees.named_leaves(made):
            if not isinstance(leaf, Tensor) or leaf.shape[:1] != (len(self.seeds),):
                got = tuple(leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__
                raise ShapeError(
                    f"{called} must return tensors with a leading axis of the "
                    f"{counted(len(self.seeds), 'run')}, got {got} at {path}."
                )
