"""What cvxpylayers returns: the derivative of the solution map of a cone program.

Run: pip install torch==2.13.0 cvxpylayers==1.2.0 && python with_cvxpylayers.py
"""

import functools
from typing import Any

import cvxpy
import numpy as np
import torch
from cases import Case, show, versions
from cvxpylayers.torch import CvxpyLayer


def program(case: Case) -> tuple[Any, list[Any], Any, Any]:
    """The head's objective for cvxpy: theta, parameters, g, and what the parameters are of w."""
    c = case.constants
    if case.name in ("A4", "A6", "A13"):
        theta, w = cvxpy.Variable(), cvxpy.Parameter()
        g = {
            "A4": cvxpy.square(theta - w),
            "A6": cvxpy.square(theta - w) / 2 + cvxpy.square(theta) / 2,
            "A13": cvxpy.square(w * theta - 2) / 2
            + cvxpy.square(2 * w * theta - 1) / 2
            + cvxpy.square(theta) / 2,
        }[case.name]
        return theta, [w], g, lambda value: value
    theta = cvxpy.Variable(len(case.theta))
    if case.name == "A12":
        w = cvxpy.Parameter(2)
        return theta, [w], cvxpy.sum_squares(theta - c["b"] @ w / 2), lambda value: value
    root = cvxpy.Parameter(nonneg=True)  # of w: DPP allows no parameter before a square
    fit = cvxpy.sum_squares(c["x"] @ theta - c["t"]) / (2 * len(c["x"]))
    return theta, [root], fit + cvxpy.sum_squares(root * theta) / 2, torch.sqrt


def gradient(case: Case, **options: Any) -> np.ndarray:
    """Grad of F through the layer."""
    theta, parameters, g, of_w = program(case)
    layer = CvxpyLayer(cvxpy.Problem(cvxpy.Minimize(g)), parameters=parameters, variables=[theta])
    c = {name: torch.tensor(value) for name, value in case.constants.items()}
    w = torch.tensor(case.w, requires_grad=True)
    (found,) = layer(of_w(w), solver_args=options)
    return torch.autograd.grad(case.F(w, found, c), w)[0].numpy()


if __name__ == "__main__":
    versions("torch", "cvxpylayers", "diffcp", "cvxpy", "clarabel", "scs")
    show("default", gradient)
    show('mode="dense"', functools.partial(gradient, mode="dense"))
    show('mode="lsqr"', functools.partial(gradient, mode="lsqr"))
    show(
        'SCS, mode="dense"',
        functools.partial(gradient, solve_method="SCS", mode="dense", eps=1e-10),
    )
