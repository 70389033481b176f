"""gamma = 1 needs an end, ratios need one that is not 0, and rounded probabilities are 1."""

import numpy as np
import pytest
import torch

import bilevel
from bilevel.errors import ArgumentError, DataError
from problems.mspbe import (
    LinearEvaluation,
    Logged,
    MarkovRewardProcess,
    exact,
    from_transitions,
    methods,
)
from problems.mspbe.endings import reaches_an_end

EYE = np.eye(6)


def log(pairs, ends=(), ratios=None, features=EYE):
    """One-hot transitions of reward -1; `ends` are numbers of transitions."""
    left, entered = np.array(pairs).T
    over = np.isin(np.arange(len(left)), ends)
    return from_transitions(
        features[left], None, -np.ones(len(left)), features[entered], over, ratios
    )


LOOPS = {  # no values: every sum of rewards is infinite
    "a cycle": log([(0, 1), (1, 2), (2, 3), (3, 0)]),
    "a state that stays": log([(4, 4)]),
    "a part that never ends": log([(0, 1), (1, 5), (2, 3), (3, 2)], ends=[1]),
    "a way into it": log([(0, 1), (1, 5), (5, 2), (2, 2), (4, 4)], ends=[1]),
    "an end that the policy avoids": log([(0, 1), (1, 0), (1, 5)], [2], [1.0, 1.0, 0.0]),
    "features of fewer numbers": log(
        [(0, 1), (1, 2), (2, 0)], features=np.array([[1.0, 0.3], [0.2, -1.0], [4.0, 2.0]])
    ),
}


@pytest.mark.parametrize("name", LOOPS)
def test_logged_states_that_reach_no_end_are_refused(name):
    with pytest.raises(ArgumentError, match=r"`discount` = 1 needs episodes that end: from the"):
        Logged(LOOPS[name], 1.0)
    assert Logged(LOOPS[name], 0.99).discount == 0.99


def test_the_refusal_counts():
    with pytest.raises(ArgumentError, match=r"of 2 of 4 logged transitions, the first number 2,"):
        Logged(LOOPS["a part that never ends"], 1)
    with pytest.raises(ArgumentError, match=r"of 2 of 3 logged .* the first number 1,"):
        Logged(log([(1, 5), (2, 3), (3, 2)], ratios=[0.0, 1.0, 1.0])._replace(), 1)


def solved(rows):
    solution = bilevel.solve(
        LinearEvaluation(Logged(rows, 1.0)), methods.LSTD(), steps=1, batch_size=None, seeds=1,
        dtype=torch.float64,
    )  # fmt: skip
    return solution.head[0].numpy()


def test_episodes_that_end_have_values():
    rows = log([(0, 1), (1, 2), (2, 1), (2, 3), (3, 5)], ends=[4])
    # V3 = -1, V2 = -1 + (V1 + V3) / 2, V1 = -1 + V2, V0 = -1 + V1
    np.testing.assert_allclose(solved(rows)[:4], [-6.0, -5.0, -4.0, -1.0], atol=1e-9)


def test_a_next_state_of_zeros_is_an_end():
    features = np.concatenate([np.eye(3), np.zeros((1, 3))])
    rows = log([(0, 1), (1, 2), (2, 3), (3, 3)], features=features)
    np.testing.assert_allclose(solved(rows), [-3.0, -2.0, -1.0], atol=1e-9)


def test_a_log_that_was_cut_off_is_known_up_to_a_constant():
    with pytest.raises(ArgumentError, match="none of the 3 logged transitions ends one"):
        Logged(log([(0, 1), (1, 2), (2, 3)]), 1.0)
    biased = np.column_stack([np.ones(6), np.arange(6.0) ** 2])
    with pytest.raises(ArgumentError, match="up to a constant"):
        Logged(log([(0, 1), (1, 2), (2, 3)], features=biased), 1.0)


def test_features_that_vanish_at_the_goal_are_told_and_solved():
    """The distance to a goal that the log never reaches: V = -distance, and a word about it."""
    distance = np.arange(9.0, 3.0, -1)[:, None]
    rows = log([(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)], features=distance)
    with pytest.warns(UserWarning, match="None of the 5 logged transitions ends an episode"):
        values = solved(rows)
    np.testing.assert_allclose(values, [-1.0], atol=1e-9)


def test_reachability_against_powers_of_a_matrix():
    random = np.random.default_rng(4)
    seen = set()
    for _ in range(60):
        left, entered = random.integers(9, size=(2, 8))
        ends = random.random(8) < 0.15
        one = np.eye(9)
        known = np.zeros((10, 10))  # the last one is an end, or what is not known
        known[left[~ends], entered[~ends]] = 1
        known[left[ends], 9] = 1
        known[np.setdiff1d(np.arange(9), left), 9] = 1
        reached = np.linalg.matrix_power(known + np.eye(10), 10)[:, 9] > 0
        found = reaches_an_end(one[left], one[entered], ends)
        np.testing.assert_array_equal(found, reached[left])
        seen |= set(found.tolist())
    assert seen == {True, False}


def test_a_long_trajectory_is_looked_through_at_once():
    n = 40_000
    states = np.arange(n, dtype=float)[:, None] + 1
    ends = np.zeros(n, dtype=bool)
    ends[-1] = True
    assert reaches_an_end(states, states + 1, ends).all()


def test_ratios_that_are_all_zero_are_refused():
    with pytest.raises(DataError, match="`ratios` is 0 for all transitions"):
        log([(0, 1), (1, 2)], [1], ratios=np.zeros(2))
    rows = log([(0, 1), (1, 2)], [1], ratios=[0.0, 2.0])
    assert Logged(rows, 0.9).columns == 6
    with pytest.raises(DataError, match="`ratios` is 0 for all transitions"):
        Logged(rows._replace(ratios=0 * rows.ratios), 0.9)


# probabilities that were rounded to single precision


ROUNDED = {
    "thirds": np.full((3, 3), 1 / 3),
    "sevenths": np.array([[1, 2, 4], [3, 3, 1], [2, 4, 1]]) / 7,
    "tenths": np.array([[0.1, 0.2, 0.7], [0.6, 0.3, 0.1], [0.7, 0.1, 0.2]]),
}
FORMS = {
    "float32": lambda p: torch.from_numpy(p).float(),
    "converted": lambda p: torch.from_numpy(p).float().double(),
    "numpy": lambda p: p.astype(np.float32),
    "list": lambda p: p.tolist(),
    "bfloat16": lambda p: torch.from_numpy(p).bfloat16(),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ROUNDED)
def test_rounded_probabilities_sum_to_one(name, form):
    p = ROUNDED[name]
    tolerance = {"list": 1e-12, "bfloat16": 0.03}.get(form, 1e-6)
    rewards = np.arange(9.0).reshape(3, 3)
    process = MarkovRewardProcess(
        torch.eye(3),
        FORMS[form](p),
        rewards,
        0.9,
        behaviour=FORMS[form](p),
        start=FORMS[form](p[0]),
    )
    assert not process.ends.any()
    torch.testing.assert_close(
        process.transitions.sum(1), torch.ones(3).double(), rtol=1e-15, atol=0
    )
    expected = np.linalg.solve(np.eye(3) - 0.9 * p, (p * rewards).sum(1))
    np.testing.assert_allclose(process.values, expected, rtol=tolerance)
    with pytest.raises(ArgumentError, match="no end can be reached"):
        MarkovRewardProcess(torch.eye(3), FORMS[form](p), rewards, 1.0)
    weighted = MarkovRewardProcess(
        torch.eye(3), FORMS[form](p), rewards, 0.9, weights=FORMS[form](p[1])
    )
    np.testing.assert_allclose(weighted.state_weights, p[1], rtol=10 * tolerance)


def test_a_rare_end_is_an_end():
    """1e-7 in double precision is no rounding; nor is 1e-5 in single precision."""
    for lacking, dtype in ((1e-7, np.float64), (1e-5, np.float32)):
        p = np.array([[0.25, 0.75 - lacking], [1 / 3, 2 / 3 - lacking]]).astype(dtype)
        process = MarkovRewardProcess(torch.eye(2), p, -np.ones((2, 2)), 1.0)
        np.testing.assert_allclose(process.values, -1 / lacking, rtol=0.01)
        assert float(process.transitions[0, 1]) == float(p[0, 1])


def test_rows_that_are_no_rounding_are_refused():
    for off in (1e-5, -2.0):
        p = torch.tensor([[0.5, 0.5 + off], [0.5, 0.5]])
        with pytest.raises(DataError, match=r"sums to 1\.00001|negative"):
            MarkovRewardProcess(torch.eye(2), p, torch.zeros(2, 2), 0.9)


def test_lists_keep_their_digits():
    step = [[0.1, 0.9], [0.3, 0.7]]
    process = MarkovRewardProcess([[0.1], [0.7]], step, [[0.1, 0.2], [0.3, 0.6]], 0.9)
    assert process.transitions.tolist() == step
    assert process.inputs.tolist() == [[0.1], [0.7]]
    found = exact.moments(process.inputs, process.model, 0.9)
    assert float(found.c) == pytest.approx(0.25 * 0.01 + 0.75 * 0.49, rel=1e-12)
