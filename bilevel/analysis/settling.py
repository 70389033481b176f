"""What trainings are measured against: the point they settle at, and envelopes on their way."""

from typing import NamedTuple

import torch
from torch import Tensor

from bilevel import trees
from bilevel.analysis.curving import Ends, ends
from bilevel.analysis.envelopes import domain_of, proximal
from bilevel.analysis.reduced import Reduced
from bilevel.data.training_data import TrainingData
from bilevel.training.training import Training

LARGEST = 2**26
"""Numbers of bodies that are kept, and that proximal problems hold at once."""
COPIES = 64
"""Vectors that a proximal problem holds."""
WITNESSES = 8
"""Runs whose last bodies say where trainings lead."""
STEPS, PROXIMAL_STEPS, TOLERANCE = 200, 40, 1e-9
FEWEST, CLOSER = 3, 0.9
"""Proximal steps after which runs must come closer, and by which factor, to lead to one point."""
ACCURATE = 0.05
"""Errors of envelopes, relative to their gradients, that a slope over decades can bear."""
SAME = 1e-6
"""Of the size of a body: what lies no further apart is one point."""


class Settled(NamedTuple):
    """Where trainings lead.

    Attributes:
        body: w*, (n,); None if it is not one point.
        note: why there is none; "" if there is one.
    """

    body: Tensor | None
    note: str


class Envelope(NamedTuple):
    """Gradients of Moreau envelopes.

    Attributes:
        norm: their norms, (T, N); NaN where the proximal point was not found.
        l: of the envelopes.
        rho: what was taken for the weak convexity of Phi.
    """

    norm: Tensor
    l: float  # noqa: E741 - the name of the formula
    rho: float


class RecordedBodies:
    """The bodies of all runs at every record, in float64, as vectors; None if they are too large.

    Args:
        training: whose.
        records: how many there will be.
    """

    def __init__(self, training: Training, records: int) -> None:
        self.training, self._kept = training, list[Tensor]()
        size = trees.flatten(training.state.strategy.body).numel()
        self.fits = size * records <= LARGEST

    def add(self) -> None:
        """Keep those of now."""
        if self.fits:
            self._kept.append(trees.flatten(self.training.state.strategy.body))

    @property
    def bodies(self) -> Tensor:
        """(T, R, n)."""
        return torch.stack(self._kept)


def settled(data: TrainingData, last: Tensor, of_schedules: int) -> Settled:
    """The minimiser of Phi that proximal steps lead to from the last bodies of some runs.

        w <- argmin over v of Phi(v) + |v - w|^2 / (2 l)

    Args:
        data: of the runs of one schedule.
        last: bodies, (S R, n), for S schedules one after the other.
        of_schedules: S.
    """
    if data.per_seed:
        return Settled(None, "every seed has data, and a w*, of its own")
    each = max(1, WITNESSES // of_schedules)
    chosen = last.reshape(of_schedules, -1, last.shape[1])[:, :each].flatten(0, 1)
    chosen = chosen[chosen.isfinite().all(1)]
    if not len(chosen):
        return Settled(None, "all runs that it was looked for from failed")
    reduced = Reduced(data.part(slice(0, 1)).repeated(len(chosen)))
    rho = _ends(reduced, chosen).prox_rho
    at, length, apart = chosen, 1 / (2 * rho), _spread(chosen)
    for step in range(PROXIMAL_STEPS):
        found = proximal(reduced, at, length, rho, None, TOLERANCE, STEPS)
        moved = (found.point - at).norm(dim=1)
        at = found.point
        scale = at.norm(dim=1).clamp(min=1.0)
        before, apart = apart, _spread(at)
        if not bool((moved > TOLERANCE * scale).any()):
            break
        # trainings of networks lead to points of their own, which hundreds of steps would only show
        if step >= FEWEST and apart > max(CLOSER * before, SAME * float(scale.max())):
            break
    if not apart <= SAME * float(scale.max()):
        return Settled(None, f"{len(chosen)} runs lead to points that are {apart:.1g} apart")
    return Settled(at.mean(0), "")


def envelopes(data: TrainingData, bodies: Tensor) -> Envelope:
    """|grad Phi_l| at every record of some runs, with one l for all.

    Args:
        data: of N runs.
        bodies: (T, N, n).
    """
    records, runs, size = bodies.shape
    usable = bodies.isfinite().all(2)
    ends_at = torch.cat([bodies[0, :WITNESSES], bodies[-1, :WITNESSES]])
    finite = ends_at.isfinite().all(1)
    looked = Reduced(data.part(slice(0, WITNESSES)).repeated(2))
    rho = _ends(looked, ends_at.nan_to_num(0.0), finite).prox_rho
    length = 1 / (2 * rho)
    at_once = max(1, LARGEST // (COPIES * size * runs))
    norms = []
    for first in range(0, records, at_once):
        some = bodies[first : first + at_once]
        reduced = Reduced(data.repeated(len(some)))
        at = domain_of(reduced)(some.flatten(0, 1).nan_to_num(0.0))
        found = proximal(reduced, at, length, rho, None, TOLERANCE, STEPS, ACCURATE / 5)
        moved = (at - found.point).norm(dim=1)
        right = found.converged | (found.error <= ACCURATE * moved)
        norms.append((moved / length).masked_fill(~right, torch.nan).reshape(len(some), runs))
    return Envelope(torch.cat(norms).masked_fill(~usable, torch.nan), length, rho)


def _ends(reduced: Reduced, at: Tensor, which: Tensor | None = None) -> Ends:
    found = ends(reduced.gradient, domain_of(reduced)(at))
    return found if which is None else Ends(*(x[which] for x in found))


def _spread(points: Tensor) -> float:
    """How far points are from the first of them, at most."""
    return float((points - points[:1]).norm(dim=1).max())
