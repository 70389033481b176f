"""Transitions: rows of experience, enumerated, sampled or logged."""

from typing import NamedTuple

from torch import Tensor

from bilevel.errors import DataError


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


def check_ratios(ratios: Tensor) -> None:
    """Raise where no transition counts for the target policy.

    Raises:
        DataError: all ratios are 0.
    """
    if not bool((ratios != 0).any()):
        raise DataError(
            "`ratios` is 0 for all transitions: the target policy would have made none of them, so "
            "that nothing can be learned about it. Check what is divided by what."
        )
