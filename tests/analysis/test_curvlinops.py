"""The Hessian of g in body and head together against curvlinops, on torch's own loss."""

import warnings

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import nn

import bilevel
from bilevel import analysis, trees
from problems.teacher import teacher

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what it imports uses what torch has deprecated
    from curvlinops import HessianLinearOperator

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
RIDGE, SHAPE = 1e-2, (6, 9)


def test_the_full_hessian_is_that_of_curvlinops():
    problem = teacher(rows=40, inputs=6, width=9, ridge=RIDGE)
    at = analysis.iterates(
        problem, bilevel.TwoTimescale(0.01, 0.05), at=(30,), seeds=[3], batch_size=16,
        dtype=torch.float64,
    )  # fmt: skip
    found = analysis.curvature(at, of=["full"], tolerance=1e-9, probes=1).values
    body, head = (trees.take(level[0], 0) for level in (at.bodies, at.heads))
    first, last = nn.Linear(*SHAPE, bias=False).double(), nn.Linear(9, 1, bias=False).double()
    with torch.no_grad():
        first.weight.copy_(body.T)
        last.weight.copy_(head.unsqueeze(0))
    model = nn.Sequential(first, nn.ReLU(), last)
    rows = problem.data(3)["train"]
    parameters = list(model.parameters())
    theirs = HessianLinearOperator(
        model, nn.MSELoss(), parameters, [(rows.inputs, rows.targets.unsqueeze(1))]
    )
    penalty = np.concatenate([np.zeros(54), np.full(9, RIDGE)])

    def product(vector):  # the mean of squares has no half, and no penalty
        return 0.5 * (theirs @ torch.from_numpy(vector)).numpy() + penalty * vector

    whole = LinearOperator((63, 63), product, dtype=np.float64)
    for which, name in (("LA", "largest"), ("SA", "smallest")):
        wanted = eigsh(whole, 1, which=which, v0=np.ones(63), return_eigenvectors=False)[0]
        mine = float(found[f"full_{name}"][0, 0])
        assert abs(mine - wanted) <= 1e-6 * float(found["full_largest"][0, 0])
        assert abs(wanted) > 1e-2
