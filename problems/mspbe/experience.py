"""Transitions of a known process: all of them with their probabilities, drawn, or walked."""

from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from bilevel.core.checks import check_instance, check_positive_integer, check_seed
from bilevel.errors import check_name
from problems.mspbe import chains
from problems.mspbe.process import MarkovRewardProcess
from problems.mspbe.transitions import Transitions

Experience = Literal["expected", "iid", "markovian"]
"""All transitions weighted by their probabilities, independent draws, or one trajectory."""


class Outcomes(NamedTuple):
    """The n transitions that can happen under the behaviour, from states that count.

    Attributes:
        states: (n,), where from.
        next_states: (n,), where to; S is the end of an episode.
        probabilities: (n,), d_s P_b(s, s'), with sum 1.
    """

    states: Tensor
    next_states: Tensor
    probabilities: Tensor


def outcomes(process: MarkovRewardProcess) -> Outcomes:
    """What can happen, and how often."""
    check_instance(process, MarkovRewardProcess, "process", "random_walk()")
    walked = with_end(process.walked)
    joint = process.state_weights.unsqueeze(1) * walked
    states, next_states = (joint > 0).nonzero(as_tuple=True)
    return Outcomes(states, next_states, joint[states, next_states])


def rows_of(process: MarkovRewardProcess, states: Tensor, next_states: Tensor) -> Transitions:
    """The transitions between states, each of weight 1; S is the end of an episode."""
    check_instance(process, MarkovRewardProcess, "process", "random_walk()")
    target, walked = with_end(process.transitions), with_end(process.walked)
    end_rewards = process.end_rewards
    if end_rewards is None:
        end_rewards = torch.zeros(process.states, dtype=torch.float64)
    rewards = torch.cat([process.rewards, end_rewards.unsqueeze(1)], dim=1)
    inputs = torch.cat([process.inputs, torch.zeros_like(process.inputs[:1])])
    ratios = target[states, next_states] / walked[states, next_states]
    return Transitions(
        inputs=inputs[states],
        next_inputs=inputs[next_states],
        rewards=rewards[states, next_states],
        ratios=ratios,
        continues=(next_states < process.states).double(),
        weights=torch.ones_like(ratios),
    )


def expected(process: MarkovRewardProcess) -> Transitions:
    """All n transitions with the weights n d_s P_b(s, s'): averages over them are expectations."""
    found = outcomes(process)
    rows = rows_of(process, found.states, found.next_states)
    return rows._replace(weights=len(found.states) * found.probabilities)


def draw(process: MarkovRewardProcess, kind: str, length: int, seed: int) -> Transitions:
    """Sampled transitions.

    Args:
        process: what to draw from.
        kind: "iid": s from d, then s' from P_b, independently of all others. "markovian": one
            trajectory under P_b, which begins anew at a start after each episode.
        length: how many.
        seed: of the draws.

    Raises:
        ArgumentError: the length is no positive integer.
        UnknownNameError: there is no such kind.

    Examples:
        >>> from problems.mspbe import boyan, experience
        >>> walked = experience.draw(boyan(), "markovian", 1000, seed=0)
        >>> walked.inputs[0], round(float(1 - walked.continues.mean()), 2)    # one end in 8 steps
        (tensor([1., 0., 0., 0.], dtype=torch.float64), 0.12)
    """
    check_positive_integer(length, "`length`")
    check_seed(seed, "`seed`")
    check_name(kind, get_args(Experience)[1:], "kind of experience")
    random = np.random.default_rng(seed)
    if kind == "markovian":
        return rows_of(process, *_walk(process, length, random))
    found = outcomes(process)
    probabilities = (found.probabilities / found.probabilities.sum()).numpy()
    drawn = torch.from_numpy(random.choice(len(probabilities), size=length, p=probabilities))
    return rows_of(process, found.states[drawn], found.next_states[drawn])


def with_end(transitions: Tensor) -> Tensor:
    """The probabilities with a column for the end of the episode, (S, S + 1)."""
    return torch.cat([transitions, chains.ends(transitions).unsqueeze(1)], dim=1)


def _walk(
    process: MarkovRewardProcess, length: int, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """The states of a trajectory, and those that follow them."""
    end = process.states
    reached = with_end(process.walked).cumsum(1)
    # where the last possible successor is reached, the sum of the row is 1 up to rounding
    reached = torch.where(reached >= reached[:, -1:], torch.inf, reached)
    begins = process.start_weights.cumsum(0)
    begins = torch.where(begins >= begins[-1], torch.inf, begins)
    rows, first = list(reached.numpy()), begins.numpy()
    draws = random.random(2 * length)
    states, following = np.empty(length, dtype=np.int64), np.empty(length, dtype=np.int64)
    state = end
    for step in range(length):
        if state == end:
            state = int(first.searchsorted(draws[length + step], side="right"))
        states[step] = state
        state = int(rows[state].searchsorted(draws[step], side="right"))
        following[step] = state
    return torch.from_numpy(states), torch.from_numpy(following)
