"""Quadratic g between bounds: which numbers end at one is guessed, the others are solved for.

With D the diagonal of H, theta is the minimiser where it is P(theta) = Proj(theta - d_theta g / D).
From any theta the numbers that P clips are held at their bounds, and the others go wherever H leads
them, beyond bounds too: P holds them there next. A guess that is right leads to the minimiser.

This is Newton's method for theta = P(theta), known as primal-dual active sets, and takes a handful
of factors. It may go in circles where features are nearly parallel: what does not settle is left to
`descent.py`, whose steps always lower g.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bilevel.heads.objectives.quadratic import QuadraticObjective
from bilevel.heads.projected.bounds import Bounds
from bilevel.linear.cholesky import EPS

MOST = 20
"""Guesses after which a run is taken to go in circles."""


class Settled(NamedTuple):
    """Where R runs are after some guesses.

    Attributes:
        point: heads, (R, P), within their bounds where they are `done`.
        slope: d g there, (R, P).
        residual: |D (theta - P(theta))|, (R,).
        scale: D, (R, P).
        cholesky: factors of H on the free numbers and of D on the others, (R, K, m, m).
        done: whether the head is the minimiser, to rounding, and H positive definite, (R,).
    """

    point: Tensor
    slope: Tensor
    residual: Tensor
    scale: Tensor
    cholesky: Tensor
    done: Tensor


def settled(objective: QuadraticObjective, bounds: Bounds, start: Tensor, most: int) -> Settled:
    """The minimisers of runs that settle in `most` guesses, or in `MOST`.

    A run that is done stays where it is. One that is not finite is never done, and stops no other.

    Args:
        objective: whose Hessian is `whole`.
        bounds: of its vectors.
        start: (R, P), not necessarily within the bounds.
        most: guesses at most, at least one.
    """
    runs, size = len(start), objective.matrix.shape[-1]
    # output by output: rows of numbers (R K, 1, m), each with its matrix
    matrix = objective.matrix.expand(-1, objective.outputs or 1, -1, -1).reshape(-1, size, size)
    shape = len(matrix), 1, size
    moment, low, high, point = (x.reshape(shape) for x in (objective.moment, *bounds, start))
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    scale = diagonal.unsqueeze(1)
    root = scale.sqrt()
    point = point.clamp(low, high)
    landed = torch.addcdiv(point, torch.baddbmm(moment, point, matrix, beta=-1), scale, value=-1)
    inside = landed.clamp(low, high)
    going: Tensor | None = None
    for _ in range(min(most, MOST)):
        free = inside == landed
        restricted = matrix * (free.mT & free)
        restricted.diagonal(dim1=1, dim2=2).copy_(diagonal)
        cholesky, info = torch.linalg.cholesky_ex(restricted)
        right = torch.baddbmm(moment, inside, matrix, beta=-1).mul_(free)
        there = inside - torch.cholesky_solve(right.mT, cholesky).mT
        point = there if going is None else torch.where(going, there, point)
        slope = torch.baddbmm(moment, point, matrix, beta=-1)
        landed = torch.addcdiv(point, slope, scale, value=-1)
        inside = landed.clamp(low, high)
        left = (point - inside).mul_(root)
        # as |H_ij| <= root_i root_j, what cancels in (H theta - b) / root is at most about the
        # largest root theta, in any units of the features
        noise = EPS * (size + 10) * torch.linalg.vector_norm(point * root, torch.inf, 2)
        off = torch.linalg.vector_norm(left, torch.inf, 2)
        going = off > noise
        if not bool(going.any()):
            break
        going = going.unsqueeze(2)
    pivots = cholesky.diagonal(dim1=1, dim2=2).square()
    sound = (pivots > size * EPS * diagonal).all(1) & (info == 0)
    done = (off <= noise).squeeze(1) & sound
    if len(done) > runs:
        done = done.reshape(runs, -1).all(1)
    residual = torch.linalg.vector_norm(left.mul_(root).reshape(runs, -1), dim=1)
    found, slope, scale = (x.reshape(start.shape) for x in (inside, slope, scale))
    factors = cholesky.reshape(runs, -1, size, size)
    return Settled(found, slope, residual, scale, factors, done)
