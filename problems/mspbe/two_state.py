"""w -> 2w: the smallest process on which TD(0) diverges."""

import torch

from problems.mspbe.process import MarkovRewardProcess


def two_state(discount: float = 0.99) -> MarkovRewardProcess:
    r"""Two states with features 1 and 2, both followed by the second; all rewards are 0.

    $A = (5 - 6 \gamma) / 2$, $b = 0$, $C = 5/2$ and $\text{MSPBE} = A^2 \theta^2 / C$. TD(0)
    diverges if and only if $\gamma > 5/6$; TDC converges if and only if
    $\eta > (3 \gamma - 2.5) / 2.5$; TDRC with $\eta = 1$ if and only if $\beta < 3 \gamma - 2.5$,
    where $3 \gamma > 2.5$.

    Args:
        discount: $\gamma$, below 1: the process has no end.

    Source: Tsitsiklis and Van Roy (1997), section 9; Sutton and Barto (2018), section 11.2. Both
    states count 1/2, which is not how often the process visits them. Differs from the source in:
    None.

    Examples:
        >>> from problems.mspbe import exact, two_state
        >>> process = two_state(0.9)
        >>> found = exact.moments(process.inputs, process.model, process.discount)
        >>> round(float(exact.mspbe(found, process.initial_head)), 12)
        0.016
    """
    return MarkovRewardProcess(
        inputs=torch.tensor([[1.0], [2.0]]),
        transitions=torch.tensor([[0.0, 1.0], [0.0, 1.0]]),
        rewards=torch.zeros(2, 2),
        discount=discount,
        weights=torch.tensor([0.5, 0.5]),
        initial_head=torch.tensor([1.0]),
        name="two-state",
    )
