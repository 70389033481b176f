"""What an environment of deep Q-learning is: R runs that step together."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Moved(NamedTuple):
    """What one step of all runs made.

    Attributes:
        before: (R, ...), the observations that the actions were chosen at.
        actions: (R,), int64.
        rewards: (R,), float32, as the environment gives them.
        reached: (R, ...), the observations after the actions: the last one where an episode ended.
        terminated: (R,), bool: the episode ended for good, so there is nothing to bootstrap from.
        truncated: (R,), bool: it was cut; what would have followed counts.
        life_lost: (R,), bool: a life was lost and the episode goes on. It cuts the bootstrap as
            `terminated` does, and nothing else.
        stored: (R,), bool: whether it is a transition at all. A step that only brings about a
            reset is none: nobody learns from it, and nothing of it counts.
        now: (R, ...), the observations that the next actions are chosen at: `reached`, but where a
            new episode began.
    """

    before: Tensor
    actions: Tensor
    rewards: Tensor
    reached: Tensor
    terminated: Tensor
    truncated: Tensor
    life_lost: Tensor
    stored: Tensor
    now: Tensor

    @property
    def cut(self) -> Tensor:
        """Where the target is the reward alone, (R,)."""
        return self.terminated | self.life_lost

    @property
    def ended(self) -> Tensor:
        """Where an episode is over, and its return complete, (R,)."""
        return self.terminated | self.truncated


class Environment(Protocol):
    """R runs of one environment.

    Episode j of a run starts by its seed and j only: not by what was done before, nor by which
    other runs there are. All tensors are on the CPU; observations are of one type and shape, float
    or uint8.
    """

    @property
    def actions(self) -> int:
        """How many there are."""

    def reset(self) -> Tensor:
        """Begin the first episode of every run; the observations (R, ...)."""

    def step(self, actions: Tensor) -> Moved:
        """Take the actions (R,), int64; who has come to an end begins anew."""

    def snapshot(self) -> dict[str, Tensor]:
        """All that evolves, by name, leaves (R, ...); enough to go on with the same numbers."""

    def go_on_from(self, snapshot: dict[str, Tensor]) -> Tensor:
        """Stand where the snapshot was taken; the observations to act at, (R, ...)."""


class MakesEnvironment(Protocol):
    """How an environment is made, with a seed for each of R runs."""

    def __call__(self, seeds: Sequence[int], dtype: torch.dtype) -> Environment:
        """The environment.

        Args:
            seeds: they may repeat: runs of one seed that act alike are the same.
            dtype: of observations that are floating numbers.
        """
