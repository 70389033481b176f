"""What the hypergradients of Betty return at the exact head.

They are methods of its engine; here they get the two problems as stand-ins that hold what they ask
for: the loss of the lower level, its parameter and a `Config`.

Run: pip install torch==2.13.0 betty-ml==0.1.1 && python with_betty.py
"""

import functools
import types
from typing import Any

import numpy as np
import torch
from betty.configs import Config
from betty.hypergradient import jvp_fn_mapping
from cases import Case, show, versions


def gradient(case: Case, scale: str = "", **config: Any) -> np.ndarray:
    """d_w F and Betty's implicit term; `scale` names a setting that becomes 1 / L."""
    c = {name: torch.tensor(value) for name, value in case.constants.items()}
    w = torch.tensor(case.w, requires_grad=True)
    theta = torch.tensor(case.theta, requires_grad=True)
    if scale:
        config[scale] = 1 / case.largest
    lower = types.SimpleNamespace(
        paths=[],
        config=Config(**config),
        cur_batch=None,
        training_step_exec=lambda batch: case.g(w, theta, c),
        trainable_parameters=lambda: [theta],
        parameters=lambda: [theta],
    )
    upper = types.SimpleNamespace(trainable_parameters=lambda: [w])
    value = case.F(w, theta, c)
    direct, slope = torch.autograd.grad(value, [w, theta], allow_unused=True)
    term = jvp_fn_mapping[config["type"]]([slope], lower, upper)[0]
    return (term if direct is None else direct + term).detach().numpy()


if __name__ == "__main__":
    versions("torch", "betty-ml")
    show('"darts", default', functools.partial(gradient, type="darts"))
    show('"neumann", default', functools.partial(gradient, type="neumann"))
    for n in (100, 1000):
        neumann = {"type": "neumann", "neumann_iterations": n, "scale": "neumann_alpha"}
        show(f'"neumann", {n} steps, alpha 1/L', functools.partial(gradient, **neumann))
    show('"cg", default', functools.partial(gradient, type="cg"))
    for n in (2, 8):
        show(f'"cg", {n} steps', functools.partial(gradient, type="cg", cg_iterations=n))
    scaled = {"type": "cg", "cg_iterations": 8, "cg_alpha": 0.1}
    show('"cg", 8 steps, alpha 0.1', functools.partial(gradient, **scaled))
