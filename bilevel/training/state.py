"""Where a training stands."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core import parts
from bilevel.storage.stored_tree import StoredTree

ACTIVE = -1
"""The code of a run that can go on."""


class TrainingState(NamedTuple):
    """Where a training stands: pass it to `solve(state=...)` to go on.

    Attributes:
        step: how many steps were made.
        seeds: of the runs.
        strategy: the strategy's state.
        codes: -1 for a run that can go on, else its final `Status`, (R,).
        first_norm: the first |projected grad Phi|, the scale of `tolerance`; None if not recorded.
        structure: of the strategy: its class, its parts and their settings, without the numbers.
    """

    step: int
    seeds: tuple[int, ...]
    strategy: Any
    codes: Tensor
    first_norm: Tensor | None
    structure: str

    @classmethod
    def join(cls, states: "Sequence[TrainingState]") -> "TrainingState":
        """The state of all runs from those of parts that stand at the same step."""
        first = states[0]
        if len(states) == 1:
            return first
        known = any(state.first_norm is not None for state in states)
        norms = [
            torch.full_like(state.codes, torch.nan, dtype=torch.float64)
            if state.first_norm is None
            else state.first_norm
            for state in states
        ]
        return first._replace(
            seeds=tuple(seed for state in states for seed in state.seeds),
            strategy=trees.join([state.strategy for state in states]),
            codes=torch.cat([state.codes for state in states]),
            first_norm=torch.cat(norms) if known else None,
        )

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors by name, and the rest as JSON can hold it."""
        stored = StoredTree.of(self.strategy)
        tensors = {f"state{place}": leaf for place, leaf in stored.tensors.items()}
        tensors["codes"] = self.codes
        if self.first_norm is not None:
            tensors["first_norm"] = self.first_norm
        content = {"step": self.step, "seeds": list(self.seeds), "structure": self.structure}
        return tensors, {**content, "plain": stored.plain}

    @classmethod
    def unpack(cls, tensors: dict[str, Tensor], content: dict[str, Any]) -> "TrainingState":
        """What was packed; its strategy's state is a `StoredTree` until a training takes it."""
        places = {
            name.removeprefix("state"): leaf
            for name, leaf in tensors.items()
            if name.startswith("state")
        }
        return cls(
            content["step"],
            tuple(content["seeds"]),
            StoredTree(places, content["plain"]),
            tensors["codes"],
            tensors.get("first_norm"),
            parts.without_modules(content["structure"]),
        )

    def part(self, runs: slice) -> "TrainingState":
        """The state of some of the runs."""
        return self._replace(
            seeds=self.seeds[runs],
            strategy=trees.part(self.strategy, runs),
            codes=self.codes[runs],
            first_norm=None if self.first_norm is None else self.first_norm[runs],
        )
