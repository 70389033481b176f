"""Deep Q-learning of Atari games."""

import functools
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from bilevel.core.checks import check_positive_integer
from bilevel.core.optional import extra
from bilevel.errors import NotEnoughMemoryError, counted
from problems.deep_q.arcade import NEEDS, Arcade, check_game
from problems.deep_q.convolutional import Convolutional
from problems.deep_q.environment import Environment
from problems.deep_q.frames import FrameRing
from problems.deep_q.memory import free_bytes, spelled
from problems.deep_q.problem import DeepQ
from problems.deep_q.settings import Settings

FRAMES = 4
"""Of the game in an agent step."""
SAFE = 0.9
"""The part of the memory that is free which we advise to use."""


def remembered(environment: Environment, observations: Tensor, capacity: int) -> FrameRing:
    """A memory of frames; `environment`, an `Arcade`, makes them again after a pause."""
    assert isinstance(environment, Arcade)
    return FrameRing(observations, capacity, environment)


class Atari(DeepQ):
    """Deep Q-learning of one game; see `DeepQ`.

    Attributes:
        game: its name.
        longest: agent steps of an episode at most.
    """

    usual: ClassVar[Mapping[str, float]] = {
        "body_lr": 2.5e-4,
        "head_lr": 1.25e-3,
        "seeds": 3,
        "steps": 61_251,  # a million frames
    }

    def __init__(self, game: str, longest: int, network: Convolutional, settings: Settings) -> None:
        self.game, self.longest = game, longest
        make = functools.partial(Arcade, game=game, longest=longest)
        note = (
            f"{game} of the Arcade Learning Environment, {longest:,} steps are the most of an "
            "episode; returns are its scores."
        )
        super().__init__(make, network, make([0]).actions, settings, replay=remembered, note=note)

    def bytes_of(self, runs: int) -> int:
        """What the replay memories of some runs take once they are full."""
        return FrameRing.bytes_of(runs, self.settings.capacity, longest=self.longest)

    @override
    def room(self, runs: int) -> str:
        needed, free = self.bytes_of(runs), free_bytes()
        capacity = self.settings.capacity
        take = "takes" if runs == 1 else "take"
        needs = f"{counted(runs, 'run')} of {capacity:,} transitions {take} {spelled(needed)}"
        if free is None or needed <= free:
            known = "" if free is None else f"; {spelled(free)} are free"
            return f"Replay memory: {needs} when they are full{known}."
        fits = int(SAFE * capacity * free / needed)
        less = f"Remember less (--set capacity={fits}), or train"
        raise NotEnoughMemoryError(
            f"The replay memory of {needs}, and {spelled(free)} of memory are free. "
            f"{less if fits >= self.settings.start else 'Train'} fewer seeds or strategies: what "
            "they remember is held to the end."
        )


def atari(
    *,
    game: str = "pong",
    filters: int = 16,
    width: int = 256,
    gamma: float = 0.99,
    capacity: int = 100_000,
    batch: int = 32,
    every: int = 4,
    start: int = 5_000,
    target_every: int = 2_500,
    exploration: int = 250_000,
    epsilon: float = 0.05,
    ridge: float = 1.0,
    evaluated: int = 256,
    episode_steps: int = 27_000,
) -> Atari:
    """Deep Q-learning of an Atari game, in steps that are updates.

    Rewards are learned from by their signs; returns are the game's scores. A step of the agent is
    four frames of the game.

    Args:
        game: pong, breakout, space_invaders, qbert, or another that ale-py comes with.
        filters: channels of the convolution.
        width: of the layer after it, the features of the head.
        gamma: see `Settings`, and the following.
        capacity: likewise; a run takes 7.1 kB for each.
        batch: likewise.
        every: likewise.
        start: likewise.
        target_every: likewise.
        exploration: likewise.
        epsilon: likewise.
        ridge: likewise.
        evaluated: likewise.
        episode_steps: agent steps of an episode at most, after which it is cut: 108,000 frames,
            half an hour of play, as in the literature.

    Raises:
        UnknownNameError: there is no such game; the nearest one is shown.
        ArgumentError: a number is out of its range.
        MissingPackageError: ale-py is not installed; says which extra has it.

    Examples:
        >>> import bilevel
        >>> bilevel.load_problem("atari", game="breakout", capacity=1000).settings.capacity
        1000
    """
    extra("ale_py", "atari", NEEDS)
    check_game(game)
    check_positive_integer(episode_steps, "`episode_steps`")
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
        clip_rewards=True,
        evaluated=evaluated,
        frames=FRAMES,
    )
    return Atari(game, episode_steps, Convolutional(filters, width=width), settings)
