"""What a replay memory is, and one of whole observations."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from problems.deep_q.environment import Environment, Moved


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
    """How a replay memory is made."""

    def __call__(self, environment: Environment, observations: Tensor, capacity: int) -> Replay:
        """An empty one.

        Args:
            environment: that it remembers, whose snapshot is taken up before its own.
            observations: the first ones, (R, ...).
            capacity: how many transitions of each run are kept.
        """


class WholeReplay:
    """Remembers whole observations, for environments whose observations are small.

    All of a transition is one row of floating numbers, (capacity R + 1, 2 D + 3): one look-up for a
    batch of all runs. The last row takes what is not stored.

    Args:
        observations: (R, ...), floating: their shape and type.
        capacity: how many transitions of each run are kept; the oldest one goes first.

    Examples:
        >>> import torch
        >>> from problems.deep_q.replay import WholeReplay
        >>> WholeReplay(torch.zeros(3, 4), 100).filled
        tensor([0, 0, 0])
    """

    def __init__(self, observations: Tensor, capacity: int) -> None:
        self.runs, self.shape, self.capacity = len(observations), observations.shape[1:], capacity
        self._size = self.shape.numel()
        self._rows = observations.new_zeros(capacity * self.runs + 1, 2 * self._size + 3)
        self._pushed = torch.zeros(self.runs, dtype=torch.int64)
        self._run = torch.arange(self.runs)

    @property
    def filled(self) -> Tensor:
        """How many transitions there are of each run, (R,)."""
        return self._pushed.clamp(max=self.capacity)

    def push(self, moved: Moved, rewards: Tensor) -> None:
        """Remember the transitions that are stored."""
        kind = self._rows
        columns = torch.stack([rewards.to(kind), moved.actions.to(kind), (~moved.cut).to(kind)], 1)
        rows = torch.cat([moved.before.flatten(1), moved.reached.flatten(1), columns], 1)
        places = (self._pushed % self.capacity) * self.runs + self._run
        places.masked_fill_(~moved.stored, len(kind) - 1)
        kind.index_copy_(0, places, rows)
        self._pushed += moved.stored

    def draw(self, numbers: Tensor) -> Transitions:
        """Transitions (R, B): the number u chooses the one of age rank floor(u filled)."""
        filled = self.filled.unsqueeze(1)
        oldest = (self._pushed.unsqueeze(1) - filled) % self.capacity
        places = (oldest + (numbers * filled).long()) % self.capacity
        index = places * self.runs + self._run.unsqueeze(1)
        rows = self._rows.index_select(0, index.flatten()).reshape(*numbers.shape, -1)
        d = self._size
        observations, reached = (
            part.reshape(*numbers.shape, *self.shape)
            for part in (rows[..., :d], rows[..., d : 2 * d])
        )
        rewards, actions, continues = rows[..., 2 * d :].unbind(2)
        return Transitions(observations, actions.long(), rewards, reached, continues)

    def snapshot(self) -> dict[str, Tensor]:
        """The rows that are filled in some run, (R, n, 2 D + 3), and how many were pushed."""
        most = int(self.filled.max())
        rows = self._rows[: most * self.runs].reshape(most, self.runs, self._rows.shape[1])
        return {"rows": rows.transpose(0, 1).contiguous(), "pushed": self._pushed.clone()}

    def go_on_from(self, snapshot: dict[str, Tensor]) -> None:
        """Take up a snapshot of the same capacity."""
        rows = snapshot["rows"].transpose(0, 1).flatten(0, 1)
        self._rows[: len(rows)] = rows
        self._pushed = snapshot["pushed"].clone()


def whole(environment: Environment, observations: Tensor, capacity: int) -> WholeReplay:
    """A memory of whole observations, for any environment."""
    return WholeReplay(observations, capacity)
