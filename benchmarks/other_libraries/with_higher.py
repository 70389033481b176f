"""What higher returns: the derivative through inner SGD steps of size 1 / L from zeros.

Run: pip install torch==2.13.0 higher==0.2.1 && python with_higher.py
"""

import functools

import higher
import numpy as np
import torch
from cases import Case, show, versions


class Head(torch.nn.Module):
    """The head as the only parameter."""

    def __init__(self, like: np.ndarray) -> None:
        super().__init__()
        self.theta = torch.nn.Parameter(torch.zeros_like(torch.tensor(like)))

    def forward(self) -> torch.Tensor:
        """The head."""
        return 1 * self.theta


def unrolled(case: Case, steps: int) -> np.ndarray:
    """Through `steps` steps."""
    c = {name: torch.tensor(value) for name, value in case.constants.items()}
    w, module = torch.tensor(case.w, requires_grad=True), Head(case.theta)
    optimizer = torch.optim.SGD(module.parameters(), lr=1 / case.largest)
    with higher.innerloop_ctx(module, optimizer) as (inner, differentiable):
        for _ in range(steps):
            differentiable.step(case.g(w, inner(), c))
        return torch.autograd.grad(case.F(w, inner(), c), w)[0].numpy()


if __name__ == "__main__":
    versions("torch", "higher")
    for steps in (10, 100, 1000):
        show(f"innerloop_ctx, {steps} steps", functools.partial(unrolled, steps=steps))
