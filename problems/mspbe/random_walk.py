"""Random walks between two ends."""

from typing import Literal, get_args

import torch
from torch import Tensor

from bilevel.core.checks import check_positive_integer, single
from bilevel.errors import ArgumentError, check_name
from problems.mspbe.process import MarkovRewardProcess

Features = Literal["tabular", "inverted", "dependent"]


def random_walk(
    states: int = 5,
    features: Features = "tabular",
    discount: float = 1.0,
    right: float = 0.6,
    behaviour_right: float = 0.5,
) -> MarkovRewardProcess:
    """A walk that starts in the middle and ends at the left with reward -1, the right with +1.

    Args:
        states: an odd number, at least 3; 5 and 19 are usual.
        features: "tabular": unit vectors. "inverted": all ones but one, of norm 1. "dependent":
            (states + 1) / 2 of them, for 5 states the rows 100, 110, 111, 011, 001, of norm 1.
        discount: gamma.
        right: the target policy's probability of a step to the right.
        behaviour_right: the behaviour's; equal to `right` it is on-policy.

    Source: Sutton et al. (2009), section 7; the policies and rewards of Ghiassian et al. (2020).
    Differs from the source in: None.

    Examples:
        >>> from problems.mspbe import random_walk
        >>> random_walk(3, right=0.5).values[1:]
        tensor([0.0000, 0.5000], dtype=torch.float64)
    """
    check_positive_integer(states, "`states`")
    if states < 3 or states % 2 == 0:
        raise ArgumentError(f"`states` must be an odd integer of at least 3, got {states!r}.")
    for name, p in (("right", right), ("behaviour_right", behaviour_right)):
        if single(p, f"`{name}`", zero_allowed=True) in (0, 1) or p > 1:
            raise ArgumentError(f"`{name}` must be a probability in (0, 1), got {p!r}.")
    right, behaviour_right = float(right), float(behaviour_right)
    start = torch.zeros(states)
    start[states // 2] = 1
    ends = torch.zeros(states)
    ends[0], ends[-1] = -1, 1
    return MarkovRewardProcess(
        inputs=walk_features(states, features),
        transitions=walk(states, right),
        rewards=torch.zeros(states, states),
        discount=discount,
        end_rewards=ends,
        behaviour=None if right == behaviour_right else walk(states, behaviour_right),
        start=start,
        name=f"random walk, {features}",
    )


def walk(states: int, right: float) -> Tensor:
    """The transitions of a walk that goes right with a probability, else left."""
    ahead = torch.full((states - 1,), right, dtype=torch.float64)
    return torch.diag(ahead, 1) + torch.diag(1 - ahead, -1)


def walk_features(states: int, kind: str) -> Tensor:
    """The features of a kind, (states, M)."""
    check_name(kind, get_args(Features), "kind of features")
    if kind == "tabular":
        return torch.eye(states, dtype=torch.float64)
    if kind == "inverted":
        drawn = 1 - torch.eye(states, dtype=torch.float64)
    else:
        half = states // 2 + 1
        lower = torch.ones(half, half, dtype=torch.float64).tril()
        drawn = torch.cat([lower, lower[:-1].flip(0, 1)])
    norms: Tensor = torch.linalg.vector_norm(drawn, dim=1, keepdim=True)
    return drawn / norms
