"""Where a training stands."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core import parts
from bilevel.core.status import Status
from bilevel.errors import ResultsError
from bilevel.storage.schema import NATURAL, Schema, check
from bilevel.storage.stored_tree import StoredTree
from bilevel.storage.tensors import REMEDY, check_kinds, under

ACTIVE = -1
"""The code of a run that can go on."""
SCHEMA: Schema = {"step": NATURAL, "seeds": [NATURAL], "structure": str,
                  "plain": {"*": (bool, int, float, str, None)}}  # fmt: skip


class TrainingState(NamedTuple):
    """Where a training stands: pass it to `solve(state=...)` to go on.

    Attributes:
        step: how many steps were made.
        seeds: of the runs.
        strategy: the strategy's state.
        codes: -1 for a run that can go on, else its final `Status`, (R,).
        first_norm: the first |projected grad Phi|, the scale of `tolerance`, (R,), float64; NaN
            where none is known.
        structure: of the strategy: its class, its parts and their settings, without the numbers;
            and of an experience its description.
        experience: what was experienced, where rows depend on it: a snapshot, leaves (R, ...).
    """

    step: int
    seeds: tuple[int, ...]
    strategy: Any
    codes: Tensor
    first_norm: Tensor
    structure: str
    experience: dict[str, Tensor] | None = None

    @classmethod
    def join(cls, states: "Sequence[TrainingState]") -> "TrainingState":
        """The state of all runs from those of parts that stand at the same step."""
        if len(states) == 1:
            return states[0]
        return states[0]._replace(
            seeds=tuple(seed for state in states for seed in state.seeds),
            strategy=trees.join([state.strategy for state in states]),
            codes=torch.cat([state.codes for state in states]),
            first_norm=torch.cat([state.first_norm for state in states]),
            experience=joined([state.experience for state in states]),
        )

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors by name, and the rest as JSON can hold it."""
        stored = StoredTree.of(self.strategy)
        tensors = {f"state{place}": leaf for place, leaf in stored.tensors.items()}
        tensors["codes"] = self.codes
        if not bool(self.first_norm.isnan().all()):
            tensors["first_norm"] = self.first_norm
        for name, leaf in (self.experience or {}).items():
            tensors[f"experience.{name}"] = leaf
        content = {"step": self.step, "seeds": list(self.seeds), "structure": self.structure}
        return tensors, {**content, "plain": stored.plain}

    @classmethod
    def unpack(
        cls, path: Path, tensors: dict[str, Tensor], content: dict[str, Any], further: Schema
    ) -> "TrainingState":
        """What was packed; its strategy's state is a `StoredTree` until a training takes it.

        Raises:
            ResultsError: the file does not hold it, or not the `further` content either.
        """
        check(content, {**SCHEMA, **further}, path, REMEDY)
        runs = (len(content["seeds"]),)
        check_kinds(path, tensors, {"codes": f"int64 {runs}", "first_norm?": f"float64 {runs}"})
        codes = tensors["codes"]
        if not set(codes.tolist()) <= {ACTIVE, *Status}:
            raise ResultsError(f"{path} is malformed: no runs end as {codes.tolist()}. {REMEDY}")
        unknown = torch.full_like(codes, torch.nan, dtype=torch.float64)
        return cls(
            content["step"],
            tuple(content["seeds"]),
            StoredTree(under("state", tensors), content["plain"]),
            codes,
            tensors.get("first_norm", unknown),
            parts.without_modules(content["structure"]),
            under("experience.", tensors) or None,
        )

    def part(self, runs: slice) -> "TrainingState":
        """The state of some of the runs."""
        return self._replace(
            seeds=self.seeds[runs],
            strategy=trees.part(self.strategy, runs),
            codes=self.codes[runs],
            first_norm=self.first_norm[runs],
            experience=trees.part(self.experience, runs) if self.experience else None,
        )


def joined(parts: Sequence[dict[str, Tensor] | None]) -> dict[str, Tensor] | None:
    """The snapshots of experiences as one; shorter leaves are padded with zeros at their ends."""
    given = [part for part in parts if part is not None]
    if not given:
        return None
    found = {}
    for name in given[0]:
        leaves = [part[name] for part in given]
        shape = [max(sizes) for sizes in zip(*(leaf.shape[1:] for leaf in leaves), strict=True)]
        whole = leaves[0].new_zeros(sum(map(len, leaves)), *shape)
        start = 0
        for leaf in leaves:
            whole[(slice(start, start + len(leaf)), *map(slice, leaf.shape[1:]))] = leaf
            start += len(leaf)
        found[name] = whole
    return found
