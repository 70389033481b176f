"""Minimisers of strongly convex functions of R runs that may have kinks, with error bounds.

L-BFGS with a weak Wolfe line search comes near: that search ends on the other side of a kink, so
that the last points know both. From there the minimiser of the cuts,

    H(v) >= max over i of  H(v_i) + G_i (v - v_i) + s/2 |v - v_i|^2,

is the next point, and H less the minimum of the right side bounds the distance to the minimiser.

Source: Lewis and Overton, Nonsmooth optimization via quasi-Newton methods (2013), for the search;
Kiwiel, Methods of descent (1985), for the cuts. Differs from the source in: 1. all cuts share the
curvature s, that H is known to have; 2. sets, by projected steps; 3. R runs at once.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bilevel.analysis.shares import lowest

ARMIJO, WOLFE = 1e-4, 0.5
TRIALS, MEMORY, KEPT = 25, 20, 16
EPS = torch.finfo(torch.float64).eps
ROUNDED = 4 * EPS
"""What rounding may have made of a value, relative to it."""
PATIENCE = 6
"""Steps without a decrease above rounding, after which the cuts take over."""
ROUNDS, CUTS = 4, 24
"""How often L-BFGS begins anew, and how many steps to minimisers of cuts are made in between."""

Both = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclasses.dataclass(frozen=True)
class Domain:
    """The set that minimisers lie in.

    Args:
        project: onto it, (R, n) to (R, n); None: everywhere.
        free: of points and pushes: which coordinates are off the bounds; None: it has none.
    """

    project: Callable[[Tensor], Tensor] | None = None
    free: Callable[[Tensor, Tensor], Tensor] | None = None

    def __call__(self, vector: Tensor) -> Tensor:
        """The nearest points of the set."""
        return vector if self.project is None else self.project(vector)

    def reduced(self, point: Tensor, before: Tensor, slope: Tensor) -> Tensor:
        """The smallest known subgradient of H and the set at point = project(before)."""
        if self.project is None:
            return slope
        if self.free is not None:
            return slope * self.free(point, -slope)
        normal = before - point
        length = (normal * normal).sum(1)
        share = -(slope * normal).sum(1) / torch.where(length > 0, length, torch.ones_like(length))
        return slope + share.clamp(min=0.0).unsqueeze(1) * normal


class Minimum(NamedTuple):
    """What was found of R runs.

    Attributes:
        point: near the minimiser, (R, n).
        value: H there, (R,).
        error: a bound on the distance to the minimiser, (R,).
        converged: whether it is as small as was asked for, or as rounding of H lets one tell.
        steps: how many were made, line searches not counted.
    """

    point: Tensor
    value: Tensor
    error: Tensor
    converged: Tensor
    steps: int


def minimise(
    both: Both,
    start: Tensor,
    convexity: float,
    domain: Domain,
    tolerance: float,
    steps: int,
    relative: float = 0.0,
) -> Minimum:
    """The minimisers of H, one for each run.

    Args:
        both: H (R,) and its gradient (R, n).
        start: (R, n), in the domain.
        convexity: s: H - s/2 |v|^2 is convex.
        domain: of the minimisers.
        tolerance: on `error`, relative to 1 or the size of the point.
        steps: at most.
        relative: an error that is also small enough, relative to the way from the start.
    """
    search = _Search(both, start, convexity, domain, (tolerance, relative))
    made, error = 0, torch.full_like(search.value, torch.inf)
    for _ in range(ROUNDS):
        while made < steps and bool(search.moving.any()):
            search.step()
            made += 1
        for _ in range(CUTS):
            if made >= steps or bool(search.done.all()):
                break
            search.cut()
            made += 1
        before, error = error, search.error()
        if bool((search.done | ~(error < 0.5 * before)).all()):
            break
        search.restart()
    return Minimum(search.point, search.value, search.error(), search.done & ~search.bad, made)


class _Cuts(NamedTuple):
    """Points (R, KEPT, n) with H (R, KEPT) and a subgradient (R, KEPT, n)."""

    point: Tensor
    value: Tensor
    slope: Tensor


class _Search:
    """Where R runs stand."""

    def __init__(
        self,
        both: Both,
        start: Tensor,
        convexity: float,
        domain: Domain,
        tolerances: tuple[float, float],
    ) -> None:
        self.both, self.convexity, self.domain = both, convexity, domain
        self.tolerances, self.start, self.point = tolerances, start, start
        self.value, self.slope = both(start)
        self.reduced = domain.reduced(start, start, self.slope)
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []
        own = (self.point, self.value, self.reduced)
        self.cuts = _Cuts(*(x.unsqueeze(1).repeat(1, KEPT, *[1] * (x.ndim - 1)) for x in own))
        self.least = self.reduced.norm(dim=1)
        self.idle = torch.zeros(len(start), dtype=torch.int64, device=start.device)
        self.scale = torch.full_like(self.value, 1 / convexity).unsqueeze(1)
        self._known: tuple[Tensor, Tensor, Tensor] | None = None
        self.bad = ~(self.value.isfinite() & self.slope.isfinite().all(1))

    @property
    def wanted(self) -> Tensor:
        """The largest errors that are small enough, (R,)."""
        size: Tensor = self.point.norm(dim=1)
        tolerance, relative = self.tolerances
        way = (self.point - self.start).norm(dim=1)
        return torch.maximum(tolerance * size.clamp(min=1.0), relative * way)

    @property
    def done(self) -> Tensor:
        """Runs whose error is known to be small, or that began where H is no number."""
        told = (2 * ROUNDED * self.value.abs() / self.convexity).sqrt()  # by rounded cuts
        small: Tensor = self.error() <= torch.maximum(self.wanted, 3 * told)
        return self.bad | small

    @property
    def moving(self) -> Tensor:
        """Runs that L-BFGS goes on with."""
        small: Tensor = self.reduced.norm(dim=1) <= self.convexity * self.wanted
        return ~(self.bad | small | (self.idle >= PATIENCE))

    def step(self) -> None:
        """One step of L-BFGS; runs that are done stay."""
        moving = self.moving
        away = torch.where(moving.unsqueeze(1), self._direction(), torch.zeros_like(self.point))
        point, value, slope, reduced, found = self._searched(away, moving)
        keep = found.unsqueeze(1)
        moved = torch.where(keep, point - self.point, torch.zeros_like(point))
        change = torch.where(keep, reduced - self.reduced, torch.zeros_like(point))
        self._remember(moved, change)
        rounding = 10 * EPS * (1 + self.value.abs())
        better = found & (value < self.value - rounding)
        shorter = found & (reduced.norm(dim=1) < 0.5 * self.least)
        self.least = torch.where(shorter, reduced.norm(dim=1), self.least)
        idle = self.idle + torch.where(found, 1, PATIENCE)
        self.idle = torch.where(moving, torch.where(better | shorter, 0, idle), self.idle)
        self._take(found, point, value, slope, reduced)

    def restart(self) -> None:
        """Let L-BFGS go on from where the cuts led, for runs whose error is not small."""
        self.idle = torch.where(self.done, PATIENCE, 0)
        self.least, self.pairs = self.reduced.norm(dim=1), []

    def _take(
        self, which: Tensor, point: Tensor, value: Tensor, slope: Tensor, reduced: Tensor
    ) -> None:
        """Move some of the runs."""
        self._known = None
        wide = which.unsqueeze(1)
        self.point = torch.where(wide, point, self.point)
        self.slope = torch.where(wide, slope, self.slope)
        self.reduced = torch.where(wide, reduced, self.reduced)
        self.value = torch.where(which, value, self.value)

    def _direction(self) -> Tensor:
        """Minus the inverse Hessian times the gradient, on the free coordinates."""
        domain = self.domain
        if domain.project is not None and domain.free is None:
            return -self.scale * self.slope  # no other one leads downwards along the projection
        away, weights = self.reduced, []
        for moved, change, weight in reversed(self.pairs):
            share = weight * (moved * away).sum(1)
            weights.append(share)
            away = away - share.unsqueeze(1) * change
        away = self.scale * away
        for (moved, change, weight), share in zip(self.pairs, reversed(weights), strict=True):
            back = weight * (change * away).sum(1)
            away = away + (share - back).unsqueeze(1) * moved
        if domain.free is not None:
            away = away * (self.reduced != 0)
        falls = (away * self.reduced).sum(1) > 0
        return -torch.where(falls.unsqueeze(1), away, self.scale * self.reduced)

    def _remember(self, moved: Tensor, change: Tensor) -> None:
        """A pair, with weight 0 in runs where it says nothing of the curvature."""
        along, square = (moved * change).sum(1), (change * change).sum(1)
        # no curvature is below s: such a pair comes from rounding, or from another face
        right = along > 0.1 * self.convexity * (moved * moved).sum(1)
        right &= along > EPS * moved.norm(dim=1) * change.norm(dim=1)
        one = torch.ones_like(along)
        weight = torch.where(right, 1 / torch.where(right, along, one), 0.0)
        scale = along / torch.where(right, square, one)
        self.scale = torch.where(right.unsqueeze(1), scale.unsqueeze(1), self.scale)
        self.pairs = [*self.pairs, (moved, change, weight)][-MEMORY:]

    def _searched(self, away: Tensor, moving: Tensor) -> tuple[Tensor, ...]:
        """A weak Wolfe point of each run; with a set, one that is low enough."""
        wide, domain = away.new_ones(len(away), 1), self.domain
        low, high = torch.zeros_like(wide), torch.full_like(wide, torch.inf)
        best = [self.point, self.value, self.slope, self.reduced]
        found, steep = ~moving, (self.slope * away).sum(1)
        length = wide
        for _ in range(TRIALS):
            before = self.point + length * away
            point = domain(before)
            value, slope = self.both(point)
            reduced = domain.reduced(point, before, slope)
            furthest = self._heights()[:, 1:].argmax(1)
            self._keep((point, value, reduced), moving & ~found, furthest)
            expected = (self.slope * (point - self.point)).sum(1)
            enough = value <= self.value + ARMIJO * expected
            ahead = (slope * away).sum(1)
            flat = ahead >= WOLFE * steep
            # where rounding hides what H does its slope tells: Hager and Zhang (2005)
            level = value <= self.value + 16 * ROUNDED * self.value.abs()
            enough = enough | (level & (ahead <= (2 * ARMIJO - 1) * steep))
            if domain.project is not None:
                flat = torch.ones_like(flat)
            new = ~found & enough & flat
            made = (point, value, slope, reduced)
            best = [torch.where(_like(new, x), x, y) for x, y in zip(made, best, strict=True)]
            found = found | new
            if bool(found.all()):
                break
            high = torch.where(enough.unsqueeze(1), high, length)
            low = torch.where((enough & ~flat).unsqueeze(1), length, low)
            length = torch.where(high.isinf(), 2 * low, 0.5 * (low + high))
        return *best, found & moving

    # cuts

    def _keep(self, cut: tuple[Tensor, ...], which: Tensor, spare: Tensor) -> None:
        """Put a cut of some runs in the place `spare` (R,) of another one."""
        self._known = None
        right = which & cut[1].isfinite() & cut[2].isfinite().all(1)
        place = torch.zeros_like(self.cuts.value, dtype=torch.bool)
        place = place.scatter(1, spare.unsqueeze(1), right.unsqueeze(1))
        pairs = zip(cut, self.cuts, strict=True)
        self.cuts = _Cuts(
            *(torch.where(_like(place, old), new.unsqueeze(1), old) for new, old in pairs)
        )

    def _with_point(self) -> "_Cuts":
        """All cuts, the point's own first."""
        own = (self.point, self.value, self.reduced)
        return _Cuts(
            *(torch.cat([x.unsqueeze(1), y], 1) for x, y in zip(own, self.cuts, strict=True))
        )

    def _heights(self) -> Tensor:
        """How far H is above each cut at the point, (R, 1 + KEPT); 0 for the point's own."""
        point, value, slope = self._with_point()
        off = self.point.unsqueeze(1) - point
        at = value + (slope * off).sum(2) + 0.5 * self.convexity * (off * off).sum(2)
        above = (self.value.unsqueeze(1) - at).clamp(min=0.0)
        above[:, 1:] += ROUNDED * torch.maximum(value[:, 1:].abs(), self.value.abs().unsqueeze(1))
        return above.nan_to_num(torch.inf)

    def _model(self) -> tuple[Tensor, Tensor, Tensor]:
        """The mean gradient of the cuts (R, n), how far H is above them (R,), and their shares."""
        if self._known is not None:
            return self._known
        point, _, slope = self._with_point()
        height = self._heights()
        matrix = slope + self.convexity * (self.point.unsqueeze(1) - point)
        shares = lowest(matrix @ matrix.mT / self.convexity, height)
        mixed = (shares.unsqueeze(2) * matrix).sum(1)
        above = (shares * torch.where(shares > 0, height, torch.zeros_like(height))).sum(1)
        self._known = mixed, above + 0.5 * (mixed * mixed).sum(1) / self.convexity, shares
        return self._known

    def error(self) -> Tensor:
        """A bound on the distance to the minimiser: H is above the cuts by s/2 of its square."""
        found = (2 * self._model()[1] / self.convexity).sqrt()
        return found.masked_fill(self.bad, torch.nan)

    def cut(self) -> None:
        """Go to the minimiser of the cuts where H is lower there; keep what is left as a cut."""
        mixed, _, shares = self._model()
        before = self.point - mixed / self.convexity
        domain = self.domain
        point = domain(before)
        going = ~self.done & (point != self.point).any(1)
        value, slope = self.both(point)
        reduced = domain.reduced(point, before, slope)
        better, old = going & (value < self.value), (self.point, self.value, self.reduced)
        self._take(better, point, value, slope, reduced)
        made = zip((point, value, reduced), old, strict=True)
        left = tuple(torch.where(_like(better, x), y, x) for x, y in made)
        # in the place of one that bears nothing: the furthest below H
        spare = torch.where(shares[:, 1:] > 0, -1.0, self._heights()[:, 1:]).argmax(1)
        self._keep(left, going, spare)


def _like(mask: Tensor, values: Tensor) -> Tensor:
    """A mask of runs, or of their cuts, that broadcasts against values of them."""
    return mask.reshape(*mask.shape, *[1] * (values.ndim - mask.ndim))
