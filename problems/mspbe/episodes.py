"""Episodes of a gymnasium environment under a given policy, and their Monte-Carlo returns."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bilevel.core.arrays import array_of
from bilevel.core.checks import (
    check_function,
    check_instance,
    check_positive_integer,
    check_seed,
    single,
)
from bilevel.core.optional import extra
from bilevel.errors import ArgumentError
from problems.mspbe.process import check_discount

Array = NDArray[Any]
Policy = Callable[[Array, np.random.Generator], Any]
"""A policy: (observation, random numbers) -> action."""


class Episodes(NamedTuple):
    """Transitions in the order in which they happened.

    Attributes:
        states: (n, D).
        actions: (n,) or (n, ...).
        rewards: (n,).
        next_states: (n, D).
        terminated: (n,), whether the episode ended there.
        truncated: (n,), whether it was cut off there, by a limit of time.
    """

    states: Array
    actions: Array
    rewards: Array
    next_states: Array
    terminated: Array
    truncated: Array


def collect(
    environment: Any, policy: Policy, episodes: int, *, seed: int = 0, **options: Any
) -> Episodes:
    """Play episodes of an environment of gymnasium.

    Args:
        environment: its name, such as "CartPole-v1" or "Acrobot-v1"; or an environment, which is
            played from its next reset on and stays open.
        policy: `policy(observation, random)` returns an action; `random` is a NumPy generator.
        episodes: how many, until they end or are cut off.
        seed: of the environment and of the policy's random numbers.
        **options: for `gymnasium.make`, where the environment is a name.

    Raises:
        MissingPackageError: gymnasium is not installed.
        ArgumentError: `episodes` is no positive integer; there is no such environment, or its
            observations are no vectors; there are options for one that is made already.

    Examples:
        >>> from problems.mspbe.episodes import collect
        >>> played = collect("CartPole-v1", lambda state, random: random.integers(2), episodes=3)
        >>> played.states.shape[1], int(played.terminated.sum())
        (4, 3)
    """
    check_positive_integer(episodes, "`episodes`")
    check_function(policy, "policy", "policy(observation, random)", 2)
    check_seed(seed, "`seed`")
    gymnasium = extra("gymnasium", "rl", "collect()")
    given = isinstance(environment, gymnasium.Env)
    try:
        env = environment if given and not options else gymnasium.make(environment, **options)
    except (gymnasium.error.Error, AttributeError, TypeError) as error:
        remedy = 'Name one, such as "CartPole-v1", or pass a `gymnasium.Env` without options.'
        raise ArgumentError(f"gymnasium cannot make {environment!r}: {error}. {remedy}") from error
    if not isinstance(env.observation_space, gymnasium.spaces.Box) or (
        len(env.observation_space.shape) != 1
    ):
        raise ArgumentError(
            f"The observations of {environment} are {env.observation_space}, not vectors of "
            "numbers. Wrap the environment, and make transitions with `from_transitions`."
        )
    random = np.random.default_rng(seed)
    rows: list[tuple[Any, ...]] = []
    for episode in range(episodes):
        # copies: an environment may write all its observations into one array
        state, over = np.array(env.reset(seed=None if episode else int(seed))[0]), False
        while not over:
            action = policy(state, random)
            observed, reward, terminated, truncated, _ = env.step(action)
            following = np.array(observed)
            rows.append(
                (state, action, reward, following, terminated, truncated and not terminated)
            )
            state, over = following, terminated or truncated
    if not given:
        env.close()
    return Episodes(*(np.array(column) for column in zip(*rows, strict=True)))


def monte_carlo_returns(
    played: Episodes, discount: float, *, tolerance: float = 1e-3
) -> tuple[Array, Array]:
    """The discounted sums of rewards that followed each state, and whether they are complete.

    Where an episode was cut off, what would have followed is missing; the sum counts as complete
    if that is discounted by at most `tolerance`.

    Args:
        played: whole episodes.
        discount: gamma.
        tolerance: see above.

    Returns:
        Returns (n,) and a mask (n,) of those that are complete.
    """
    check_instance(played, Episodes, "played", "what `collect` returns")
    gamma, tolerance = check_discount(discount), single(tolerance, "`tolerance`", zero_allowed=True)
    played = Episodes(*(array_of(x, name) for name, x in played._asdict().items()))
    n = len(played.rewards)
    returns, complete = np.zeros(n), np.zeros(n, dtype=bool)
    following, missing = 0.0, 1.0
    for step in range(n - 1, -1, -1):
        if played.terminated[step] or played.truncated[step] or step == n - 1:
            following, missing = 0.0, 0.0 if played.terminated[step] else 1.0
        following = float(played.rewards[step]) + gamma * following
        missing = gamma * missing
        returns[step], complete[step] = following, missing <= tolerance
    return returns, complete
