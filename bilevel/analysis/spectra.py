"""Ends of spectra, and traces, of symmetric matrices that are known by their products."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bilevel.bounds.lanczos import Ends, ends
from bilevel.core.generators import generator

Product = Callable[[Tensor], Tensor]
"""v to A v for R matrices, (R, P) to (R, P)."""


class Trace(NamedTuple):
    """Estimates of R traces.

    Attributes:
        value: (R,).
        error: their standard errors, (R,); NaN with a single probe.
    """

    value: Tensor
    error: Tensor


def ends_of(product: Product, like: Tensor, *, tolerance: float, most: int, seed: int) -> Ends:
    """The smallest and largest eigenvalues, from a random start; `like` (R, P)."""
    drawn = torch.randn(like.shape[1], generator=generator(seed, "lanczos"), dtype=torch.float64)
    start = (drawn / drawn.norm()).to(like).expand(like.shape)
    return ends(product, start, tolerance=tolerance, most=most)


def trace_of(product: Product, like: Tensor, *, probes: int, seed: int) -> Trace:
    """The mean of z' A z over vectors z of random signs, which estimates the trace without bias.

    Source: Hutchinson, A stochastic estimator of the trace of the influence matrix (1990).
    Differs from the source in: None.
    """
    source = generator(seed, "trace")
    found = []
    for _ in range(probes):
        signs = torch.randint(0, 2, like.shape[1:], generator=source).to(like) * 2 - 1
        signs = signs.expand(like.shape)
        found.append((signs * product(signs)).sum(1))
    values = torch.stack(found)
    error = values.std(0) if probes > 1 else torch.full_like(values[0], torch.nan)
    return Trace(values.mean(0), error / probes**0.5)
