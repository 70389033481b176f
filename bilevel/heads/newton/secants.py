"""What steps by an old factor have shown of the Hessian since (limited-memory BFGS)."""

from typing import NamedTuple

import torch
from torch import Tensor

from bilevel.linear.factor import BlockFactor

MEMORY = 8


class Secant(NamedTuple):
    """One step of R runs."""

    step: Tensor  # s, (R, P)
    change: Tensor  # y, of the slope along it, (R, P)
    rate: Tensor  # 1 / s'y, (R,); 0 for runs that did not make it, or made a new factor since


class Secants(NamedTuple):
    """B^{-1} with B s = y for the last steps, and the factor L L' for all other directions.

    Source: Nocedal, Updating Quasi-Newton Matrices with Limited Storage (1980), with a factor of an
    earlier Hessian in the place of a multiple of the identity.
    """

    kept: tuple[Secant, ...] = ()

    def with_step(self, step: Tensor, change: Tensor, which: Tensor) -> "Secants":
        """And a step of the runs `which`, where g bends upwards along it."""
        product = (step * change).sum(1)  # not finite where one of the two is not
        rate = torch.where(which & (product > 0), 1 / product, 0.0)
        usable = product.isfinite() & rate.isfinite()
        step, change = (x.masked_fill(~usable.unsqueeze(1), 0.0) for x in (step, change))
        last = Secant(step, change, rate.masked_fill(~usable, 0.0))
        return Secants((*self.kept, last)[-MEMORY:])

    def without(self, which: Tensor) -> "Secants":
        """Runs with a new factor start afresh."""
        if bool(which.all()):
            return Secants()
        return Secants(
            tuple(one._replace(rate=one.rate.masked_fill(which, 0.0)) for one in self.kept)
        )

    def solve(self, factor: BlockFactor, slope: Tensor) -> Tensor:
        """B^{-1} times a slope, (R, P)."""
        left, along = slope, []
        for one in reversed(self.kept):
            along.append(one.rate * (one.step * left).sum(1))
            left = left - along[-1].unsqueeze(1) * one.change
        found = factor.solve(left)
        for one, rate in zip(self.kept, reversed(along), strict=True):
            back = rate - one.rate * (one.change * found).sum(1)
            found = found + back.unsqueeze(1) * one.step
        return found
