"""CartPole, all runs in one vector environment."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bilevel.core.checks import check_flag
from bilevel.core.generators import generator
from bilevel.core.optional import extra
from problems.deep_q.environment import Moved
from problems.deep_q.network import Layers
from problems.deep_q.problem import DeepQ
from problems.deep_q.settings import Settings

PURPOSE = "CartPole"
ACTIONS, NUMBERS = 2, 4
SCALE = np.array([1 / 2.4, 1 / 2, 1 / 0.21, 1 / 2])
"""Of position, speed, angle and angular speed."""
BLOCK = 64
"""Episodes whose starts are drawn together."""


class CartPole:
    """CartPole-v1 of gymnasium for R runs.

    Its vector environment begins an episode in the step after the last one, which is not stored,
    and draws all starts from one generator. They are overwritten with the start of (seed, episode).

    Args:
        seeds: of the runs.
        dtype: of observations.
        scaled: whether they are multiplied by (1/2.4, 1/2, 1/.21, 1/2).

    Raises:
        MissingPackageError: gymnasium is not installed; says which extra has it.
    """

    actions = ACTIONS

    def __init__(self, seeds: Sequence[int], dtype: torch.dtype, *, scaled: bool = True) -> None:
        gymnasium = extra("gymnasium", "rl", PURPOSE)
        made = gymnasium.make_vec(
            "CartPole-v1", num_envs=len(seeds), vectorization_mode="vector_entry_point"
        )
        self._made: Any = made.unwrapped
        self.seeds, self.dtype = list(seeds), dtype
        self._scale = SCALE if scaled else np.ones(NUMBERS)
        self._episode = np.zeros(len(seeds), dtype=np.int64)
        self._before = torch.empty(0)
        self._no = torch.zeros(len(seeds), dtype=torch.bool)

    def reset(self) -> Tensor:
        """Begin episode 0 of every run."""
        self._made.reset(seed=0)
        self._episode[:] = 0
        for run, seed in enumerate(self.seeds):
            self._made.state[:, run] = start(seed, 0)
        self._before = self._observed()
        return self._before

    def step(self, actions: Tensor) -> Moved:
        """Take the actions; those of runs that begin an episode are not looked at."""
        before, begins = self._before, self._made.prev_done.copy()
        _, rewards, terminated, truncated, _ = self._made.step(actions.numpy())
        for run in np.flatnonzero(begins):
            self._episode[run] += 1
            self._made.state[:, run] = start(self.seeds[run], int(self._episode[run]))
        self._before = reached = self._observed()
        ends = torch.from_numpy(terminated), torch.from_numpy(truncated)
        stored = torch.from_numpy(~begins)
        kept = torch.from_numpy(rewards)
        return Moved(before, actions, kept, reached, *ends, self._no, stored, reached)

    def snapshot(self) -> dict[str, Tensor]:
        """The states, and which episodes they are in."""
        return {
            "state": torch.from_numpy(self._made.state.T.copy()),
            "begins": torch.from_numpy(self._made.prev_done.copy()),
            "length": torch.from_numpy(self._made.steps.copy()),
            "episode": torch.from_numpy(self._episode.copy()),
        }

    def go_on_from(self, snapshot: dict[str, Tensor]) -> Tensor:
        """Put the runs where they were."""
        self._made.reset(seed=0)
        self._made.state = snapshot["state"].T.numpy().copy()
        self._made.prev_done = snapshot["begins"].numpy().copy()
        self._made.steps = snapshot["length"].numpy().copy()
        self._episode = snapshot["episode"].numpy().copy()
        self._before = self._observed()
        return self._before

    def _observed(self) -> Tensor:
        return torch.from_numpy(self._made.state.T * self._scale).to(self.dtype)


def start(seed: int, episode: int) -> NDArray[np.float64]:
    """Where an episode begins: four numbers between -.05 and .05."""
    block, place = divmod(episode, BLOCK)
    found: NDArray[np.float64] = _starts(seed, block)[place]
    return found


@functools.lru_cache(maxsize=4096)
def _starts(seed: int, block: int) -> NDArray[np.float64]:
    source = generator(seed, "deep q", "resets", block)
    drawn = torch.rand(BLOCK, NUMBERS, generator=source, dtype=torch.float64)
    found: NDArray[np.float64] = (0.1 * drawn - 0.05).numpy()
    return found


def cartpole(
    *,
    scaled: bool = True,
    width: int = 64,
    gamma: float = 0.99,
    capacity: int = 10_000,
    batch: int = 64,
    every: int = 4,
    start: int = 500,
    target_every: int = 500,
    exploration: int = 7_500,
    epsilon: float = 0.05,
    ridge: float = 1.0,
) -> DeepQ:
    """Deep Q-learning of CartPole-v1, in steps that are updates.

    Args:
        scaled: whether observations are multiplied by (1/2.4, 1/2, 1/.21, 1/2).
        width: of both hidden layers.
        gamma: see `Settings`, and the following.
        capacity: likewise.
        batch: likewise.
        every: likewise.
        start: likewise.
        target_every: likewise.
        exploration: likewise.
        epsilon: likewise.
        ridge: likewise.

    Raises:
        ArgumentError: a number is out of its range.
        MissingPackageError: gymnasium is not installed; says which extra has it.

    Examples:
        >>> import bilevel
        >>> bilevel.load_problem("cartpole", gamma=0.9).settings.gamma
        0.9
    """
    extra("gymnasium", "rl", PURPOSE)
    check_flag(scaled, "scaled")
    settings = Settings(
        gamma=gamma,
        capacity=capacity,
        batch=batch,
        every=every,
        start=start,
        target_every=target_every,
        exploration=exploration,
        epsilon=epsilon,
        ridge=ridge,
    )
    how = "scaled" if scaled else "raw"
    note = f"CartPole-v1 of gymnasium, {how} observations; 500 steps are the most of an episode."
    environment = functools.partial(CartPole, scaled=scaled)
    return DeepQ(environment, Layers(NUMBERS, (width, width)), ACTIONS, settings, note=note)
