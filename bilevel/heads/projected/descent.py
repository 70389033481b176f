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

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.checks import Number
from bilevel.core.status import Status
from bilevel.heads.newton.runs import CONTRACTION, DECREASE, HALVINGS, PRECISE, RUNAWAY, Runs
from bilevel.heads.objectives.base import AbstractObjective, Place
from bilevel.heads.projected.bounds import Bounds
from bilevel.linear.cholesky import EPS, mended, positive_cholesky
from bilevel.linear.factor import BlockFactor
from bilevel.linear.preconditioned import led_direction

KEEP = 0.01
"""A step that leaves no more than this of the slope: its factor serves for the next one too."""
ROUGHLY = 1e3
"""Times the rounding of a slope: near it, a step that gains little is the last one."""
PATIENCE, RELEASE = 10, 0.1
"""Steps cut short before bounds are left with care: once the slope elsewhere is this part of what
would free a number."""
FAR = 1e6
"""How many Newton steps away a number may run that no bound stops."""


@dataclasses.dataclass
class ProjectedDescent:
    """The way of R runs; vectors (R, P), masks and numbers (R,).

    Their factors are of H on the free numbers, and of its diagonal on the others.
    """

    objective: AbstractObjective
    bounds: Bounds
    place: Place  # where they start, within the bounds
    tolerance: Number  # of the largest entry of the projected slope
    max_steps: int

    def __post_init__(self) -> None:
        point = self.place.point
        self.runs = Runs.begin(self.place, BlockFactor.none(point, self.objective.blocks))
        self.scale = torch.ones_like(point)  # the diagonal of H
        self.held = torch.zeros_like(point, dtype=torch.bool)
        self.cut = torch.zeros_like(self.runs.steps)  # how many steps were no good ones
        self.size = self._largest(self.place)
        self.least = self.size  # so far

    def run(self) -> Runs:
        """Until every run has a status."""
        (low, high), falling = self.bounds, self.objective.falling
        if bool(falling.any()):
            endless = ((falling < 0) & (low == -torch.inf)) | ((falling > 0) & (high == torch.inf))
            self.runs = self.runs.ended(endless.any(1), Status.NO_MINIMISER)
        for _ in range(self.max_steps):
            self.runs = self.runs.ended(~self.runs.place.finite, Status.DIVERGED)
            small = self.runs.going & (self.size <= self.tolerance)
            if bool(small.any()):
                # a tolerance that is this small asks for all digits, whatever the scale of g is
                loose = torch.as_tensor(self.tolerance > PRECISE, device=small.device)
                self.runs = self.runs.ended(small & (loose | self._arrived()), Status.CONVERGED)
                small = small & self.runs.going
            if not bool(self.runs.going.any()):
                break
            self._prepare()
            self._step(small)
            self.size = self._largest(self.runs.place)
            self.least = torch.minimum(self.least, self.size)
        self.runs = self.runs.ended(~self.runs.place.finite, Status.DIVERGED)
        self._stop(self.runs.going)
        open_ended = (self.runs.status == int(Status.CONVERGED)) & ~self.objective.penalised
        if bool(open_ended.any()):
            # predictions would go on moving although g is flat: there is no minimum
            point, slope, _ = self.runs.place
            step = self._solve(-slope.masked_fill(self.held, 0.0))
            moved = (self.bounds.clip(point + FAR * step) - point) / FAR  # bounds may stop it
            lost = open_ended & (self.objective.reach(self.runs.place, moved) > RUNAWAY)
            status = self.runs.status.masked_fill(lost, int(Status.NO_MINIMISER))
            self.runs = self.runs._replace(status=status)
        return self.runs.concluded()

    def _largest(self, place: Place) -> Tensor:
        found = self.bounds.projected(place.point, place.slope).abs().amax(1)
        return found.nan_to_num(torch.inf, torch.inf)

    # factors

    def _prepare(self) -> None:
        """Guess what ends at a bound, and factor H on the rest where that is not done yet."""
        runs = self.runs
        need = runs.going & runs.stale
        if not bool(need.all()):
            held = self._guess(self.bounds, runs.place, self.scale, self.cut)
            need = need | (runs.going & (held != self.held).any(1))
            if not bool(need.any()):
                return
        objective, place = self.objective.part(need, runs.place)
        hessian = objective.hessian(place, torch.float64)
        scale = positive_diagonal(hessian)
        bounds = self.bounds if place is runs.place else trees.part(self.bounds, need)
        held = self._guess(bounds, place, scale, self.cut[need])
        runs = runs.led_by(need, *restricted(hessian, held, scale))
        self.runs = runs._replace(stale=runs.stale & ~need, factored=runs.factored + need)
        if bool(need.all()):
            self.scale, self.held = scale, held
        else:
            self.scale = self.scale.index_put((need,), scale)
            self.held = self.held.index_put((need,), held)

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
            pushed = bounds.held(point, slope)
            wrong = (met & ~pushed) * slope
            within = (slope * ~met).abs().amax(1) > RELEASE * wrong.abs().amax(1)
            sticky = torch.where(within.unsqueeze(1), met, pushed)
            held = torch.where(patient.unsqueeze(1), sticky, held)
        return held

    def _solve(self, right: Tensor) -> Tensor:
        """M v = b with M that is H on the free numbers, its diagonal on the others."""
        place, factor = self.runs.place, self.runs.factor
        if self.objective.whole:
            return factor.solve(right)

        def product(vectors: Tensor) -> Tensor:
            inside = vectors.masked_fill(self.held, 0.0)
            turned = self.objective.product(place, inside)
            return torch.where(self.held, self.scale * vectors, turned)

        return led_direction(product, right, factor, torch.float64)

    # steps

    def _step(self, small: Tensor) -> None:
        """One step of the runs that go on; those with a `small` slope end where it gains little."""
        going, here = self.runs.going, self.runs.place
        still = (self.held & self.bounds.met(here.point)) | ~going.unsqueeze(1)
        way = self._solve(-here.slope.masked_fill(still, 0.0))
        there = self.objective.at_some(self.bounds.moved(here.point, way), going, here)
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
        stale = self.runs.stale | (going & ~(after <= KEEP * self.least))
        runs = self.runs._replace(steps=self.runs.steps + going, stale=stale)
        runs = runs._replace(place=trees.where(moved, there, here))
        self.runs, self.cut = runs.ended(last, Status.CONVERGED), self.cut + short
        if bool(short.any()):
            self._search(short, here, there, way)

    def _search(self, which: Tensor, here: Place, there: Place, way: Tensor) -> None:
        """The lowest g on the projected path of some runs, as far as it falls while t is halved.

        Where the path first meets a bound is tried too: halves alone would come near to it only,
        with every step anew.
        """
        begun, place = self.objective.value(here), self.runs.place
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
            place, best = trees.where(better, (there, change), (place, best))
            left, found = left & (better | ~found), found | better
            if not bool(left.any()):
                break
            half = 0.5 * rate
            rate = torch.where(left, torch.where(rate > first, half.maximum(first), half), rate)
            point = self.bounds.moved(here.point, rate.unsqueeze(1) * way)
            there = self.objective.at_some(point, left, place)
        self.runs = self.runs._replace(place=place)
        self._stop(which & ~found)

    # endings

    def _arrived(self, times: float = 1.0) -> Tensor:
        """Whether the slope is rounding, or so many times as much, (R,)."""
        return self.size <= times * self.objective.rounding(self.runs.place)

    def _stop(self, which: Tensor) -> None:
        """Runs that cannot get on."""
        if bool(which.any()):
            arrived = (self.size <= self.tolerance) | self._arrived()
            self.runs = self.runs.ended(which & arrived, Status.CONVERGED)
            self.runs = self.runs.ended(which, Status.NOT_CONVERGED)


def positive_diagonal(hessian: Tensor) -> Tensor:
    """The diagonal of blocks (R, J, q, q), (R, J q); ones where it is not positive."""
    diagonal = hessian.diagonal(dim1=2, dim2=3).flatten(1)
    return torch.where(diagonal > 0, diagonal, torch.ones_like(diagonal))


def restricted(hessian: Tensor, held: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of H on the free numbers and its diagonal on the others, and what needed a jitter.

    H is its blocks (R, J, q, q); `held` and its diagonal `scale`, which is positive, are (R, J q).
    """
    kept = ~held.reshape(hessian.shape[:3])
    inside = kept.unsqueeze(2) & kept.unsqueeze(3)
    diagonal = torch.where(kept, 0.0, scale.reshape(kept.shape))
    matrix = torch.where(inside, hessian, 0.0) + torch.diag_embed(diagonal)
    return mended(*positive_cholesky(matrix), matrix)
