"""Baird's star: off-policy learning with features of full rank in no direction to spare."""

import torch

from problems.mspbe.process import MarkovRewardProcess


def baird(discount: float = 0.99) -> MarkovRewardProcess:
    r"""Seven states, eight features, rewards 0; the target policy always goes to the seventh state.

    The behaviour goes to every state with probability 1/7, so the ratio is 7 towards the seventh
    state and 0 else. $\phi_i = e_1 + 2 e_{i+1}$ for $i \le 6$, $\phi_7 = 2 e_1 + e_8$, and $\theta$
    starts at (1, 1, 1, 1, 1, 1, 1, 10): RMSPBE 8.22140759585. C has rank 7 of 8, so minimisers are
    many. TD(0) diverges; TDC with small steps converges for $\eta > 0.1424$.

    Args:
        discount: $\gamma$, below 1.

    Source: Baird (1995) as in Sutton and Barto (2018), section 11.2. Differs from the source in:
    None.

    Examples:
        >>> from problems.mspbe import baird, exact
        >>> process = baird()
        >>> found = exact.moments(process.inputs, process.model, process.discount)
        >>> round(float(exact.mspbe(found, process.initial_head) ** 0.5), 8)
        8.2214076
    """
    states = 7
    inputs = torch.zeros(states, states + 1)
    inputs[:, 0], inputs[-1, 0], inputs[-1, -1] = 1, 2, 1
    inputs[range(6), range(1, 7)] = 2
    target = torch.zeros(states, states)
    target[:, -1] = 1
    head = torch.ones(states + 1)
    head[-1] = 10
    return MarkovRewardProcess(
        inputs=inputs,
        transitions=target,
        rewards=torch.zeros(states, states),
        discount=discount,
        behaviour=torch.full((states, states), 1 / states, dtype=torch.float64),
        weights=torch.full((states,), 1 / states, dtype=torch.float64),
        initial_head=head,
        name="Baird's star",
    )
