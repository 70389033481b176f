"""The analytic problems in many variants, and dense derivatives of a problem."""

import math

import torch
from torch.func import grad, jacrev

from bilevel import trees
from bilevel.core.generators import generator
from problems.analytic import (
    NAMES,
    FeatureRegression,
    LogPenalties,
    RandomQuadratic,
    RidgePenalty,
    analytic,
)

CASES = {name: analytic(name) for name in NAMES}
CASES |= {
    "A14-tree": RandomQuadratic(4, 7, 0.3, 6.0, seed=1, tree=True),
    "A14-nonlinear": RandomQuadratic(6, 5, 0.5, 8.0, seed=2, nonlinear=True),
    "A14-nonlinear-tree": RandomQuadratic(3, 8, 0.2, 5.0, seed=3, tree=True, nonlinear=True),
    "A14-stiff": RandomQuadratic(5, 9, 1e-2, 1e2, seed=4),
    "A14-one": RandomQuadratic(1, 1, 0.7, 3.0, seed=5, nonlinear=True),
    "A15-ridge-wide": RidgePenalty(inputs=9, train=6, seed=1),
    "A15-log-wide": LogPenalties(inputs=9, train=6, seed=1),
    "A16-linear": FeatureRegression(activation="linear", upper="train"),
    "A16-wide": FeatureRegression(train=7, features=12, seed=1),
    "A16-rank-2": FeatureRegression(rank=2, seed=2),
    "A16-wide-rank-2": FeatureRegression(
        train=7, features=12, rank=2, activation="linear", upper="train", seed=3
    ),
}
CASES |= {
    f"A14-seed-{seed}": RandomQuadratic(3, 4, 0.5, 4.0, seed=seed, nonlinear=seed % 2 == 1)
    for seed in range(10, 14)
}


def bodies(problem, count=3):
    """The start, and initial points of other seeds."""
    return [problem.start] + [problem.init_body(generator(s, "body")) for s in range(count - 1)]


def flat(tree):
    return torch.cat([leaf.reshape(-1) for leaf in trees.leaves(tree)])


def shaped(vector, like):
    sizes = [leaf.numel() for leaf in trees.leaves(like)]
    pieces = torch.split(vector, sizes)
    return trees.rebuild(
        like, [p.reshape(leaf.shape) for p, leaf in zip(pieces, trees.leaves(like), strict=True)]
    )


class Dense:
    """F and g as functions of two vectors, for dense derivatives."""

    def __init__(self, problem, body):
        self.problem, self.body, self.head = problem, body, problem.best_response(body)
        self.rows, self.w, self.theta = problem.rows(), flat(body), flat(self.head)

    def F(self, w, theta):
        pair = shaped(w, self.body), shaped(theta, self.head)
        return self.problem.body_objective(*pair, self.rows)

    def g(self, w, theta):
        pair = shaped(w, self.body), shaped(theta, self.head)
        return self.problem.head_objective(*pair, self.rows)

    def cross(self, theta):
        """d2_{w theta} g, (d, p)."""
        return jacrev(grad(self.g, 1), 0)(self.w, theta).T

    def hessian(self, theta):
        return jacrev(grad(self.g, 1), 1)(self.w, theta)


def close(found, expected, tolerance):
    scale = float(expected.abs().max()) + 1e-3
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= tolerance * scale


def directions(body):
    """On a grid around a scalar or a pair, at random around a longer vector."""
    if body.ndim == 0:
        return [torch.tensor(sign, dtype=torch.float64) for sign in (1.0, -1.0)]
    if len(body) == 2:
        angles = torch.arange(24, dtype=torch.float64) * (2 * math.pi / 24)
        return list(torch.stack([angles.cos(), angles.sin()], 1))
    drawn = torch.randn(20, len(body), generator=torch.Generator().manual_seed(0))
    return list((drawn / drawn.norm(dim=1, keepdim=True)).double())
