"""Scripted games of small frames, for replay memories of frames; and lists of what happened."""

import numpy as np
import torch

from problems.deep_q.environment import Moved

STACK, SHAPE = 4, (3, 2)
ODD = np.array([2_654_435_761, 40_503, 668_265_263, 374_761_393, 2_246_822_519, 3_266_489_917])


class Scripted:
    """R runs of a game whose frames and ends are random, functions of run, episode and step."""

    longest = 30

    def __init__(self, runs=3, mean=8):
        self.runs, self.mean = runs, mean
        self.episode, self.steps = [0] * runs, [0] * runs
        self.played = [[] for _ in range(runs)]
        self.stacks = torch.stack([self._first(r) for r in range(runs)])

    def frame(self, run, episode, actions):
        """The frame that actions lead to: by the last one, their sum and how many there were."""
        told = run + 3 * episode + 100_003 * len(actions) + 7_919 * int(sum(actions))
        mixed = (told * ODD >> 7) % 255 + 1
        return torch.from_numpy(mixed.astype(np.uint8)).reshape(SHAPE)

    def frames_of(self, run, episode, actions):
        for n in range(len(actions) + 1):
            yield self.frame(run, episode, actions[:n].tolist())

    def _first(self, run):
        zeros = torch.zeros(STACK - 1, *SHAPE, dtype=torch.uint8)
        return torch.cat([zeros, self.frame(run, self.episode[run], [])[None]])

    def step(self, actions, source):
        before, coins = self.stacks, source.random((3, self.runs))
        reached = before.roll(-1, 1)
        for r, action in enumerate(actions.tolist()):
            self.played[r].append(action)
            reached[r, -1] = self.frame(r, self.episode[r], self.played[r])
        over = torch.from_numpy(coins[0] < 0.5 / self.mean)
        long = torch.tensor([len(some) >= self.longest for some in self.played])
        cut_off = (torch.from_numpy(coins[1] < 0.5 / self.mean) | long) & ~over
        lost = torch.from_numpy(coins[2] < 0.1) & ~over
        self.stacks = reached.clone()
        for r in (over | cut_off).nonzero()[:, 0].tolist():
            self.episode[r], self.played[r] = self.episode[r] + 1, []
            self.stacks[r] = self._first(r)
        rewards = torch.from_numpy(source.normal(size=self.runs).astype(np.float32))
        every = torch.ones(self.runs, dtype=torch.bool)
        return Moved(before, actions, rewards, reached, over, cut_off, lost, every, self.stacks)


class Lists:
    """The transitions of R runs in lists, and which of them a ring of so many slots still has."""

    def __init__(self, runs, slots):
        self.slots, self.written = slots, [0] * runs
        self.lists, self.between = [[] for _ in range(runs)], [True] * runs

    def add(self, moved):
        told = zip(*(part.numpy() for part in moved), strict=True)
        for r, (before, action, reward, reached, over, cut_off, lost, stored, _) in enumerate(told):
            if not stored:
                continue
            self.written[r] += self.between[r]  # the first frame of an episode
            continues = np.float32(not (over or lost))
            transition = before, action, reward, reached, continues
            self.lists[r].append((self.written[r] - 1, transition))
            self.written[r] += 1
            self.between[r] = over or cut_off
            while self.lists[r][0][0] < self.written[r] - self.slots + STACK - 1:
                del self.lists[r][0]

    def check(self, drawn, numbers):
        """Whether these are the transitions that the numbers choose."""
        chosen = [
            [of_run[int(place * len(of_run))][1] for place in places]
            for of_run, places in zip(self.lists, numbers.tolist(), strict=True)
        ]
        for place, found in enumerate(drawn):
            expected = np.array([[one[place] for one in of_run] for of_run in chosen])
            assert found.numpy().dtype == expected.dtype
            assert np.array_equal(found.numpy(), expected)
