"""Small quadratic programmes on the simplex, for many runs at once."""

import torch
from torch import Tensor

PAIRS, NEAR = 200, 1e-3
"""Exchanges of weight between two entries at most, and how near the best value they end."""


def lowest(square: Tensor, height: Tensor) -> Tensor:
    """Weights on the simplex that make x' A x / 2 + h x small, (R, m).

    Weight moves from the cut whose slope is largest to the one whose slope is smallest, as far as
    that helps; any weights give a bound, these one that is at most `NEAR` above the best.
    """
    shares = torch.zeros_like(height)
    shares[:, 0] = 1.0
    height = height.clamp(max=1e300)
    for _ in range(PAIRS):
        bent = (square @ shares.unsqueeze(2)).squeeze(2)
        slope = bent + height
        value = (shares * (0.5 * bent + height)).sum(1)
        if not bool(((shares * slope).sum(1) - slope.amin(1) > NEAR * value).any()):
            break
        down = slope.argmin(1, keepdim=True)
        held = torch.where(shares > 0, slope, torch.full_like(slope, -torch.inf))
        up = held.argmax(1, keepdim=True)
        gap = held.gather(1, up) - slope.gather(1, down)
        diagonal = square.diagonal(dim1=1, dim2=2)
        mixed = square.gather(1, down.unsqueeze(2).expand(-1, -1, height.shape[1])).squeeze(1)
        bend = diagonal.gather(1, up) + diagonal.gather(1, down) - 2 * mixed.gather(1, up)
        most = shares.gather(1, up)
        length = torch.where(bend > 0, gap / torch.where(bend > 0, bend, 1.0), most)
        length = torch.minimum(length, most).clamp(min=0.0)
        shares = shares.scatter_add(1, up, -length).scatter_add(1, down, length)
    return shares
