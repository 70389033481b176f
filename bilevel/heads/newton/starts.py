"""Better points to start from than the last heads, after a long step of the body.

There the last head may predict large and wrong numbers, where the curvature is next to none and
Newton steps fall far short. The predictions it made before the step were those of a minimiser, and
the new body can nearly always make them again, with another head.
"""

import torch
from torch import Tensor

from bilevel import trees
from bilevel.heads.objectives.base import AbstractObjective, Place

SHRUNK = (0.5, 0.25, 0.125, 0.0)
"""Multiples of a head that may be a better start than the head itself."""


def better_start(
    objective: AbstractObjective, place: Place, which: Tensor, last: Tensor
) -> tuple[Place, Tensor]:
    """The best of the heads where they stand, their multiples, and those that predict as before.

    Args:
        objective: g.
        place: where the runs stand.
        which: the runs that look for another start, (R,).
        last: predictions of the last heads, see `Place`; zeros where there were none.

    Returns:
        Where the runs start, and which are elsewhere than before, (R,).
    """
    known = which & (last != 0).flatten(1).any(1)
    looking = known | (which & (place.point != 0).any(1))
    new = torch.zeros_like(which)
    if not bool(looking.any()):
        return place, new
    part, here = objective.part(looking, place)
    best, found = _best(part, here, known[looking], last[looking])
    if bool(looking.all()):
        return best, found
    return place.replaced(looking, best), new.index_put((looking,), found)


def _best(
    objective: AbstractObjective, place: Place, known: Tensor, last: Tensor
) -> tuple[Place, Tensor]:
    """The same where all runs look for another start, and there is a last head of the `known`."""
    point, slope, predictions = place
    new = torch.zeros_like(known)
    best, least = place, objective.value(place)
    if bool(known.any()):
        part = objective.part(known, place)[0]
        again = part.fit(last[known])
        if again is not None:
            there = part.at(again)
            value = part.value(there)
            less = value < least[known]
            new = new.index_put((known,), less)
            least = least.index_put((new,), value[less])
            best = best.replaced(new, trees.take(there, less))
    scale = torch.ones_like(least)
    for factor in SHRUNK:
        value = objective.value(Place(factor * point, slope, factor * predictions))
        less = value < least
        least, scale = torch.where(less, value, least), scale.masked_fill(less, factor)
    shrunk = scale < 1
    if bool(shrunk.any()):
        best = trees.where(shrunk, objective.at(scale.unsqueeze(1) * point), best)
    return best, new | shrunk
