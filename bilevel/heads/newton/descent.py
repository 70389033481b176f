"""Damped Newton steps for R heads at once, by the last factor for as long as it leads well.

A run makes chord steps theta - B^{-1} d g, B the factor L L' of an earlier Hessian corrected by
what the steps since have shown, while each makes |d g| at least four times smaller, or two times
where a factor is dear. Otherwise the Hessian is factored anew where the run stands; if the step of
that factor falls short of four times, it is halved until g decreases enough.
"""

import dataclasses
import functools

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.checks import Number
from bilevel.core.status import Status
from bilevel.heads.newton.factors import distrusted, outgrown, refactored
from bilevel.heads.newton.runs import (
    CONTRACTION,
    DECREASE,
    HALVINGS,
    LASTS,
    PRECISE,
    RUNAWAY,
    Runs,
)
from bilevel.heads.newton.starts import better_start
from bilevel.heads.objectives.base import SINGLE_WORK, AbstractObjective, Place
from bilevel.linear.factor import BlockFactor
from bilevel.linear.preconditioned import led_direction

BEYOND = 0.01
"""Of a small tolerance: so far a run with a factor of its own goes on."""
FLAT, SHORT = 0.9, 0.2
"""A step at whose end g still falls by more than this part of its first rate is too short (the
second of Wolfe's conditions); one that is halved to less than this part shows a bad factor."""
SINGLE = 1e4
"""Slopes that are as many times larger than what float32 rounds of them may be made in it."""
SETTLED = 1e-4
"""Predictions that move by less are hardly moved by another step."""


@dataclasses.dataclass(frozen=True, eq=False)
class Descent:
    """The way of R runs; vectors (R, P), masks and numbers (R,)."""

    objective: AbstractObjective
    place: Place  # where they start
    factor: BlockFactor  # to start with
    last: Tensor  # what the heads predicted when they were last solved, see `Place`
    tolerance: Number  # of max |d g|
    max_steps: int
    # a run also ends when what is left to go is below this times its largest number
    resolution: float = 0.0

    def run(self) -> Runs:
        """Until every run has a status, which no slope in float32 decides."""
        runs, tolerance = Runs.begin(self.place, self.factor), self.tolerance
        rounding = self.objective.single_rounding()
        single = None if rounding is None else SINGLE * rounding
        runs = runs.ended((self.objective.falling != 0).any(1), Status.NO_MINIMISER)
        for _ in range(self.max_steps):
            if single is not None:
                runs, single = self._leaving_single(runs, single)
            place = runs.place
            runs = runs.ended(~place.finite, Status.DIVERGED)
            polishing = small = (place.largest <= tolerance) & ~runs.rough
            if bool(small.any()):
                # a factor that was just made leads further for little, and shows what runs away
                further = (runs.factored > 0) | runs.stale
                further = further & self._thorough
                polishing = runs.going & small & further & ~runs.polished
                if bool(polishing.any()):  # predictions are large: only where they decide
                    moved = (place.predictions - runs.before.predictions).abs() > SETTLED
                    polishing &= (place.largest > BEYOND * tolerance) | moved.flatten(1).any(1)
                runs = runs.ended(small & ~polishing, Status.CONVERGED)
            if not bool(runs.going.any()):
                break
            runs, current = refactored(self.objective, runs, runs.going & runs.stale)
            dtype = torch.float64
            if single is not None and bool((~runs.going | (place.largest > single)).all()):
                dtype = torch.float32
            runs = self._step(runs, polishing, current, dtype)
        if bool(runs.rough.any()):
            place = self.objective.at(runs.place.point)
            runs = runs._replace(place=place, rough=torch.zeros_like(runs.rough))
        runs = runs.ended(~runs.place.finite, Status.DIVERGED)
        runs = runs.ended(runs.place.largest <= tolerance, Status.CONVERGED)
        return self._stopped(runs, runs.going).concluded()

    def _leaving_single(self, runs: Runs, single: Tensor) -> tuple[Runs, Tensor | None]:
        """From what slope on float32 will do, (R,): None after a step by it that led nowhere."""
        lost = runs.rough & ~runs.place.finite  # they begin anew
        if bool((lost | (runs.rough & runs.short)).any()):
            point = torch.where(lost.unsqueeze(1), self.place.point, runs.place.point)
            place, no = self.objective.at(point), torch.zeros_like(lost)
            stale, starting = runs.stale | runs.going, runs.starting | lost
            runs = runs._replace(
                place=place, before=place, rough=no, short=no, stale=stale, starting=starting
            )
            return runs, None
        rounding = self.objective.single_rounding()  # slopes may have been small where it began
        return runs, single if rounding is None else torch.maximum(single, SINGLE * rounding)

    def _step(self, runs: Runs, polishing: Tensor, current: Tensor, dtype: torch.dtype) -> Runs:
        """One step of the runs that go on, with slopes in one type.

        Those `polishing` end where it is not a good one; the factors of those `current` were made
        where they stand.
        """
        objective, going, here = self.objective, runs.going, runs.place
        single = dtype == torch.float32
        step = self._direction(runs).masked_fill(~going.unsqueeze(1), 0.0)
        there = objective.at_some((here.point + step).to(dtype), going, here)
        if bool(runs.above.any()):
            step, there = self._lengthened(going & runs.above, here, step, there, dtype)
        # near a minimiser the slope tells more than g, which is flat there to rounding
        before, after = here.size, there.size
        # conjugate gradients make Newton steps whatever the factor
        led = current if objective.whole else torch.ones_like(going)
        limit = torch.where(led, CONTRACTION, LASTS) if objective.dear else CONTRACTION
        good = going & (after <= limit * before)
        better = going & (after < before)
        short = going & ~good & ~polishing
        # an old factor that leads less well is replaced, where the run stands or has come to
        moved = good | (better & (polishing | ~led))
        searching = short & led
        runaway, unsettled = self._far_off(here, polishing & ~good, step)
        unsettled = unsettled & better
        runs = runs._replace(
            place=chosen(moved, there, here),
            before=here,
            steps=runs.steps + going,
            polished=runs.polished | (polishing & ~good & ~unsettled),
        )
        if (
            self.resolution and not single
        ):  # steps that shrink by r each leave r / (1 - r) of one to go
            ratio = (after / before).clamp(min=CONTRACTION)
            left = ratio / (1 - ratio) * step.abs().amax(1)
            resolved = left <= self.resolution * there.point.abs().amax(1)
            runs = runs.ended(good & resolved, Status.CONVERGED)
        # an old factor may be to blame, but where the slope grows the head is far off
        first = short & runs.starting & (led | ~better)
        if bool(first.any()):
            place, new = better_start(objective, runs.place, first, self.last)
            runs = runs._replace(place=place, starting=runs.starting & ~first)
            searching = searching & ~new
        if bool(searching.any()):
            runs = distrusted(objective, runs, searching, here, step)
            runs = self._searched(runs, searching, there, step, dtype)
        stayed = (runs.place.point == here.point).all(1)  # as where a search found nothing better
        rough = (runs.rough & stayed) | (going & single)
        runs = runs._replace(stale=runs.stale | unsettled | (short & ~searching), rough=rough)
        ratio, first = after / before, self.place.largest
        runs = outgrown(objective, runs, moved, ratio, first, self.tolerance)
        if objective.whole and not bool(runs.stale.all()):
            secants = runs.secants.with_step(step, there.slope - here.slope, moved)
            runs = runs._replace(secants=secants)
        return runs.ended(runaway, Status.NO_MINIMISER)

    @property
    def _thorough(self) -> Tensor:
        """Whether a run goes on beyond the tolerance where that costs little."""
        precise: Tensor = ~self.objective.penalised | (self.tolerance <= PRECISE)
        return precise

    @property
    def _wanted(self) -> Tensor:
        """Of max |d g|: to this runs go on."""
        return self.tolerance * torch.where(self._thorough, BEYOND, 1.0)

    def _direction(self, runs: Runs) -> Tensor:
        """-B^{-1} d g, see the top, or by conjugate gradients with L L' for a preconditioner."""
        objective, place = self.objective, runs.place
        if objective.whole:
            return -runs.secants.solve(runs.factor, place.slope)
        product = functools.partial(objective.product, place)
        dtype = torch.float32 if objective.work >= SINGLE_WORK else torch.float64
        # half of what the end leaves room for: the slope also changes by the curvature's change
        enough = 0.5 * self._wanted / place.largest
        return -led_direction(product, place.slope, runs.factor, dtype, enough)

    def _searched(
        self, runs: Runs, which: Tensor, there: Place, step: Tensor, dtype: torch.dtype
    ) -> Runs:
        """The step of some runs halved until g decreases enough."""
        if dtype == torch.float64 and bool((runs.rough & which).any()):
            begin = self.objective.at(runs.before.point)  # what is compared is of one type
            place, rough = chosen(which, begin, runs.place), runs.rough & ~which
            runs = runs._replace(place=place, before=begin, rough=rough)
        here, place = runs.before, runs.place
        begun = self.objective.value(here)
        downhill = (here.slope * step).sum(1)
        single = dtype == torch.float32 or bool(runs.rough.any())
        noise = 10 * torch.finfo(torch.float32 if single else dtype).eps * begun.abs()
        rate, left = torch.ones_like(begun), which
        for _ in range(HALVINGS):
            value = self.objective.value(there).nan_to_num(torch.inf, torch.inf)
            enough = value <= begun + DECREASE * rate * downhill + noise
            # where g cannot tell, its slope must
            flat = (begun - value).abs() <= noise
            enough = enough & (~flat | (there.size < here.size))
            place = chosen(left & enough, there, place)
            left = left & ~enough
            if not bool(left.any()):
                break
            if dtype == torch.float32 and bool((rate[left] < 2 * SHORT).any()):
                short = which & (left | (rate < SHORT))
                return runs._replace(place=place, stale=runs.stale | which, short=short)
            rate = torch.where(left, 0.5 * rate, rate)
            point = here.point + trees.per_run(rate, step) * step
            there = self.objective.at_some(point.to(dtype), left, place)
        if bool(left.any()) and self.objective.majorant(here) is not None:
            left = left & runs.short  # others have not stepped by it yet
        short = which & (rate < SHORT)
        runs = runs._replace(place=place, stale=runs.stale | which, short=short)
        return self._stopped(runs, left)

    def _lengthened(
        self, which: Tensor, here: Place, step: Tensor, there: Place, dtype: torch.dtype
    ) -> tuple[Tensor, Place]:
        """Double the step of some runs while g, convex, falls nearly as fast as at first."""
        for _ in range(HALVINGS):
            which = which & ((there.slope * step).sum(1) < FLAT * (here.slope * step).sum(1))
            if not bool(which.any()):
                break
            step = torch.where(which.unsqueeze(1), 2 * step, step)
            there = self.objective.at_some((here.point + step).to(dtype), which, there)
        return step, there

    def _far_off(self, place: Place, which: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """Runs whose predictions keep moving although g is flat: without a minimum, or far off."""
        if not bool(which.any()):
            return which, which
        far = self.objective.reach(place, step) > RUNAWAY
        runaway = which & far & ~self.objective.penalised
        return runaway, which & ~runaway & (self.objective.moves(step) > SETTLED)

    def _stopped(self, runs: Runs, which: Tensor) -> Runs:
        """Runs that cannot get on have ended: at the rounding of the slope they have arrived.

        A head so large that all slopes are rounding there has not, unless zero is no better.
        """
        if not bool(which.any()):
            return runs
        zero = self.objective.at(torch.zeros_like(runs.place.point))
        largest, better = runs.place.largest, zero.largest
        arrived = (largest <= self.objective.rounding(runs.place)) & ~runs.rough
        arrived &= ~(better <= largest) | (better <= self.objective.rounding(zero))
        return runs.ended(which & arrived, Status.CONVERGED).ended(which, Status.NOT_CONVERGED)


def chosen(which: Tensor, there: Place, here: Place) -> Place:
    """`there` for the runs `which`, else `here`; predictions are large: no copy for all of them."""
    if bool(which.all()):
        return there
    return Place(*trees.where(which, there, here)) if bool(which.any()) else here
