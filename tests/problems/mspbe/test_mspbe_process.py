"""Processes and their exact quantities against independent computations and known numbers."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from processes import PROCESSES

from bilevel.errors import ArgumentError, DataError, ShapeError, SingularHeadError, UnknownNameError
from problems.mspbe import (
    MarkovRewardProcess,
    baird,
    boyan,
    exact,
    experience,
    random_process,
    random_walk,
    restarting_chain,
    two_state,
)
from problems.mspbe.exact import Moments


def moments_of(process: MarkovRewardProcess) -> Moments:
    return exact.moments(process.inputs, process.model, process.discount)


def by_hand(process: MarkovRewardProcess) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A, b and C as sums over everything that can happen, in plain Python."""
    width, states = process.inputs.shape[1], process.states
    z = process.inputs.numpy()
    a, b, c = np.zeros((width, width)), np.zeros(width), np.zeros((width, width))
    walked, target = process.walked.numpy(), process.transitions.numpy()
    ends = np.zeros(states) if process.end_rewards is None else process.end_rewards.numpy()
    for s in range(states):
        d = float(process.state_weights[s])
        for t in range(states + 1):
            last = t == states
            p_b = 1 - walked[s].sum() if last else walked[s, t]
            p = 1 - target[s].sum() if last else target[s, t]
            if p_b < 1e-12:
                continue
            ahead = np.zeros(width) if last else z[t]
            reward = ends[s] if last else float(process.rewards[s, t])
            a += d * p_b * (p / p_b) * np.outer(z[s], z[s] - process.discount * ahead)
            b += d * p_b * (p / p_b) * reward * z[s]
            c += d * p_b * np.outer(z[s], z[s])
    return a, b, c


@pytest.mark.parametrize("name", PROCESSES)
def test_moments_are_sums_over_all_that_can_happen(name):
    process = PROCESSES[name]
    enumerated = experience.expected(process)
    assert abs(float(enumerated.weights.mean()) - 1) < 1e-12
    from_rows = exact.sampled_moments(
        enumerated.inputs, enumerated.next_inputs, enumerated, process.discount
    )
    for ours, rows, theirs in zip(moments_of(process), from_rows, by_hand(process), strict=True):
        assert torch.allclose(ours, torch.from_numpy(theirs), rtol=1e-12, atol=1e-13)
        assert torch.allclose(rows, ours, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", PROCESSES)
def test_rows_are_probabilities_and_values_solve_the_bellman_equation(name):
    process = PROCESSES[name]
    assert (process.transitions.sum(1) <= 1 + 1e-12).all()
    assert abs(float(process.state_weights.sum()) - 1) < 1e-12
    ahead = process.expected_rewards + process.discount * process.transitions @ process.values
    assert torch.allclose(ahead, process.values, atol=1e-11)


def test_known_numbers():
    chain = boyan()
    assert torch.allclose(chain.values, torch.arange(-24.0, 0, 2, dtype=torch.float64))
    head = exact.lstd(moments_of(chain))
    assert torch.allclose(head, torch.tensor([-24.0, -16, -8, 0], dtype=torch.float64), atol=1e-11)
    assert float(exact.msve(chain.inputs, head, chain.model)) < 1e-20
    star = baird()
    found = moments_of(star)
    root = math.sqrt((6 * 8.88**2 + 0.12**2) / 7)  # features of full row rank: no projection
    assert abs(float(exact.mspbe(found, star.initial_head)) ** 0.5 - root) < 1e-12
    assert abs(root - 8.2214075958) < 1e-9
    assert int(torch.linalg.matrix_rank(found.c)) == 7
    small = moments_of(two_state(0.9))
    for theta in (-1.0, 0.5, 3.0):
        at = torch.tensor([theta], dtype=torch.float64)
        assert abs(float(exact.mspbe(small, at)) - 0.016 * theta**2) < 1e-14
    tabular = random_walk(right=0.5)
    expected = torch.tensor([-2, -1, 0, 1, 2], dtype=torch.float64) / 3
    assert torch.allclose(tabular.values, expected, atol=1e-12)
    thirds = torch.tensor([1.0, 2, 3, 2, 1], dtype=torch.float64) / 9
    assert torch.allclose(tabular.state_weights, thirds, atol=1e-12)


def test_visits_of_boyan_are_those_of_its_episodes():
    chain = boyan()
    eye = torch.eye(12, dtype=torch.float64)
    visits = torch.linalg.solve((eye - chain.transitions).mT, eye[0])
    assert torch.allclose(chain.state_weights, visits / visits.sum(), atol=1e-12)


def test_random_processes_mix_and_branch():
    process = random_process(seed=5)
    floor = 0.05 / 30
    above = (process.transitions > floor + 1e-15).sum(1)
    assert torch.allclose(process.transitions.min(1).values, torch.full((30,), floor).double())
    assert (above == 4).all()
    assert torch.allclose(process.transitions.sum(1), torch.ones(30).double())
    stationary = process.state_weights @ process.transitions
    assert torch.allclose(stationary, process.state_weights, atol=1e-14)
    assert not torch.equal(process.inputs, random_process(seed=6).inputs)


def test_the_objective_is_the_projected_bellman_error():
    process = PROCESSES["random"]
    head = torch.linspace(-1, 2, 8, dtype=torch.float64)
    z, d = process.inputs, torch.diag(process.state_weights)
    values = z @ head
    error = process.expected_rewards + process.discount * process.transitions @ values - values
    projection = z @ torch.linalg.solve(z.mT @ d @ z, z.mT @ d)
    projected = projection @ error
    found = moments_of(process)
    assert torch.allclose(exact.mspbe(found, head), projected @ d @ projected, rtol=1e-11)
    assert torch.allclose(exact.msbe(z, head, process.model, process.discount), error @ d @ error)
    omega = exact.best_auxiliary(found, head, singular="error")
    assert torch.allclose(found.c @ omega, found.b - found.a @ head, atol=1e-12)


def test_the_lstd_head_has_no_projected_error():
    process = PROCESSES["random"]
    found = moments_of(process)
    head = exact.lstd(found)
    assert float(exact.mspbe(found, head)) < 1e-24
    assert exact.best_auxiliary(found, head).abs().max() < 1e-10
    ridged = exact.lstd(found, ridge=0.5)
    eye = torch.eye(8, dtype=torch.float64)
    assert torch.allclose(found.a @ ridged + 0.5 * eye @ ridged, found.b)


def test_singular_matrices_are_named():
    star = moments_of(baird())
    with pytest.raises(SingularHeadError, match=r"A = .* is singular: rank 7 of 8.*ridge"):
        exact.lstd(star)
    with pytest.raises(SingularHeadError, match=r"C = .* is singular: rank 7 of 8"):
        exact.best_auxiliary(star, baird().initial_head, singular="error")
    assert exact.lstd(star, singular="least norm").abs().max() == 0
    assert torch.isfinite(exact.lstd(star, ridge=0.1)).all()
    with pytest.raises(ArgumentError, match='"error" or "least norm"'):
        exact.lstd(star, singular="ignore")
    balanced = moments_of(two_state(5 / 6))  # A = 0 although C is not
    with pytest.raises(SingularHeadError, match="rank 0 of 1"):
        exact.lstd(balanced._replace(a=balanced.a.round(decimals=12)))


def small(**changes):
    """Two states, the second of which ends the episode, with some arguments replaced."""
    arguments = {
        "inputs": torch.eye(2),
        "transitions": torch.tensor([[0.5, 0.5], [0.25, 0.25]]),
        "rewards": torch.ones(2, 2),
        "discount": 0.9,
    }
    return MarkovRewardProcess(**(arguments | changes))


MISTAKES = {
    "row above 1": (
        {"transitions": torch.tensor([[0.5, 0.6], [0.0, 0.0]])},
        DataError,
        r"Row 0 of `transitions` sums to 1\.1",
    ),
    "behaviour above 1": (
        {"behaviour": torch.tensor([[0.5, 0.5], [0.75, 0.5]])},
        DataError,
        "Row 1 of `behaviour` sums to 1.25",
    ),
    "negative probability": (
        {"transitions": torch.tensor([[1.5, -0.5], [0.0, 0.0]])},
        DataError,
        r"negative probability at \(0, 1\)",
    ),
    "discount above 1": ({"discount": 1.01}, ArgumentError, r"in \[0, 1\], got 1.01"),
    "discount below 0": ({"discount": -0.1}, ArgumentError, r"in \[0, 1\]"),
    "discount nan": ({"discount": math.nan}, ArgumentError, r"in \[0, 1\]"),
    "discount text": ({"discount": "high"}, ArgumentError, "must be a number"),
    "no end": (
        {"discount": 1.0, "transitions": torch.eye(2)[[1, 0]]},
        ArgumentError,
        "`discount` = 1 needs episodes that end: from the states 0, 1",
    ),
    "one state without end": (
        {"discount": 1.0, "transitions": torch.tensor([[0.0, 0.5], [0.0, 1.0]])},
        ArgumentError,
        "from the states 1 no end",
    ),
    "reward nan": (
        {"rewards": torch.tensor([[1.0, math.nan], [0.0, 0.0]])},
        DataError,
        r"`rewards` is not finite at \[0, 1\]",
    ),
    "end reward": ({"end_rewards": torch.tensor([1.0, math.inf])}, DataError, "`end_rewards`"),
    "reward shape": ({"rewards": torch.ones(2)}, ShapeError, r"`rewards` must have shape \(2, 2\)"),
    "input rows": ({"inputs": torch.ones(3, 4)}, ShapeError, r"`inputs` must have shape \(2, D\)"),
    "no square": ({"transitions": torch.ones(2, 3)}, ShapeError, r"must be \(S, S\)"),
    "empty": ({"transitions": torch.ones(0, 0)}, ShapeError, r"must be \(S, S\)"),
    "weights": ({"weights": torch.tensor([0.5, 0.6])}, DataError, "sum of 1.1"),
    "negative weights": ({"weights": torch.tensor([1.5, -0.5])}, DataError, "least entry of -0.5"),
    "head": ({"initial_head": torch.ones(3)}, ShapeError, "`initial_head`"),
    "uncovered": (
        {"behaviour": torch.tensor([[1.0, 0.0], [0.25, 0.25]])},
        DataError,
        "never goes from state 0 to 1",
    ),
    "uncovered end": (
        {"behaviour": torch.tensor([[0.5, 0.5], [0.5, 0.5]])},
        DataError,
        "never ends an episode at state 1",
    ),
    "two parts": (
        {"transitions": torch.eye(2)},
        DataError,
        "falls into parts",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name):
    changes, error, message = MISTAKES[name]
    with pytest.raises(error, match=message):
        small(**changes)


def test_a_correct_small_process_is_accepted():
    process = small(discount=1.0, end_rewards=torch.tensor([0.0, 4.0]))
    assert torch.allclose(process.ends, torch.tensor([0.0, 0.5]).double())
    assert torch.isfinite(process.values).all()
    assert dataclasses.replace(process, discount=0.5).values[0] != process.values[0]


def test_options_of_processes_are_checked():
    with pytest.raises(ArgumentError, match="odd integer"):
        random_walk(4)
    with pytest.raises(UnknownNameError, match="Did you mean 'tabular'"):
        random_walk(features="tabulr")
    with pytest.raises(ArgumentError, match=r"`right` must be a probability"):
        random_walk(right=1.0)
    with pytest.raises(ArgumentError, match="`branching` = 9 exceeds"):
        random_process(states=5, branching=9)
    with pytest.raises(ArgumentError, match="at least 2"):
        random_process(states=1)
    with pytest.raises(ArgumentError, match="needs episodes that end"):
        restarting_chain(discount=1.0)
