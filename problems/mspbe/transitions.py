"""Transitions: rows of experience, enumerated, sampled or logged."""

from typing import NamedTuple

from torch import Tensor


class Transitions(NamedTuple):
    """Rows (x, r, x') of experience.

    Attributes:
        inputs: (n, D), x.
        next_inputs: (n, D), x'; anything finite where an episode ended.
        rewards: (n,).
        ratios: (n,), rho, the target policy's probability of the action over the behaviour's.
        continues: (n,), 0 where an episode ended (V = 0 there), else 1.
        weights: (n,), what each row counts; 1 for samples, with mean 1 for enumerated rows.
    """

    inputs: Tensor
    next_inputs: Tensor
    rewards: Tensor
    ratios: Tensor
    continues: Tensor
    weights: Tensor
