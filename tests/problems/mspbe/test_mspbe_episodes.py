"""Episodes of gymnasium, and values that agree with Monte-Carlo returns."""

import sys

import numpy as np
import pytest
import torch

import bilevel
from bilevel.errors import ArgumentError, DataError, MissingPackageError
from problems.mspbe import LinearEvaluation, Logged, from_transitions, methods
from problems.mspbe.episodes import Episodes, collect, monte_carlo_returns

GAMMA = 0.95


def lean(state, random):
    """Push towards where the pole falls, 7 times in 10."""
    towards = int(state[2] + state[3] > 0)
    return towards if random.random() < 0.7 else 1 - towards


def squares(states):
    """A constant, the state and its products."""
    x = states / np.array([1.0, 1.0, 0.1, 1.0])
    products = np.einsum("ni,nj->nij", x, x)[:, *np.triu_indices(4)]
    return np.concatenate([np.ones((len(x), 1)), x, products], axis=1)


def test_values_of_cartpole_agree_with_returns():
    pytest.importorskip("gymnasium")
    train, test = (collect("CartPole-v1", lean, episodes=120, seed=seed) for seed in (1, 2))
    assert train.terminated.sum() == 120 == test.terminated.sum()
    returns, complete = monte_carlo_returns(test, GAMMA)
    assert complete.all()
    rows = from_transitions(
        squares(train.states),
        train.actions,
        train.rewards,
        squares(train.next_states),
        train.terminated,
    )
    held_out = bilevel.Batch(torch.from_numpy(squares(test.states)), torch.from_numpy(returns))
    solution = bilevel.solve(
        LinearEvaluation(Logged(rows, GAMMA, held_out, "CartPole-v1")),
        methods.LSTD(),
        steps=1,
        batch_size=None,
        seeds=1,
        dtype=torch.float64,
    )
    values = squares(test.states) @ solution.head[0].numpy()
    error = float(solution.history["validation_return_error"][-1, 0])
    assert abs(error - np.mean((values - returns) ** 2)) < 1e-9
    assert error < 0.6 * returns.var()
    # no features explain the returns of the held-out episodes much better
    design = squares(test.states)
    best = design @ np.linalg.lstsq(design, returns, rcond=None)[0]
    assert error < 1.1 * np.mean((best - returns) ** 2)
    # at the starts of episodes, which are independent, the mean is right up to noise
    starts = np.flatnonzero(np.append(True, test.terminated[:-1]))
    gap = values[starts] - returns[starts]
    assert abs(gap.mean()) < 4 * gap.std() / len(starts) ** 0.5 + 0.3


def test_episodes_are_seeded_and_whole():
    pytest.importorskip("gymnasium")
    once, again = (collect("CartPole-v1", lean, episodes=3, seed=7) for _ in range(2))
    assert np.array_equal(once.states, again.states)
    other = collect("CartPole-v1", lean, episodes=3, seed=8)
    assert not np.array_equal(once.states[:5], other.states[:5])
    inner = ~(once.terminated | once.truncated)[:-1]
    assert np.array_equal(once.next_states[:-1][inner], once.states[1:][inner])
    cut = collect("Acrobot-v1", lambda state, random: 1, episodes=1, seed=0, max_episode_steps=10)
    assert len(cut.rewards) == 10
    assert cut.truncated.tolist() == [False] * 9 + [True]
    assert not cut.terminated.any()


def test_an_environment_takes_the_place_of_its_name():
    gymnasium = pytest.importorskip("gymnasium")
    made = gymnasium.make("CartPole-v1")
    expected, found = (collect(given, lean, 3, seed=7) for given in ("CartPole-v1", made))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    again = collect(made, lean, 3, seed=7)  # it was left open, and is seeded anew
    np.testing.assert_array_equal(again.states, expected.states)
    spec = collect(gymnasium.spec("CartPole-v1"), lean, 3, seed=7)
    np.testing.assert_array_equal(spec.states, expected.states)
    cut = gymnasium.wrappers.TimeLimit(made.unwrapped, 5)
    assert collect(cut, lean, 2).truncated.sum() == 2


def test_an_environment_may_write_its_observations_into_one_array():
    gymnasium = pytest.importorskip("gymnasium")

    class Counter(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(0, 10, (1,))
        action_space = gymnasium.spaces.Discrete(1)

        def reset(self, *, seed=None, options=None):
            self.state = np.zeros(1)
            return self.state, {}

        def step(self, action):
            self.state += 1
            return self.state, 1.0, self.state[0] == 3, False, {}

    played = collect(Counter(), lambda state, random: 0, 2)
    assert played.states[:, 0].tolist() == [0, 1, 2] * 2
    assert played.next_states[:, 0].tolist() == [1, 2, 3] * 2


def test_returns_by_hand():
    played = Episodes(
        np.zeros((5, 1)),
        np.zeros(5),
        np.array([1.0, 2.0, 4.0, 8.0, 16.0]),
        np.zeros((5, 1)),
        np.array([False, True, False, False, False]),
        np.array([False, False, False, False, True]),
    )
    returns, complete = monte_carlo_returns(played, 0.5)
    assert returns.tolist() == [2.0, 2.0, 12.0, 16.0, 16.0]
    assert complete.tolist() == [True, True, False, False, False]
    assert monte_carlo_returns(played, 0.5, tolerance=0.125)[1].tolist() == [True] * 3 + [False] * 2
    assert not monte_carlo_returns(played, 1.0)[1][2:].any()


def test_mistakes_are_named(monkeypatch):
    gymnasium = pytest.importorskip("gymnasium")
    with pytest.raises(ArgumentError, match="`episodes` must be a positive integer"):
        collect("CartPole-v1", lean, episodes=0)
    with pytest.raises(ArgumentError, match="gymnasium cannot make 'NoSuch-v9'"):
        collect("NoSuch-v9", lean, episodes=1)
    with pytest.raises(ArgumentError, match="not vectors of numbers"):
        collect("FrozenLake-v1", lean, episodes=1)
    with pytest.raises(ArgumentError, match=r"cannot make .*`gymnasium.Env` without options"):
        collect(gymnasium.make("CartPole-v1"), lean, 1, max_episode_steps=3)
    with pytest.raises(ArgumentError, match=r"gymnasium cannot make 'CartPole-v1': .*no_such"):
        collect("CartPole-v1", lean, 1, no_such=3)
    for other in (None, 3, gymnasium.Env, gymnasium):
        with pytest.raises(ArgumentError, match=r"gymnasium cannot make .*Name one, such as"):
            collect(other, lean, episodes=1)
    hidden = Episodes(*np.ma.masked_less(np.arange(12.0).reshape(6, 2), 3).T[:1].repeat(6, 0))
    with pytest.raises(DataError, match="`states` must hold numbers, got a masked array"):
        monte_carlo_returns(hidden, 0.9)
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(MissingPackageError, match=r'pip install "bilevel\[rl\]"'):
        collect("CartPole-v1", lean, episodes=1)
