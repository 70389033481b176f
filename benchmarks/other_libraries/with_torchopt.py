"""What TorchOpt returns: implicit gradients at the exact head, and unrolled ones.

Run: pip install torch==2.13.0 torchopt==0.7.3 && python with_torchopt.py
"""

import functools
from typing import Any

import numpy as np
import torch
import torchopt
from cases import Case, show, versions


def implicit(case: Case, **options: Any) -> np.ndarray:
    """Grad of F through `custom_root`, which is given the exact head."""
    c = {name: torch.tensor(value) for name, value in case.constants.items()}
    w = torch.tensor(case.w, requires_grad=True)

    def condition(theta: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return torch.func.grad(lambda x: case.g(w, x, c))(theta)

    @torchopt.diff.implicit.custom_root(condition, argnums=1, **options)
    def head(theta: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return torch.tensor(case.theta, requires_grad=True)

    theta = head(torch.zeros_like(torch.tensor(case.theta)), w)
    return torch.autograd.grad(case.F(w, theta, c), w)[0].numpy()


def unrolled(case: Case, steps: int) -> np.ndarray:
    """Through SGD steps of size 1 / L from zeros, by `FuncOptimizer`."""
    c = {name: torch.tensor(value) for name, value in case.constants.items()}
    w = torch.tensor(case.w, requires_grad=True)
    optimizer = torchopt.FuncOptimizer(torchopt.sgd(lr=1 / case.largest))
    theta: Any = (torch.zeros_like(torch.tensor(case.theta)).requires_grad_(),)
    for _ in range(steps):
        theta = optimizer.step(case.g(w, theta[0], c), theta)
    return torch.autograd.grad(case.F(w, theta[0], c), w)[0].numpy()


if __name__ == "__main__":
    versions("torch", "torchopt")
    solve = torchopt.linear_solve
    show("custom_root, default solve", implicit)
    show("custom_root, solve_cg()", functools.partial(implicit, solve=solve.solve_cg()))
    tight = solve.solve_cg(rtol=1e-12, maxiter=1000)
    show("custom_root, solve_cg(rtol=1e-12)", functools.partial(implicit, solve=tight))
    show("custom_root, solve_inv()", functools.partial(implicit, solve=solve.solve_inv()))
    for steps in (10, 1000):
        show(f"unrolled, {steps} steps", functools.partial(unrolled, steps=steps))
