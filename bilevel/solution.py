"""The result of a training."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bilevel import trees
from bilevel.certificate import BoundKind
from bilevel.oracles import Oracles
from bilevel.problem import StackelbergProblem
from bilevel.status import Status
from bilevel.trees import Tree

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
        norms = [state.first_norm for state in states if state.first_norm is not None]
        return first._replace(
            seeds=tuple(seed for state in states for seed in state.seeds),
            strategy=trees.join([state.strategy for state in states]),
            codes=torch.cat([state.codes for state in states]),
            first_norm=torch.cat(norms) if norms else None,
        )

    def part(self, runs: slice) -> "TrainingState":
        """The state of some of the runs."""
        return self._replace(
            seeds=self.seeds[runs],
            strategy=trees.part(self.strategy, runs),
            codes=self.codes[runs],
            first_norm=None if self.first_norm is None else self.first_norm[runs],
        )


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Solution:
    """What `solve` returns: R runs, one for each seed.

    Attributes:
        problem: what was solved.
        seeds: the seed of each run.
        body: the last bodies, leaves (R, ...).
        head: the last heads, leaves (R, ...).
        status: R members of `Status`; each has a `message`.
        steps: the steps of the records, (T,).
        history: name -> (T, R), float64; see `bilevel.recording.Recorder` for the names.
        bound_kind: of `history["head_bound"]`: "proven", "estimated" or "unknown".
        bound_note: where the bound comes from.
        state: pass it as `solve(state=...)` to go on with the numbers of an uninterrupted training.
    """

    problem: StackelbergProblem
    seeds: tuple[int, ...]
    body: Tree
    head: Tree
    status: tuple[Status, ...]
    steps: Tensor
    history: dict[str, Tensor]
    bound_kind: BoundKind
    bound_note: str
    state: TrainingState

    def predict(self, inputs: Tensor) -> Tensor:
        """Predictions of every run.

        Args:
            inputs: (n, ...), in the scale the problem was trained on.

        Returns:
            (R, n), or (R, n, K).

        Raises:
            IncompatibleError: the problem is not a `LinearHeadProblem`.
        """
        like = trees.leaves(self.head)[0]
        moved = torch.as_tensor(inputs).to(dtype=like.dtype, device=like.device)
        return Oracles(self.problem).predictions(self.body, self.head, moved)

    def __repr__(self) -> str:
        """One line per outcome."""
        counts = {status: self.status.count(status) for status in sorted(set(self.status))}
        name = type(self.problem).__name__
        lines = [f"Solution of {name}: {len(self.seeds)} runs, {self.state.step} steps"]
        lines += [f"  {n} {status.name}: {status.message}" for status, n in counts.items()]
        return "\n".join(lines)
