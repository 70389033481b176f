"""Replay memory of stacked frames that keeps each frame once: rings of uint8 images of R runs."""

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bilevel.core.checks import check_positive_integer
from bilevel.errors import ArgumentError, ShapeError
from problems.deep_q.environment import Moved
from problems.deep_q.replay import Transitions

BESIDE = 7
"""Bytes of a slot beside its frame: reward 4; action, cut and age 1 each."""
BYTES = ("actions", "rewards", "cut", "ages")
Numbers = NDArray[np.int64]


class ShowsAgain(Protocol):
    """Something that knows how to make an episode's frames a second time."""

    @property
    def longest(self) -> int:
        """The most actions that an episode has."""

    def frames_of(self, run: int, episode: int, actions: Tensor) -> Iterable[Tensor]:
        """The first frame of an episode, (H, W), and those that its first `actions` (n,) led to."""


class FrameRing:
    """The last transitions of R runs whose observations are stacks of the K newest frames.

    Every frame has a slot of its own, once, with the action taken at it and what came of that:
    H W + 7 bytes a transition, where stacks would take 2 K H W. The last frame of an episode has a
    slot as well, which is never drawn. Before the first frame of an episode a stack is zero.

    Slots are written in turn. With w of them written so far, those of a run that can be drawn are
    j with `max(0, w - S + K - 1) <= j < w - 1`, but for last frames: older ones are still needed by
    stacks, and the frame after slot w - 1 is not there yet.

    Args:
        observations: the first ones, (R, K, H, W) uint8: the ring is empty, they tell its shape.
        capacity: S of each run: the transitions that it remembers, and a slot for every episode.
        again: makes frames a second time, the same: snapshots then hold actions in the place of
            frames, which are a thousand times as large.

    Raises:
        ArgumentError: `capacity` is below K + 2.
        ShapeError: the observations are no stacks of bytes.
    """

    def __init__(
        self, observations: Tensor, capacity: int, again: ShowsAgain | None = None
    ) -> None:
        if observations.ndim != 4 or observations.dtype != torch.uint8:
            raise ShapeError(
                "A ring of frames takes stacks (R, K, H, W) of type uint8, got "
                f"{tuple(observations.shape)} of type {observations.dtype}."
            )
        self.runs, self.stack, *shape = observations.shape
        check_positive_integer(capacity, "`capacity`")
        if capacity < self.stack + 2:
            raise ArgumentError(
                f"A replay of stacks of {self.stack} needs a capacity of at least "
                f"{self.stack + 2}, got {capacity}."
            )
        self.slots, self.shape, self.again = capacity, tuple(shape), again
        rows = self.runs * capacity
        # one row more, which is zero: frames before an episode's first are gathered like others
        self.frames = torch.empty(rows + 1, shape[0] * shape[1], dtype=torch.uint8)
        self.frames[rows] = 0
        self.actions = np.zeros(rows, np.uint8)
        self.rewards = np.zeros(rows, np.float32)
        self.cut = np.zeros(rows, np.bool_)
        self.ages = np.zeros(rows, np.uint8)  # frames of its episode before it, K - 1 at most
        self.written = np.zeros(self.runs, np.int64)
        self.fresh = np.ones(self.runs, np.bool_)  # no frame of the current episode is there yet
        # the first slots of episodes, from the one that the oldest slot is of, and its number
        self.starts = [np.zeros(0, np.int64) for _ in range(self.runs)]
        self.number = np.zeros(self.runs, np.int64)
        # actions of the same steps, and those before them in the oldest slot's episode
        longest = capacity + again.longest if again else 0
        self.log = np.zeros((self.runs, longest), np.uint8)

    @staticmethod
    def bytes_of(
        runs: int, slots: int, shape: tuple[int, int] = (84, 84), *, longest: int | None = None
    ) -> int:
        """What such a ring takes; one that makes frames again has `longest`, and a log."""
        frame = shape[0] * shape[1]
        log = 0 if longest is None else slots + longest
        return runs * (slots * (frame + BESIDE) + log) + frame

    @property
    def nbytes(self) -> int:
        """What it takes when all slots are written; memory that was not yet written is not used."""
        beside = (self.log, self.actions, self.rewards, self.cut, self.ages)
        return int(self.frames.nbytes) + sum(one.nbytes for one in beside)

    @property
    def used(self) -> int:
        """What of it is written now, in bytes."""
        return int(np.minimum(self.written, self.slots).sum()) * self.nbytes // len(self.frames)

    @property
    def filled(self) -> Tensor:
        """How many transitions can be drawn, (R,), int64."""
        return torch.tensor([self._known(r)[1] for r in range(self.runs)])

    def push(self, moved: Moved, rewards: Tensor) -> None:
        """Remember the transitions that are `stored`, with `rewards` (R,) to learn from.

        Raises:
            ShapeError: an episode begins with a stack of more than one frame.
        """
        runs = np.flatnonzero(moved.stored.numpy())
        starting = runs[self.fresh[runs]]
        if len(starting):
            self._begin(starting, moved.before[starting])
        rows = self._rows(runs, self.written[runs] - 1)
        self.actions[rows] = moved.actions.numpy()[runs]
        self.rewards[rows] = rewards.numpy()[runs]
        self.cut[rows] = moved.cut.numpy()[runs]
        if self.log.shape[1]:
            self.log[runs, self._taken[runs] % self.log.shape[1]] = self.actions[rows]
        after = self._write(runs, moved.reached[runs, -1])
        self.ages[after] = np.minimum(self.ages[rows] + 1, self.stack - 1)
        self.fresh[runs] = moved.ended.numpy()[runs]

    def draw(self, numbers: Tensor) -> Transitions:
        """Transitions at `numbers` (R, B) of [0, 1), from the oldest to the newest.

        Raises:
            ArgumentError: a run has none.
        """
        slots = np.empty(tuple(numbers.shape), np.int64)
        for r, places in enumerate(numbers.numpy()):
            first, count, before = self._known(r)
            if not count:
                raise ArgumentError(f"Run {r} has no transition yet: push before you draw.")
            nth = (places * count).astype(np.int64)
            slots[r] = first + nth + np.searchsorted(before, nth, side="right")
        return self.gather(slots)

    def gather(self, slots: Numbers) -> Transitions:
        """The transitions of slots (R, B), counted since the first that was written."""
        runs = np.arange(self.runs)[:, None]
        rows = self._rows(runs, slots)
        back = np.arange(self.stack - 1, -2, -1)  # the newest frame of what is reached comes last
        sources = self._rows(runs[..., None], slots[..., None] - back)
        sources[self.ages[rows][..., None] < back] = self.runs * self.slots
        taken = self.frames.index_select(0, torch.from_numpy(sources.reshape(-1)))
        frames = taken.reshape(*slots.shape, self.stack + 1, *self.shape)
        return Transitions(
            frames[:, :, :-1],
            torch.from_numpy(self.actions[rows].astype(np.int64)),
            torch.from_numpy(self.rewards[rows]),
            frames[:, :, 1:],
            torch.from_numpy(1 - self.cut[rows].astype(np.float32)),
        )

    def snapshot(self) -> dict[str, Tensor]:
        """All that evolves, by name, leaves (R, ...); slots that no run wrote are left out."""
        used = int(min(self.written.max(), self.slots))
        found = {name: self._used(getattr(self, name), used) for name in BYTES}
        most = max(map(len, self.starts))
        starts = [np.pad(of_run, (0, most - len(of_run))) for of_run in self.starts]
        found |= {"written": self.written, "fresh": self.fresh, "number": self.number}
        found |= {"starts": np.stack(starts), "episodes": np.array([*map(len, self.starts)])}
        if self.again is not None:
            found["log"] = self.log[:, : int(self._taken.max())]
        copies = {name: torch.from_numpy(one.copy()) for name, one in found.items()}
        if self.again is None:
            copies["frames"] = self._frames_used(used).clone()
        return copies

    def go_on_from(self, snapshot: dict[str, Tensor]) -> None:
        """Stand where the snapshot was taken; frames that it does not hold are made again."""
        found = {name: one.numpy() for name, one in snapshot.items() if name != "frames"}
        used = found["actions"].shape[1]
        for name in BYTES:
            self._used(getattr(self, name), used)[:] = found[name]
        for name in ("written", "fresh", "number"):
            getattr(self, name)[:] = found[name]
        counts = zip(found["starts"], found["episodes"], strict=True)
        self.starts = [starts[:count].copy() for starts, count in counts]
        if self.again is None:
            self._frames_used(used).copy_(snapshot["frames"])
            return
        self.log[:, : found["log"].shape[1]] = found["log"]
        for r in range(self.runs):
            self._make_again(r, self.again)

    def _make_again(self, r: int, again: ShowsAgain) -> None:
        """Fill the slots of a run by going through its episodes once more."""
        oldest = max(0, self.written[r] - self.slots)
        ends = [*(self.starts[r][1:] - 1), self.written[r] - 1]
        for place, (start, end) in enumerate(zip(self.starts[r], ends, strict=True)):
            number = int(self.number[r]) + place
            steps = np.arange(start, end) - number  # every episode before took a slot more
            actions = torch.from_numpy(self.log[r, steps % self.log.shape[1]].astype(np.int64))
            for slot, frame in enumerate(again.frames_of(r, number, actions), int(start)):
                if slot >= oldest:
                    self.frames[int(self._rows(r, slot))] = frame.reshape(-1)

    def _begin(self, runs: Numbers, stacks: Tensor) -> None:
        """Write the first frames of episodes, the newest of `stacks` (m, K, H, W)."""
        if bool(stacks[:, :-1].any()):
            raise ShapeError(
                "An episode's first observation must be its first frame after frames of zeros, "
                "since a ring of frames knows nothing of what came before."
            )
        for r in runs:
            self.starts[r] = np.append(self.starts[r], self.written[r])
        self.ages[self._write(runs, stacks[:, -1])] = 0

    def _write(self, runs: Numbers, frames: Tensor) -> Numbers:
        rows = self._rows(runs, self.written[runs])
        self.frames.index_copy_(0, torch.from_numpy(rows), frames.flatten(1))
        self.written[runs] += 1
        for r in runs:  # forget an episode once its last slot is overwritten
            starts = self.starts[r]
            if len(starts) > 1 and starts[1] <= self.written[r] - self.slots:
                self.starts[r], self.number[r] = starts[1:], self.number[r] + 1
        return rows

    @property
    def _taken(self) -> Numbers:
        """How many actions runs took so far, (R,)."""
        begun = self.number + np.array([len(starts) for starts in self.starts], np.int64)
        taken: Numbers = self.written - begun
        return taken

    def _known(self, r: int) -> tuple[int, int, Numbers]:
        """The first slot that can be drawn, how many can, and where last frames are among them.

        The n-th that can be drawn is slot `first + n`, plus the number of last ones up to there.
        """
        written = int(self.written[r])
        first = max(0, written - self.slots + self.stack - 1)
        last = self.starts[r][1:] - 1
        last = last[np.searchsorted(last, first) :]
        count = max(0, written - 1 - first - len(last))
        return first, count, last - first - np.arange(len(last))

    def _rows(self, runs: Numbers | int, slots: Numbers | int) -> Numbers:
        found: Numbers = np.asarray(runs * self.slots + slots % self.slots)
        return found

    def _used(self, of_rows: NDArray[Any], used: int) -> NDArray[Any]:
        return of_rows.reshape(self.runs, self.slots)[:, :used]

    def _frames_used(self, used: int) -> Tensor:
        found: Tensor = self.frames[:-1].view(self.runs, self.slots, -1)[:, :used]
        return found
