"""Random processes that go on for ever."""

import numpy as np
import torch
from torch import Tensor

from bilevel.core.checks import check_positive_integer, check_seed
from bilevel.errors import ArgumentError
from problems.mspbe.process import MarkovRewardProcess

MIXED = 0.05
"""The share of every row that goes to all states alike, which makes the chain ergodic."""


def random_process(
    states: int = 30,
    branching: int = 4,
    discount: float = 0.95,
    seed: int = 0,
    input_width: int = 8,
) -> MarkovRewardProcess:
    r"""Each state has a few random successors, rewards are standard normal.

    Then $P \leftarrow 0.95 P + 0.05 / S$.

    Args:
        states: S, at least 2.
        branching: successors of each state, drawn without replacement; their probabilities are
            Dirichlet(1, ..., 1).
        discount: gamma, below 1.
        seed: of everything that is drawn.
        input_width: D; inputs are D standard normals over $\sqrt D$ for each state.

    Source: random ergodic processes ("Garnets": Bhatnagar et al. 2009). Differs from the source in:
    the uniform part of the transitions.

    Examples:
        >>> from problems.mspbe import random_process
        >>> process = random_process(seed=3)
        >>> process.transitions.shape, bool((process.state_weights > 0).all())
        (torch.Size([30, 30]), True)
    """
    for name, value, least in (("states", states, 2), ("branching", branching, 1)):
        check_positive_integer(value, f"`{name}`")
        if value < least:
            raise ArgumentError(f"`{name}` must be an integer of at least {least}, got {value!r}.")
    if branching > states:
        raise ArgumentError(f"`branching` = {branching} exceeds `states` = {states}.")
    check_seed(seed, "`seed`")
    check_positive_integer(input_width, "`input_width`")
    random = np.random.default_rng(seed)
    transitions = np.zeros((states, states))
    for row in transitions:
        successors = random.choice(states, size=branching, replace=False)
        row[successors] = random.dirichlet(np.ones(branching))
    rewards = np.broadcast_to(random.standard_normal((states, 1)), (states, states)).copy()
    return MarkovRewardProcess(
        inputs=normal_inputs(states, seed, input_width),
        transitions=torch.from_numpy((1 - MIXED) * transitions + MIXED / states),
        rewards=torch.from_numpy(rewards),
        discount=discount,
        name="random process",
    )


def normal_inputs(states: int, seed: int, width: int = 8) -> Tensor:
    """Standard normals / sqrt(width), (states, width)."""
    check_seed(seed, "`seed`")
    random = np.random.default_rng([seed, width])
    return torch.from_numpy(random.standard_normal((states, width)) / np.sqrt(width))
