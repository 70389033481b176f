"""Heads between bounds for tests: boxes, and the conditions that their minimisers satisfy."""

import numpy as np
import torch
from linear_heads import ONE

from bilevel import Box, Nonnegative

INF = float("inf")
BOXES = {
    "box": Box(-0.05, 0.1),
    "nonnegative": Nonnegative(),
    "above": Box(-INF, 0.02),
    "everywhere": Box(-INF, INF),
}
BOUNDS = {"box": (-0.05, 0.1), "nonnegative": (0, INF), "above": (-INF, 0.02)}


def violation(head, slope, low, high):
    """How far a head within its bounds is from the KKT conditions."""
    head, slope = np.ravel(head), np.ravel(slope)
    assert (head >= low).all()
    assert (head <= high).all()
    wrong = np.where(head == low, np.minimum(slope, 0), slope)
    wrong = np.where(head == high, np.maximum(wrong, 0), wrong)
    return np.abs(wrong).max()


def problem_slope(problem, head):
    """d_theta g by automatic differentiation of the user's own objective."""
    head = head.clone().requires_grad_()
    value = problem.head_objective(ONE, head, problem.data())
    return torch.autograd.grad(value, head)[0].numpy()
