"""What a point knows of an earlier call, where what changed is no attribute of the problem."""

import numpy as np
import torch
from test_known import FEATURES, ROWS, Penalties, found, same

import bilevel


def test_small_changes_beside_large_numbers_are_seen():
    """As of time stamps, which are counted from their means: sums of them are rounded more."""
    problem = Penalties(fit_bias=True)
    problem.arrays[0][:, 1] += 1.7e9
    found(problem)
    for row in range(ROWS):
        problem.arrays[0][row, 1] += 1e-6
        assert same(problem)
    problem.arrays[0][:2, 1] *= -1  # the top bits of an even number of rows
    assert same(problem)


def test_initial_heads_of_other_numbers_are_seen():
    """Those that `init_head` takes from an array, where nobody counts changes."""
    problem, start = Penalties(), np.zeros(FEATURES)
    problem.init_head = lambda generator: torch.from_numpy(start.copy())
    solver = bilevel.FastSGD(1e-2, 3)
    assert same(problem, solver=solver)
    start[1] = 5.0
    assert same(problem, solver=solver)
