"""Damped Newton steps for R heads at once, by the last factor for as long as it leads well.

A run makes chord steps theta - B^{-1} d g, B the factor L L' of an earlier Hessian corrected by
what the steps since have shown, while each makes |d g| at least four times smaller. Otherwise the
Hessian is factored anew where the run stands; if the step of that factor falls short too, it is
halved until g decreases enough.
"""

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.checks import Number
from bilevel.core.status import Status
from bilevel.heads.newton.secants import Secants
from bilevel.heads.newton.starts import better_start
from bilevel.heads.objectives.base import AbstractObjective, Place
from bilevel.linear.cholesky import EPS, factorise, positive_cholesky
from bilevel.linear.factor import BlockFactor
from bilevel.linear.preconditioned import preconditioned_cg

CONTRACTION = 0.25
"""A step that leaves more of |d g| than this is not a good one."""
PRECISE, BEYOND = 1e-9, 0.01
"""Up to this tolerance, a run with a factor of its own goes on to this part of it."""
DECREASE, FLAT = 1e-4, 0.9
"""Of the rate at which g begins to fall: a step over which it falls by less is too long, one at
whose end it still falls by more is too short (Wolfe's conditions)."""
HALVINGS, SHORT = 50, 0.2
RUNAWAY, SETTLED = 0.1, 1e-4
"""Predictions that move by the first although g is flat run away, if they can; where they move by
less than the second, another step hardly moves them."""
SINGLE_WORK = 2.0**24
"""Multiplications from which a Hessian is made in float32."""
NEAR = 1e-3
"""Of the first slope: there a run without a factor to start with makes one that lasts."""
GOING = -1


class DescentResult(NamedTuple):
    """Where R runs ended.

    Attributes:
        place: heads and slopes.
        factor: the last one of each run.
        status: a `Status` code per run, (R,).
        steps: how many steps each run made, (R,).
        factored: how many factorisations, (R,).
    """

    place: Place
    factor: BlockFactor
    status: Tensor
    steps: Tensor
    factored: Tensor


@dataclasses.dataclass
class Descent:
    """The runs on their way; vectors (R, P), all else (R,).

    Args:
        objective: g of the runs.
        place: where they start.
        factor: to start with.
        last: what the heads predicted when they were last solved, see `Place`.
        tolerance: of max |d g|.
        max_steps: at most so many steps.
        resolution: a run also ends when what is left to go is below this times its largest number.
    """

    objective: AbstractObjective
    place: Place
    factor: BlockFactor
    last: Tensor
    tolerance: Number
    max_steps: int
    resolution: float = 0.0

    def __post_init__(self) -> None:
        runs, device = len(self.place.point), self.place.point.device
        no = torch.zeros(runs, dtype=torch.bool, device=device)
        self.before, self.status = self.place, torch.full((runs,), GOING, device=device)
        self.steps = torch.zeros_like(self.status)
        self.factored = torch.zeros_like(self.status)
        self.stale = ~self.factor.usable  # the factor must be replaced before the next step
        self.fresh = self.factor.usable  # its factor is not the first one, or near the end
        self.precise = no  # a factor in float32 was not good enough
        self.jittered = no
        self.above = no  # the factor is that of a majorant
        self.current = no  # the factor belongs to the place
        self.starting = ~no  # no step fell short yet
        self.short = no  # the last step had to be halved often
        self.secants = Secants()
        self.polishable = ~self.objective.penalised | (self.tolerance <= PRECISE)
        self.polished = no  # further steps below the tolerance gain nothing
        self.near = NEAR * self._largest()

    def run(self) -> DescentResult:
        """Until every run has a status."""
        for _ in range(self.max_steps):
            largest = self._largest()
            self._mark(~self.place.finite, Status.DIVERGED)
            small = largest <= self.tolerance
            if bool(small.any()):
                # a factor that was just made leads further for little, and shows what runs away
                further = (largest > BEYOND * self.tolerance) | self._unsettled()
                further = further & ((self.factored > 0) | self.stale)
                polishing = self.going & small & further & self.polishable & ~self.polished
                self._mark(small & ~polishing, Status.CONVERGED)
            else:
                polishing = small
            if not bool(self.going.any()):
                break
            self._factor(self.going & self.stale)
            self._step(polishing)
        self._finish()
        return DescentResult(self.place, self.factor, self.status, self.steps, self.factored)

    @property
    def going(self) -> Tensor:
        """Runs without a status."""
        return self.status == GOING

    def _mark(self, which: Tensor, status: Status) -> None:
        self.status = self.status.masked_fill(which & self.going, int(status))

    def _largest(self) -> Tensor:
        return self.place.slope.abs().amax(1)

    def _unsettled(self) -> Tensor:
        """Whether the last step moved a prediction by much."""
        moved = self.place.predictions - self.before.predictions
        return (moved.abs() > SETTLED).flatten(1).any(1)

    # factors

    def _factor(self, which: Tensor) -> None:
        """Factor the Hessian of some runs where they stand."""
        if not bool(which.any()):
            return
        objective, exact = self.objective, which
        if objective.has_rough:
            rough = which & ~self.factor.usable
            exact = which & (~rough | self._factored(rough, torch.float64, rough=True))
        single = exact & ~self.precise if objective.work >= SINGLE_WORK else torch.zeros_like(which)
        failed = self._factored(single, torch.float32)
        self.precise = self.precise | failed
        self.above = self.above & ~which
        self._factored((exact & ~single) | failed, torch.float64)
        self.secants.forget(which)
        self.factored = self.factored + which
        self.stale, self.current = self.stale & ~which, self.current | exact

    def _factored(self, which: Tensor, dtype: torch.dtype, *, rough: bool = False) -> Tensor:
        """Factor in one type; which runs it was not good enough for, (R,).

        In float64 those take a majorant, or a jitter; what is hopeless still gets a status.
        """
        if not bool(which.any()):
            return which
        objective, place = self._part(which)
        last = dtype == torch.float64 and not rough
        hessian = objective.rough_hessian(place) if rough else objective.hessian(place, dtype)
        cholesky, bad = positive_cholesky(hessian)
        above = objective.majorant(place) if last else None
        if above is not None:
            bad = bad | self.short[which]
            self.above = self.above.index_put((which,), bad)
        if last and bool(bad.any()):
            cholesky[bad], _, codes = factorise((hessian if above is None else above)[bad])
            bad = bad.index_put((bad,), codes != int(Status.CONVERGED))
        usable = cholesky.flatten(1).isfinite().all(1)
        usable = usable if last else usable & ~bad
        if bool(which.all() & usable.all()):
            # in this layout a state that was stored gives the same numbers
            self.factor = BlockFactor(cholesky.double().contiguous(), which)
            self.jittered = bad
            return bad
        kept, weak = (torch.zeros_like(which).index_put((which,), x) for x in (usable, bad))
        self.factor = self.factor.replaced(kept, cholesky[usable])
        if last:
            self._mark(which & ~kept, Status.INDEFINITE)
        self.jittered = torch.where(which, weak, self.jittered)
        return weak

    def _part(self, which: Tensor) -> tuple[AbstractObjective, Place]:
        if bool(which.all()):
            return self.objective, self.place
        return self.objective.take(which), trees.take(self.place, which)

    # steps

    def _step(self, polishing: Tensor) -> None:
        """One step of the runs that go on; those `polishing` end where it is not a good one."""
        going, here = self.going, self.place
        step = self._direction().masked_fill(~going.unsqueeze(1), 0.0)
        there = self._at(here.point + step, going)
        if bool(self.above.any()):
            step, there = self._lengthened(going & self.above, here, step, there)
        before, after = here.size, there.size
        good = going & (after <= CONTRACTION * before)
        better = going & (after < before)
        short = going & ~good & ~polishing
        # conjugate gradients make Newton steps whatever the factor
        led = self.current if self.objective.whole else torch.ones_like(going)
        # an old factor that leads less well is replaced, where the run stands or has come to
        moved = good | (better & (polishing | ~led))
        searching = short & led
        runaway, unsettled = self._far_off(polishing & ~good, step)
        unsettled = unsettled & better
        self.polished = self.polished | (polishing & ~good & ~unsettled)
        self.steps = self.steps + going
        self.place = there if bool(moved.all()) else trees.where(moved, there, here)
        self.before = here
        if self.resolution:  # a good step leaves at most a quarter of itself to go
            left = CONTRACTION * step.abs().amax(1)
            resolved = left <= self.resolution * there.point.abs().amax(1)
            self._mark(good & resolved, Status.CONVERGED)
        first = short & self.starting
        self.starting = self.starting & ~first
        if bool(first.any()):
            self.place, new = better_start(self.objective, self.place, first, self.last)
            searching = searching & ~new
        if bool(searching.any()):
            self._distrust(searching, here, step)
            self._search(searching, here, there, step)
        self.stale = self.stale | unsettled | (short & ~searching)
        self.stale = self.stale | self._dear(moved, before, after)
        if self.objective.whole and not bool(self.stale.all()):
            self.secants.add(step, there.slope - here.slope, moved)
        self.current = self.current & ~going & ~moved
        self._mark(runaway, Status.NO_MINIMISER)

    def _dear(self, moved: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """Runs that have come far with their first factor, or whose way costs more than a factor.

        A factor near the end serves the next body, too.
        """
        if not self.objective.whole:
            return torch.zeros_like(moved)
        largest = self._largest()
        arriving = moved & ~self.fresh & (largest <= self.near)
        self.fresh = self.fresh | arriving
        ahead = (largest / self.tolerance).clamp(min=1).log() / (before / after).log()
        return (arriving | (moved & (ahead - 2 > self.objective.price))) & (
            largest > self.tolerance
        )

    def _direction(self) -> Tensor:
        """-(L L')^{-1} d g, or by conjugate gradients with L L' for a preconditioner."""
        slope = self.place.slope
        if self.objective.whole:
            return -self.secants.solve(self.factor, slope)
        left = slope.norm(dim=1)
        rtol = left.sqrt().clamp(1e-3, 0.1)
        dtype = torch.float32 if self.objective.work >= SINGLE_WORK else torch.float64

        def product(vectors: Tensor) -> Tensor:
            return self.objective.product(self.place, vectors)

        found = preconditioned_cg(product, slope.to(dtype), self.factor, rtol).value.double()
        descending = (found * slope).sum(1) > 0
        return -torch.where(descending.unsqueeze(1), found, self.factor.solve(slope))

    def _distrust(self, which: Tensor, here: Place, step: Tensor) -> None:
        """Factors in float32 that do not solve the system of the step are made in float64."""
        if self.objective.whole and self.objective.work >= SINGLE_WORK:
            left = trees.norm(self.objective.product(here, step) + here.slope)
            self.precise = self.precise | (which & ~(left <= 0.1 * here.size))

    def _search(self, which: Tensor, here: Place, there: Place, step: Tensor) -> None:
        """Halve the step of some runs until g decreases enough."""
        begun = self.objective.value(here)
        downhill = (here.slope * step).sum(1)
        noise = 10 * EPS * begun.abs()
        rate, left = torch.ones_like(begun), which
        for _ in range(HALVINGS):
            value = self.objective.value(there).nan_to_num(torch.inf, torch.inf)
            enough = value <= begun + DECREASE * rate * downhill + noise
            # where g cannot tell, its slope must
            flat = (begun - value).abs() <= noise
            enough = enough & (~flat | (there.size < here.size))
            taken = left & enough
            self.place = trees.where(taken, there, self.place)
            left = left & ~enough
            if not bool(left.any()):
                break
            rate = torch.where(left, 0.5 * rate, rate)
            there = self._at(here.point + trees.per_run(rate, step) * step, left)
        if bool(left.any()) and self.objective.majorant(here) is not None:
            left = left & self.short  # others have not stepped by it yet
        self.stale, self.short = self.stale | which, which & (rate < SHORT)
        self._stop(left)

    def _lengthened(
        self, which: Tensor, here: Place, step: Tensor, there: Place
    ) -> tuple[Tensor, Place]:
        """Double the step of some runs while g, convex, falls nearly as fast as at first."""
        for _ in range(HALVINGS):
            which = which & ((there.slope * step).sum(1) < FLAT * (here.slope * step).sum(1))
            if not bool(which.any()):
                break
            step = torch.where(which.unsqueeze(1), 2 * step, step)
            there = self._at(here.point + step, which)
        return step, there

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

    def _far_off(self, which: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """Runs whose predictions keep moving although g is flat: without a minimum, or far off."""
        if not bool(which.any()):
            return which, which
        far = self.objective.reach(self.place, step) > RUNAWAY
        runaway = which & far & ~self.objective.penalised
        return runaway, which & ~runaway & (self.objective.moves(step) > SETTLED)

    def _stop(self, which: Tensor) -> None:
        """Runs that cannot get on: at the rounding of the slope they have arrived.

        A head so large that all slopes are rounding there has not, unless zero is no better.
        """
        if bool(which.any()):
            zero = self.objective.at(torch.zeros_like(self.place.point))
            largest, better = self._largest(), zero.slope.abs().amax(1)
            arrived = largest <= self.objective.rounding(self.place)
            arrived &= ~(better <= largest) | (better <= self.objective.rounding(zero))
            self._mark(which & arrived, Status.CONVERGED)
            self._mark(which, Status.NOT_CONVERGED)

    def _finish(self) -> None:
        self._mark(~self.place.finite, Status.DIVERGED)
        self._mark(self._largest() <= self.tolerance, Status.CONVERGED)
        self._stop(self.going)
        converged = self.status == int(Status.CONVERGED)
        self.status = self.status.masked_fill(converged & self.jittered, int(Status.JITTERED))
