"""How Phi curves at a body: the ends of the spectrum of Phi'', from differences of gradients."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bilevel.bounds.lanczos import lanczos
from bilevel.core.generators import generator

STEP = 1e-5
"""Of central differences, relative to 1 or to the size of the body."""
LEAST = 0.1
"""Of the largest curvature: a proximal problem whose rho is at least that is well conditioned."""


class Ends(NamedTuple):
    """The ends of the spectrum of Phi'' of R bodies, (R,).

    Attributes:
        low: the curvature v' Phi'' v along the unit vector where it was the smallest.
        high: the same where it was the largest.
        error: how far they are from eigenvalues, where Phi has no kink.
    """

    low: Tensor
    high: Tensor
    error: Tensor

    @property
    def rho(self) -> float:
        """The weak convexity that was seen, at the worst of the bodies; at least 0.

        Phi + rho |w|^2 / 2 can be convex for no smaller rho, since it had this curvature.
        """
        return max(0.0, -float(self.low.nan_to_num(0.0).min()))

    @property
    def prox_rho(self) -> float:
        """What proximal problems may take for rho: at least `LEAST` of |Phi''|, and never 0."""
        size = torch.maximum(self.high.abs(), self.low.abs())
        # of the middle one: a kink between two points looks like curvature, but few are there
        least = LEAST * float(size.nan_to_num(torch.inf).median())
        found = max(self.rho, least if math.isfinite(least) else 0.0)
        return found if found > 0 else 1.0


def ends(gradient: Callable[[Tensor], Tensor], at: Tensor) -> Ends:
    """By Lanczos' method, in up to 34 products with Phi''.

        Phi'' v = (grad Phi(w + h v) - grad Phi(w - h v)) / (2 h) + O(h^2)

    Differences ask of Phi nothing but its gradient, which every problem has, also where F is not g.
    At a kink they are not linear in v, and a Ritz value says nothing. What is returned are
    curvatures along single vectors, which are right there, too: a kink between the two points
    counts, as its jump / (2 h).

    Args:
        gradient: grad Phi, (R, n) to (R, n).
        at: the bodies, (R, n).

    Source: Golub and Van Loan, section 10.1 (Lanczos). Differs from the source in: see
    `bilevel.bounds.lanczos`.
    """
    step = STEP * at.norm(dim=1, keepdim=True).clamp(min=1.0)

    def product(vector: Tensor) -> Tensor:
        ahead, behind = gradient(at + step * vector), gradient(at - step * vector)
        change: Tensor = (ahead - behind) / (2 * step)
        return change

    start = torch.randn(at.shape, generator=generator(0, "curvature"), dtype=at.dtype).to(at.device)
    start = start / start.norm(dim=1, keepdim=True)
    top = lanczos(product, start)
    size = top.value.abs()
    # the lowest eigenvalue is the largest of c - Phi'', with c what makes that positive
    shift = torch.where(size.isfinite(), size, torch.zeros_like(size)).unsqueeze(1)
    low = lanczos(lambda vector: shift * vector - product(vector), start)
    along = [(one.vector * product(one.vector)).sum(1) for one in (top, low)]
    error = torch.maximum(top.residual, low.residual)
    return Ends(torch.minimum(*along), torch.maximum(*along), error)
