"""Atari games of the Arcade Learning Environment, R runs of one game, with the extra [atari]."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bilevel.core.checks import check_positive_integer
from bilevel.core.generators import generator
from bilevel.core.optional import extra
from bilevel.errors import check_name
from problems.deep_q.environment import Moved

NEEDS = "Playing Atari games"
NO_LIMIT = 2**31 - 1
"""Frames of an episode for ALE: ours is the limit that counts."""


@functools.cache
def games() -> list[str]:
    """The games that ale-py comes with.

    Raises:
        MissingPackageError: the extra [atari] is not installed.
    """
    return sorted(extra("ale_py.roms", "atari", NEEDS).get_all_rom_ids())


def check_game(game: object) -> None:
    """Raise an `UnknownNameError`, with the nearest name, unless there is such a game."""
    check_name(game, games(), "Atari game")


def vector_environment(game: str, runs: int) -> Any:
    """R games in one thread: stacks of four grey frames, of every fourth the larger of two pixels.

    ALE itself says when the game is over; lives are told apart from that by counting them.
    """
    extra("gymnasium", "atari", NEEDS)
    ale = extra("ale_py", "atari", NEEDS)
    ale.ALEInterface.setLoggerMode(ale.LoggerMode.Error)  # else a line of greeting for each game
    made = extra("ale_py.vector_env", "atari", NEEDS).AtariVectorEnv
    return made(
        game,
        runs,
        num_threads=1,
        max_num_frames_per_episode=NO_LIMIT,
        reward_clipping=False,
        life_loss_info=False,
    )


class Arcade:
    """R runs of one game, an `Environment`.

    Observations are ALE's stacks (R, 4, 84, 84), uint8. Each episode starts by a reset of its own
    game alone, with a seed of run and episode, so that nothing else has a say in it and an episode
    can be played again from its actions: that is what snapshots hold.

    An episode is over where ALE says so, or after `longest` steps (truncated: Breakout stands still
    until FIRE is chosen). A life is lost where their number falls, and the game goes on: some
    games count down to 0 with a life still to play.

    Args:
        seeds: of the runs.
        dtype: not looked at: observations are bytes.
        game: a name such as "pong", see `games`.
        longest: agent steps of an episode at most.

    Raises:
        UnknownNameError: there is no such game; the nearest is shown.
        ArgumentError: `longest` is no positive integer.
        MissingPackageError: the extra [atari] is not installed.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        dtype: torch.dtype = torch.uint8,
        *,
        game: str,
        longest: int = 27_000,
    ) -> None:
        check_game(game)
        check_positive_integer(longest, "`longest`")
        self.game, self.seeds, self.longest = game, tuple(seeds), longest
        self.ale = vector_environment(game, len(self.seeds))
        self.episode = np.zeros(len(self.seeds), np.int64)
        self.steps = np.zeros(len(self.seeds), np.int64)
        self.taken = np.zeros((len(self.seeds), longest), np.uint8)  # actions of the episode
        self.lives = np.zeros(len(self.seeds), np.int64)
        self.stacks = torch.zeros(len(self.seeds), 4, 84, 84, dtype=torch.uint8)

    @property
    def actions(self) -> int:
        """How many the game knows."""
        return int(self.ale.single_action_space.n)

    def seed_of(self, run: int, episode: int) -> int:
        """What ALE is reset with: it takes 31 bits."""
        return generator(self.seeds[run], "episode", episode).initial_seed() & 0x7FFF_FFFF

    def reset(self) -> Tensor:
        """Begin the first episode of every run."""
        self.episode[:] = 0
        self._begin(np.ones(len(self.seeds), np.bool_))
        return self.stacks

    def step(self, actions: Tensor) -> Moved:
        """Take the actions (R,); who has come to an end begins anew."""
        before, chosen = self.stacks, actions.numpy()
        reached, rewards, over, _, told = self.ale.step(chosen)
        self.taken[np.arange(len(chosen)), self.steps] = chosen
        self.steps += 1
        cut_off = ~over & (self.steps >= self.longest)
        lost = ~over & (told["lives"] < self.lives)
        self.lives = told["lives"].astype(np.int64)
        self.stacks = after = torch.from_numpy(reached)
        ended = over | cut_off
        if ended.any():
            self.episode += ended
            self._begin(ended)
        scores = torch.from_numpy(rewards.astype(np.float32))
        ends = torch.from_numpy(over), torch.from_numpy(cut_off), torch.from_numpy(lost)
        every = torch.ones(len(chosen), dtype=torch.bool)
        return Moved(before, actions, scores, after, *ends, every, self.stacks)

    def snapshot(self) -> dict[str, Tensor]:
        """Which episode runs are in, and what they did in it."""
        most = int(self.steps.max())
        taken = self.taken[:, :most] * (np.arange(most) < self.steps[:, None])
        found: dict[str, Any] = {"episode": self.episode, "steps": self.steps, "taken": taken}
        return {name: torch.from_numpy(one.copy()) for name, one in found.items()}

    def go_on_from(self, snapshot: dict[str, Tensor]) -> Tensor:
        """Play the current episodes again, up to where the snapshot was taken."""
        found = {name: one.numpy() for name, one in snapshot.items()}
        steps: Any = found["steps"]
        self.episode[:] = found["episode"]
        most = int(steps.max())
        self._begin(np.ones(len(steps), np.bool_))
        for t in range(most):  # all arrive together: who has fewer steps to go begins later
            late = most - steps == t
            if t and late.any():
                self._begin(late)
            again = found["taken"][np.arange(len(steps)), np.maximum(steps - most + t, 0)]
            stacks, _, _, _, told = self.ale.step(again.astype(np.int64))
            self.lives, self.stacks = told["lives"].astype(np.int64), torch.from_numpy(stacks)
        if most and (late := steps == 0).any():
            self._begin(late)
        self.steps[:] = steps
        self.taken[:, :most] = found["taken"][:, :most]
        return self.stacks

    def frames_of(self, run: int, episode: int, actions: Tensor) -> Iterator[Tensor]:
        """The frames of an episode that is played again, (84, 84): the first, and one an action."""
        ale = vector_environment(self.game, 1)
        stacks, _ = ale.reset(seed=np.array([self.seed_of(run, episode)]))
        yield torch.from_numpy(stacks[0, -1])
        for action in actions.numpy():
            stacks, *_ = ale.step(np.array([action], np.int64))
            yield torch.from_numpy(stacks[0, -1])

    def _begin(self, which: np.typing.NDArray[np.bool_]) -> None:
        """Start the episodes that are current of the runs `which` (R,)."""
        runs = np.flatnonzero(which)
        seeds = np.array([self.seed_of(r, int(self.episode[r])) for r in runs.tolist()])
        stacks, told = self.ale.reset(seed=seeds, options={"reset_mask": which})
        self.stacks = torch.from_numpy(stacks)
        self.steps[which] = 0
        self.lives = told["lives"].astype(np.int64)
