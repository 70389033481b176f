"""The episodes of R runs, and what is said of a run by them."""

import torch
from torch import Tensor

from problems.deep_q.environment import Moved

LAST = 0.2
"""The part of the steps whose episodes "last" is the mean of."""
FIRST = 64
"""Places for episodes at first; twice as many whenever they are full."""


class Episodes:
    """Returns and lengths of all episodes, in the order in which they ended.

    Args:
        runs: how many runs, R.
    """

    def __init__(self, runs: int) -> None:
        self.steps = 0
        self._return, self._length = torch.zeros(runs, dtype=torch.float64), torch.zeros(runs)
        self._latest = torch.zeros(runs, dtype=torch.float64)
        self._area = torch.zeros(runs, dtype=torch.float64)
        self._count = torch.zeros(runs, dtype=torch.int64)
        # the step in which it ended, from 0; its return; its length
        self._ended = torch.zeros(runs, FIRST, 3, dtype=torch.float64)

    def add(self, moved: Moved) -> None:
        """What a step added to the episodes, which may have ended; rewards are the true ones."""
        self._return += moved.rewards * moved.stored
        self._length += moved.stored
        ended = (moved.ended & moved.stored).nonzero()[:, 0]
        if len(ended):
            self._close(ended)
        self._area += self._latest
        self.steps += 1

    def _close(self, runs: Tensor) -> None:
        count = self._count[runs]
        if int(count.max()) == self._ended.shape[1]:
            self._ended = torch.cat([self._ended, torch.zeros_like(self._ended)], 1)
        returns, lengths = self._return[runs], self._length[runs].double()
        step = torch.full_like(returns, self.steps)
        self._ended[runs, count] = torch.stack([step, returns, lengths], 1)
        self._latest[runs] = returns
        self._count[runs] = count + 1
        self._return[runs], self._length[runs] = 0.0, 0.0

    def ended(self, run: int) -> Tensor:
        """The episodes of a run that ended: (n, 3), the step, the return and the length of each."""
        return self._ended[run, : int(self._count[run])]

    @property
    def last(self) -> Tensor:
        """Mean return of the episodes that ended in the last fifth of the steps, (R,).

        That of the episode that goes on, where none ended.
        """
        places = torch.arange(self._ended.shape[1])
        late = self._ended[:, :, 0] >= self.steps * (1 - LAST)
        late &= places < self._count.unsqueeze(1)
        count = late.sum(1)
        mean = (self._ended[:, :, 1] * late).sum(1) / count
        return torch.where(count > 0, mean, self._return)

    @property
    def area(self) -> Tensor:
        """Mean over all steps of the return of the latest episode, 0 before the first, (R,)."""
        return self._area / max(1, self.steps)

    def recorded(self) -> dict[str, Tensor]:
        """What records tell of the episodes, each (R,)."""
        at = (self._count - 1).clamp(min=0)
        length = self._ended[torch.arange(len(at)), at, 2]
        return {
            "last_return": self.last,
            "area_return": self.area,
            "latest_return": self._latest.clone(),
            "episode_length": length,
            "episodes": self._count.clone(),
        }

    def snapshot(self) -> dict[str, Tensor]:
        """All of it, leaves (R, ...)."""
        most = max(1, int(self._count.max()))
        return {
            "steps": torch.full_like(self._count, self.steps),
            "open": torch.stack([self._return, self._length.double()], 1),
            "sums": torch.stack([self._latest, self._area], 1),
            "count": self._count.clone(),
            "ended": self._ended[:, :most].clone(),
        }

    def go_on_from(self, snapshot: dict[str, Tensor]) -> None:
        """Take up a snapshot."""
        self.steps = int(snapshot["steps"][0])
        self._return, length = snapshot["open"].clone().unbind(1)
        self._length = length.float()
        self._latest, self._area = (column.clone() for column in snapshot["sums"].unbind(1))
        self._count, self._ended = snapshot["count"].clone(), snapshot["ended"].clone()
