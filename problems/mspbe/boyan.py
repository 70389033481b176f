"""Boyan's chain, with an end and without."""

import torch
from torch import Tensor

from bilevel.core.checks import single
from problems.mspbe.process import MarkovRewardProcess
from problems.mspbe.random_process import normal_inputs

ROWS = 12


def boyan() -> MarkovRewardProcess:
    r"""Twelve states in a row with four features in which the values are linear.

    State i goes one or two further, each with probability 1/2 and reward -3; the last goes to the
    end with reward -2. $\gamma = 1$, $V = (-24, -22, \dots, -2)$, $\theta^* = (-24, -16, -8, 0)$.

    Source: Boyan (2002). Differs from the source in: None. (A published matrix of this chain has a
    row that sums to 1.5; here rows are checked.)

    Examples:
        >>> from problems.mspbe import boyan
        >>> boyan().values[:3]
        tensor([-24., -22., -20.], dtype=torch.float64)
    """
    steps = _steps(ROWS)
    end_rewards = torch.zeros(ROWS)
    end_rewards[-2:] = torch.tensor([-3.0, -2.0])
    start = torch.zeros(ROWS)
    start[0] = 1
    return MarkovRewardProcess(
        inputs=interpolated(ROWS),
        transitions=steps,
        rewards=torch.full((ROWS, ROWS), -3.0),
        discount=1.0,
        end_rewards=end_rewards,
        start=start,
        name="Boyan's chain",
    )


def restarting_chain(
    discount: float = 0.95, seed: int = 0, scale: float = 1 / 3
) -> MarkovRewardProcess:
    r"""Boyan's chain whose end is a thirteenth state that leads back to the first: no episode ends.

    Inputs are 8 standard normals over $\sqrt 8$ for each state.

    Args:
        discount: gamma, below 1.
        seed: of the inputs.
        scale: of the rewards -3 and -2; the way back has reward 0.

    Source: a variant of Boyan (2002), made ergodic.

    Examples:
        >>> from problems.mspbe import restarting_chain
        >>> restarting_chain().transitions.sum(1).unique()
        tensor([1.], dtype=torch.float64)
    """
    steps = torch.zeros(ROWS + 1, ROWS + 1, dtype=torch.float64)
    steps[:ROWS, :ROWS] = _steps(ROWS)
    steps[:ROWS, ROWS] = 1 - steps[:ROWS].sum(1)
    steps[ROWS, 0] = 1
    rewards = torch.full((ROWS + 1, ROWS + 1), -3.0, dtype=torch.float64)
    rewards[ROWS - 1], rewards[ROWS] = -2.0, 0.0
    return MarkovRewardProcess(
        inputs=normal_inputs(ROWS + 1, seed),
        transitions=steps,
        rewards=single(scale, "`scale`", zero_allowed=True) * rewards,
        discount=discount,
        name="restarting chain",
    )


def interpolated(rows: int) -> Tensor:
    """Features that go linearly from unit vector to unit vector, four rows each."""
    place = torch.arange(rows, dtype=torch.float64) / 4
    return (1 - (place.unsqueeze(1) - torch.arange(rows // 4 + 1)).abs()).clamp(min=0)


def _steps(rows: int) -> Tensor:
    """One or two further with probability 1/2 each, as far as there are rows."""
    half = torch.full((rows,), 0.5, dtype=torch.float64)
    return torch.diag(half[1:], 1) + torch.diag(half[2:], 2)
