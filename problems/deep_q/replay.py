"""What a replay memory is, and one of whole observations."""

from typing import NamedTuple, Protocol

from torch import Tensor

from problems.deep_q.environment import Moved


class Transitions(NamedTuple):
    """B transitions of each of R runs.

    Attributes:
        observations: (R, B, ...), s.
        actions: (R, B), int64, a.
        rewards: (R, B), float32, r: as they are learned from.
        reached: (R, B, ...), s'.
        continues: (R, B), float32: 0 where the bootstrap is cut, else 1.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    reached: Tensor
    continues: Tensor


class Replay(Protocol):
    """The last `capacity` transitions of each of R runs.

    It draws nothing itself: the numbers that choose transitions come from the seed of a run and
    the step.
    """

    @property
    def filled(self) -> Tensor:
        """How many transitions can be drawn from now, (R,), int64."""

    def push(self, moved: Moved, rewards: Tensor) -> None:
        """Remember the transitions that are `stored`, with `rewards` (R,) to learn from.

        Where `moved.cut`, `continues` is 0. Runs have places of their own: one that skips a step
        stays where it is.
        """

    def draw(self, numbers: Tensor) -> Transitions:
        """Transitions by uniform numbers of [0, 1), (R, B), float64.

        The number u of a run chooses the one of age rank floor(u filled), from 0 for the oldest
        that can be drawn; or by any other rule that depends on u and the run alone.
        """

    def snapshot(self) -> dict[str, Tensor]:
        """All that evolves, by name, leaves (R, ...)."""

    def go_on_from(self, snapshot: dict[str, Tensor]) -> None:
        """Stand where the snapshot was taken."""


class MakesReplay(Protocol):
    """How a replay memory is made: called with the first observations (R, ...) and a capacity."""

    def __call__(self, observations: Tensor, capacity: int) -> Replay:
        """An empty one."""
