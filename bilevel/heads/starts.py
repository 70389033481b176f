"""Better points to start from than the last heads, after a long step of the body.

There the last head may predict large and wrong numbers, where the curvature is next to none and
Newton steps fall far short. The predictions it made before the step were those of a minimiser, and
the new body can nearly always make them again, with another head.
"""

import torch
from torch import Tensor

from bilevel.heads.objective import AbstractObjective, Place

SHRUNK = (0.5, 0.25, 0.125, 0.0)
"""Multiples of a head that may be a better start than the head itself."""


def better_start(
    objective: AbstractObjective, place: Place, which: Tensor, last: Tensor
) -> tuple[Tensor, Tensor]:
    """The best of the heads where they stand, their multiples, and those that predict as before.

    Args:
        objective: g.
        place: where the runs stand.
        which: the runs that look for another start, (R,).
        last: predictions of the last heads, see `Place`.

    Returns:
        Heads (R, P), and which are new, (R,).
    """
    point, slope, predictions = place
    least, scale = objective.value(place), torch.ones_like(point[:, 0])
    for factor in SHRUNK:
        value = objective.value(Place(factor * point, slope, factor * predictions))
        less = which & (value < least)
        least, scale = torch.where(less, value, least), scale.masked_fill(less, factor)
    best, new = scale.unsqueeze(1) * point, scale < 1
    again = objective.fit(last)
    if again is not None:
        less = which & (objective.value(objective.at(again)) < least)
        best, new = torch.where(less.unsqueeze(1), again, best), new | less
    return best, new
