"""Projected Newton steps for R heads at once, between bounds.

Some numbers will end at a bound: those that a step by the diagonal of H would take there. With D
the inverse of H on all others, and of its diagonal on them, a run goes along the projected path

    theta(t) = Proj(theta - t D d_theta g)

as far as t = 1 if that leaves little of the slope, else to the best of t = 1, 1/2, 1/4 ... up to
where g rises again. That a short step always decreases g, which clipped Newton steps alone need not
do, is what Bertsekas proved. Once the numbers at a bound are the right ones, a step with t = 1 is
Newton's, and exact for quadratic g.
"""

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.checks import Number
from bilevel.core.status import Status
from bilevel.heads.newton.descent import CONTRACTION, DECREASE, GOING, HALVINGS, PRECISE, RUNAWAY
from bilevel.heads.objectives.base import AbstractObjective, Place
from bilevel.heads.projected.bounds import Bounds
from bilevel.linear.cholesky import EPS, factorise, positive_cholesky
from bilevel.linear.factor import BlockFactor
from bilevel.linear.preconditioned import preconditioned_cg

KEEP = 0.01
"""A step that leaves no more than this of the slope: its factor serves for the next one too."""
ROUGHLY = 1e3
"""Times the rounding of a slope: near it, a step that gains little is the last one."""
PATIENCE, RELEASE = 10, 0.1
"""Steps cut short before bounds are left with care: once the slope elsewhere is this part of what
would free a number."""
FAR = 1e6
"""How many Newton steps away a number may run that no bound stops."""


class Ended(NamedTuple):
    """Where R runs ended.

    Attributes:
        place: heads and slopes.
        factor: of H on the free numbers, its diagonal on the others.
        scale: the diagonal of H, (R, P).
        status: a `Status` code per run, (R,).
        steps: how many steps each run made, (R,).
        factored: how many factorisations, (R,).
    """

    place: Place
    factor: BlockFactor
    scale: Tensor
    status: Tensor
    steps: Tensor
    factored: Tensor


@dataclasses.dataclass
class ProjectedDescent:
    """The runs on their way; vectors (R, P), all else (R,).

    Args:
        objective: g of the runs.
        bounds: of their heads.
        place: where they start, within the bounds.
        tolerance: of the largest entry of the projected slope.
        max_steps: at most so many steps.
    """

    objective: AbstractObjective
    bounds: Bounds
    place: Place
    tolerance: Number
    max_steps: int

    def __post_init__(self) -> None:
        point = self.place.point
        no = torch.zeros(len(point), dtype=torch.bool, device=point.device)
        self.status = torch.full((len(point),), GOING, device=point.device)
        self.steps, self.factored = torch.zeros_like(self.status), torch.zeros_like(self.status)
        self.factor = BlockFactor.none(point, self.objective.blocks)
        self.scale = torch.ones_like(point)
        self.held = torch.zeros_like(point, dtype=torch.bool)
        self.stale = ~no  # the factor must be made anew before the next step
        self.jittered = no
        self.cut = torch.zeros_like(self.status)  # how many steps were no good ones
        self.size = self._largest(self.place)
        self.least = self.size  # so far

    def run(self) -> Ended:
        """Until every run has a status."""
        for _ in range(self.max_steps):
            self._mark(~_finite(self.place), Status.DIVERGED)
            small = self.going & (self.size <= self.tolerance)
            if bool(small.any()):
                # a tolerance that is this small asks for all digits, whatever the scale of g is
                loose = torch.as_tensor(self.tolerance > PRECISE, device=small.device)
                self._mark(small & (loose | self._arrived()), Status.CONVERGED)
                small = small & self.going
            if not bool(self.going.any()):
                break
            self._prepare()
            self._step(small)
            self.size = self._largest(self.place)
            self.least = torch.minimum(self.least, self.size)
        self._finish()
        return Ended(self.place, self.factor, self.scale, self.status, self.steps, self.factored)

    @property
    def going(self) -> Tensor:
        """Runs without a status."""
        return self.status == GOING

    def _mark(self, which: Tensor, status: Status) -> None:
        self.status = self.status.masked_fill(which & self.going, int(status))

    def _largest(self, place: Place) -> Tensor:
        found = self.bounds.projected(place.point, place.slope).abs().amax(1)
        return found.nan_to_num(torch.inf, torch.inf)

    # factors

    def _prepare(self) -> None:
        """Guess what ends at a bound, and factor H on the rest where that is not done yet."""
        held = self._guess(self.bounds, self.place, self.scale, self.cut)
        need = self.going & (self.stale | (held != self.held).any(1))
        if not bool(need.any()):
            return
        objective, place, bounds = self._part(need)
        hessian = objective.hessian(place, torch.float64)
        diagonal = hessian.diagonal(dim1=2, dim2=3).flatten(1)
        scale = torch.where(diagonal > 0, diagonal, torch.ones_like(diagonal))
        held = self._guess(bounds, place, scale, self.cut[need])
        cholesky, bad = restricted(hessian, held, scale)
        made = cholesky.flatten(1).isfinite().all(1)
        self._mark(_spread(need, ~made), Status.INDEFINITE)
        good = _spread(need, made)
        self.factor = self.factor.replaced(good, cholesky[made])
        self.scale, self.held = self.scale.clone(), self.held.clone()
        self.scale[need], self.held[need] = scale, held
        self.jittered = torch.where(need, _spread(need, bad), self.jittered)
        self.stale, self.factored = self.stale & ~need, self.factored + need

    @staticmethod
    def _guess(bounds: Bounds, place: Place, scale: Tensor, cut: Tensor) -> Tensor:
        """The numbers that a step takes to a bound or leaves there, (R, P).

        A run that was cut short often frees no number before its slope on the others is small, as
        in the classical active set method: it would zigzag between freeing and meeting bounds.
        """
        point, slope, _ = place
        held, met = bounds.held(point, slope, scale), bounds.met(point)
        patient = cut > PATIENCE
        if bool(patient.any()):
            wrong = (met & ~bounds.held(point, slope)) * slope
            within = (slope * ~met).abs().amax(1) > RELEASE * wrong.abs().amax(1)
            sticky = torch.where(within.unsqueeze(1), met, bounds.held(point, slope))
            held = torch.where(patient.unsqueeze(1), sticky, held)
        return held

    def _part(self, which: Tensor) -> tuple[AbstractObjective, Place, Bounds]:
        if bool(which.all()):
            return self.objective, self.place, self.bounds
        place = Place(*(x[which] for x in self.place))
        return self.objective.take(which), place, self.bounds.take(which)

    def _solve(self, right: Tensor) -> Tensor:
        """M v = b with M that is H on the free numbers, its diagonal on the others."""
        if self.objective.whole:
            return self.factor.solve(right)
        rtol = right.norm(dim=1).sqrt().clamp(1e-3, 0.1)

        def product(vectors: Tensor) -> Tensor:
            inside = vectors.masked_fill(self.held, 0.0)
            turned = self.objective.product(self.place, inside)
            return torch.where(self.held, self.scale * vectors, turned)

        found = preconditioned_cg(product, right, self.factor, rtol).value
        along = (found * right).sum(1) > 0
        return torch.where(along.unsqueeze(1), found, self.factor.solve(right))

    # steps

    def _step(self, small: Tensor) -> None:
        """One step of the runs that go on; those with a `small` slope end where it gains little."""
        going, here = self.going, self.place
        self.steps = self.steps + going
        still = (self.held & self.bounds.met(here.point)) | ~going.unsqueeze(1)
        way = self._solve(-here.slope.masked_fill(still, 0.0))
        there = self._at(self.bounds.moved(here.point, way), going)
        after = self._largest(there)
        good = going & (after <= CONTRACTION * self.least)
        clipped = (~self.held & self.bounds.met(there.point)).any(1)
        # a Newton step that no bound cuts short and gains little here has met rounding
        last = small & ~good & ~clipped
        last = last & self._arrived(ROUGHLY) if bool(last.any()) else last
        short = going & ~good & ~last
        if bool(short.any()):
            last = last | (short & self._arrived())
            short = short & ~last
        moved = good | (last & (after < self.size))
        self.place = trees.where(moved, there, here)
        self._mark(last, Status.CONVERGED)
        self.stale = self.stale | (going & ~(after <= KEEP * self.least))
        self.cut = self.cut + short
        if bool(short.any()):
            self._search(short, here, there, way)

    def _search(self, which: Tensor, here: Place, there: Place, way: Tensor) -> None:
        """The lowest g on the projected path of some runs, as far as it falls while t is halved.

        Where the path first meets a bound is tried too: halves alone would come near to it only,
        with every step anew.
        """
        begun = self.objective.value(here)
        noise = 10 * EPS * begun.abs()
        best, rate = torch.zeros_like(begun), torch.ones_like(begun)
        left, found = which, torch.zeros_like(which)
        first = self.bounds.first(here.point, way.masked_fill(self.held, 0.0))
        for _ in range(HALVINGS):
            moved = there.point - here.point
            downhill = (here.slope * moved).sum(1)
            change = self.objective.value(there).nan_to_num(torch.inf, torch.inf) - begun
            # where values cannot tell, slopes do: exactly so for quadratic g
            told = 0.5 * (downhill + (there.slope * moved).sum(1))
            change = torch.where(change.abs() <= noise, told, change)
            better = left & (downhill < 0) & (change <= DECREASE * downhill) & (change < best)
            self.place, best = trees.where(better, (there, change), (self.place, best))
            left, found = left & (better | ~found), found | better
            if not bool(left.any()):
                break
            half = 0.5 * rate
            rate = torch.where(left, torch.where(rate > first, half.maximum(first), half), rate)
            there = self._at(self.bounds.moved(here.point, rate.unsqueeze(1) * way), left)
        self._stop(which & ~found)

    def _at(self, point: Tensor, which: Tensor) -> Place:
        """The place of some runs; the others stand where they are."""
        count = int(which.sum())
        if 2 * count > len(which) or not count:
            return self.objective.at(point)
        part = self.objective.take(which).at(point[which])
        return Place(
            *(whole.index_put((which,), one) for whole, one in zip(self.place, part, strict=True))
        )

    # endings

    def _arrived(self, times: float = 1.0) -> Tensor:
        """Whether the slope is rounding, or so many times as much, (R,)."""
        return self.size <= times * self.objective.rounding(self.place)

    def _stop(self, which: Tensor) -> None:
        """Runs that cannot get on."""
        if bool(which.any()):
            self._mark(which & (self.size <= self.tolerance), Status.CONVERGED)
            self._mark(which & self._arrived(), Status.CONVERGED)
            self._mark(which, Status.NOT_CONVERGED)

    def _finish(self) -> None:
        self._mark(~_finite(self.place), Status.DIVERGED)
        self._stop(self.going)
        converged = self.status == int(Status.CONVERGED)
        open_ended = converged & ~self.objective.penalised
        if bool(open_ended.any()):
            lost = open_ended & self._runs_away()
            self.status = self.status.masked_fill(lost, int(Status.NO_MINIMISER))
            converged = converged & ~lost
        self.status = self.status.masked_fill(converged & self.jittered, int(Status.JITTERED))

    def _runs_away(self) -> Tensor:
        """Runs whose predictions would go on moving although g is flat: there is no minimum."""
        point, slope, _ = self.place
        step = self._solve(-slope.masked_fill(self.held, 0.0))
        moved = (self.bounds.clip(point + FAR * step) - point) / FAR  # bounds may stop it
        return self.objective.reach(self.place, moved) > RUNAWAY


def restricted(hessian: Tensor, held: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of H on the free numbers and its diagonal on the others, and what needed a jitter.

    Args:
        hessian: its blocks, (R, J, q, q).
        held: (R, P), P = J q.
        scale: the diagonal of H, positive, (R, P).
    """
    kept = ~held.reshape(hessian.shape[:3])
    inside = kept.unsqueeze(2) & kept.unsqueeze(3)
    diagonal = torch.where(kept, 0.0, scale.reshape(kept.shape))
    matrix = torch.where(inside, hessian, 0.0) + torch.diag_embed(diagonal)
    cholesky, bad = positive_cholesky(matrix)
    if bool(bad.any()):
        cholesky[bad], _, codes = factorise(matrix[bad])
        bad = bad.index_put((bad,), codes != int(Status.CONVERGED))
    return cholesky, bad


def _spread(which: Tensor, values: Tensor) -> Tensor:
    """Values of the runs `which`, (R,); False for the others."""
    return torch.zeros_like(which).index_put((which,), values)


def _finite(place: Place) -> Tensor:
    return place.slope.isfinite().all(1)
