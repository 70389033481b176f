"""Facts about matrices of transition probabilities."""

import torch
from torch import Tensor

from bilevel.errors import DataError

SMALL = 1e-12
"""A probability of ending below this is rounding."""


def ends(transitions: Tensor) -> Tensor:
    """What the rows lack to 1: the probabilities that an episode ends, (S,)."""
    lacking = 1 - transitions.sum(1)
    return torch.where(lacking > SMALL, lacking, torch.zeros_like(lacking))


def restarted(transitions: Tensor, start: Tensor) -> Tensor:
    """The chain that goes on at a start whenever an episode ends, (S, S)."""
    return transitions + ends(transitions).unsqueeze(1) * start


def endless(transitions: Tensor) -> list[int]:
    """The states from which no end can be reached."""
    reached = ends(transitions) > 0
    for _ in range(len(transitions)):
        reached = reached | ((transitions > 0) & reached).any(1)
    return (~reached).nonzero().flatten().tolist()


def stationary(transitions: Tensor) -> Tensor:
    """The stationary distribution d = d P of a chain whose rows sum to 1, (S,).

    For a chain that starts anew after each episode these are the expected visits, normalised.

    Raises:
        DataError: there are several.
    """
    size = len(transitions)
    eye = torch.eye(size, dtype=transitions.dtype)
    balance = eye - transitions.mT
    if int(torch.linalg.matrix_rank(balance, rtol=1e-10)) < size - 1:
        raise DataError(
            "The chain falls into parts that it never leaves, so how often each state is visited "
            "depends on where it started. Give `weights`, or a `start` from which one part is "
            "reached."
        )
    right = torch.cat([torch.zeros(size, dtype=eye.dtype), torch.ones(1, dtype=eye.dtype)])
    stacked = torch.cat([balance, torch.ones_like(balance[:1])])
    found: Tensor = torch.linalg.lstsq(stacked, right.unsqueeze(1), driver="gelsd").solution
    weights = found.squeeze(1).clamp(min=0)
    return weights / weights.sum()
