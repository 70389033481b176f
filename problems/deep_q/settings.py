"""The numbers of a deep Q-learner."""

import dataclasses

from bilevel.core.checks import check_flag, check_positive_integer, positive
from bilevel.errors import ArgumentError


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a deep Q-learner acts and remembers; counts are of agent steps.

    Args:
        gamma: the discount of a step, below 1.
        capacity: transitions that are remembered of each run.
        batch: those of an update.
        every: steps from update to update.
        start: steps before the first update, a multiple of `every`.
        target_every: steps from one copy of the network for the targets to the next, likewise.
        exploration: steps over which epsilon falls to `epsilon`.
        epsilon: the chance of a random action after that; 1 before the first step.
        ridge: lambda of g, which draws to the head before the update.
        clip_rewards: whether the signs of rewards are learned from; returns are true ones.
        evaluated: transitions on which records are evaluated.
        frames: of the environment in a step.

    Raises:
        ArgumentError: a number is out of its range, or does not fit the others.
    """

    gamma: float = 0.99
    capacity: int = 10_000
    batch: int = 64
    every: int = 4
    start: int = 500
    target_every: int = 500
    exploration: int = 7_500
    epsilon: float = 0.05
    ridge: float = 1.0
    clip_rewards: bool = False
    evaluated: int = 256
    frames: int = 1

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.type is int:
                check_positive_integer(getattr(self, field.name), f"`{field.name}`")
        check_flag(self.clip_rewards, "clip_rewards")
        positive(self.ridge, "`ridge`")
        for name in ("gamma", "epsilon"):
            positive(getattr(self, name), f"`{name}`", zero_allowed=True)
            if getattr(self, name) > 1 or (name == "gamma" and self.gamma == 1):
                most = "below 1" if name == "gamma" else "at most 1"
                raise ArgumentError(f"`{name}` must be {most}, got {getattr(self, name)}.")
        for name in ("start", "target_every"):
            if getattr(self, name) % self.every:
                raise ArgumentError(
                    f"`{name}` must be a multiple of `every`, {self.every}, since updates are made "
                    f"every {self.every} steps; got {getattr(self, name)}."
                )

    def steps(self, updates: int) -> int:
        """How many steps are made when there were some updates."""
        return self.start + (updates - 1) * self.every if updates else 0

    def updates(self, steps: int) -> int:
        """How many updates there are when some steps are made."""
        return max(0, 1 + (steps - self.start) // self.every)

    def exploring(self, step: int) -> float:
        """Epsilon at a step, from 0: linear from 1 to `epsilon`."""
        return max(self.epsilon, 1 - (1 - self.epsilon) * step / self.exploration)
