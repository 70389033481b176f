"""When a Hessian is factored, how exactly, and for how long its factor leads.

Most of the time of a solve goes into Hessians: a large one costs as much as ten steps by an old
factor, and ten steps that halve the slope each make it a thousand times smaller. The first factors,
far from the end, need not be exact: only where a head ends up must be, and that the slopes say,
which are always made in float64.
"""

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.checks import Number
from bilevel.heads.newton.runs import Runs, spread
from bilevel.heads.objectives.base import SINGLE_WORK, AbstractObjective, Place
from bilevel.linear.cholesky import mended, positive_cholesky

NEAR = 1e-3
"""Of the first slope: there a run without a factor to start with makes one that lasts."""


def refactored(objective: AbstractObjective, runs: Runs, which: Tensor) -> tuple[Runs, Tensor]:
    """H of the runs `which` factored where they stand: roughly, in float32 or exactly.

    Each way takes what the one before was not good enough for. Also returned is whose factor now is
    that of H itself, (R,).
    """
    if not bool(which.any()):
        return runs, which
    exact = which
    if objective.has_rough:
        rough = which & ~runs.factor.usable
        runs, weak = _tried(objective, runs, rough)
        exact = which & (~rough | weak)
    double = exact
    if objective.work >= SINGLE_WORK and not objective.turns:
        single = exact & ~runs.precise
        runs, failed = _tried(objective, runs, single, torch.float32)
        double = (exact & ~single) | failed
        runs = runs._replace(precise=runs.precise | failed)
    runs = runs._replace(
        factored=runs.factored + which,
        stale=runs.stale & ~which,
        above=runs.above & ~which,
        secants=runs.secants.without(which),
    )
    return _ensured(objective, runs, double), exact


def _tried(
    objective: AbstractObjective, runs: Runs, which: Tensor, dtype: torch.dtype | None = None
) -> tuple[Runs, Tensor]:
    """Factored in one type, None: roughly; and for whom that was not good enough, (R,)."""
    if not bool(which.any()):
        return runs, which
    objective, place = objective.part(which, runs.place)
    hessian = objective.hessian(place, dtype) if dtype else objective.rough_hessian(place)
    cholesky, bad = positive_cholesky(hessian)
    return runs.led_by(which, cholesky, bad, last=False), spread(which, bad)


def _ensured(objective: AbstractObjective, runs: Runs, which: Tensor) -> Runs:
    """Factored in float64, with a majorant or a jitter where H is not positive.

    What is hopeless gets a status.
    """
    if not bool(which.any()):
        return runs
    objective, place = objective.part(which, runs.place)
    hessian, mix = objective.lead(place)
    cholesky, bad = positive_cholesky(hessian)
    above = objective.majorant(place)
    if above is not None:  # its steps never go too far, those of an H next to nothing do
        hessian, bad = above, bad | runs.short[which]
        runs = runs._replace(above=runs.above.index_put((which,), bad))
        if mix is not None:  # a majorant has its outputs as they are
            own = torch.eye(mix.shape[-1], dtype=mix.dtype, device=mix.device)
            mix = torch.where(bad[:, None, None], own, mix)
    return runs.led_by(which, *mended(cholesky, bad, hessian), mix=mix)


def distrusted(
    objective: AbstractObjective, runs: Runs, which: Tensor, here: Place, step: Tensor
) -> Runs:
    """Factors in float32 that do not solve the system of the step are made in float64."""
    if not objective.whole or objective.work < SINGLE_WORK:
        return runs
    left = trees.norm(objective.product(here, step) + here.slope)
    return runs._replace(precise=runs.precise | (which & ~(left <= 0.1 * here.size)))


def outgrown(
    objective: AbstractObjective,
    runs: Runs,
    moved: Tensor,
    ratio: Tensor,
    first: Tensor,
    tolerance: Number,
) -> Runs:
    """Stale are also first factors that led near the end, and cheap ones that arrive too late.

    One that is made near the end serves the next body, too. By a new cheap one about two steps
    arrive, which are to cost less than those by the old one. `ratio` is how much of |d g| was left
    by the step of those that `moved`, and `first` the largest slope where the runs started.
    """
    if not objective.whole:
        return runs
    largest = runs.place.largest
    arriving = moved & ~runs.lasting & (largest <= NEAR * first)
    worn = arriving
    if not objective.dear:
        worn = worn | (moved & (largest * ratio.pow(2 + objective.price) > tolerance))
    stale = runs.stale | (worn & (largest > tolerance))
    return runs._replace(stale=stale, lasting=runs.lasting | arriving)
