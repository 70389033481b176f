"""R heads on their way to their minimisers, between bounds or without."""

from typing import NamedTuple

import torch
from torch import Tensor

from bilevel.core.status import Status
from bilevel.heads.newton.secants import Secants
from bilevel.heads.objectives.base import Place
from bilevel.linear.factor import BlockFactor

GOING = -1
CONTRACTION = 0.25
"""A step that leaves more of |d g| than this is not a good one."""
LASTS = 0.5
"""One by an old factor may leave so much where a new one is dear."""
PRECISE = 1e-9
"""Up to this tolerance a run goes on beyond it where that costs little: all digits are wanted."""
DECREASE = 1e-4
"""A step is too long over which g falls by less than this part of the rate at which it begins."""
HALVINGS = 50
RUNAWAY = 0.1
"""Predictions that move by more although g is flat run away, if they can."""


class Runs(NamedTuple):
    """Where R runs stand, and how far their factors can be relied on; masks (R,).

    What follows `jittered` is for steps without bounds.
    """

    place: Place
    factor: BlockFactor  # the last one of each run
    status: Tensor  # a `Status` code, or GOING, (R,)
    steps: Tensor  # how many each run made, (R,)
    factored: Tensor  # how many factors, (R,)
    stale: Tensor  # the factor must be replaced before the next step
    jittered: Tensor  # something was added to the matrix that was factored
    lasting: Tensor  # the factor is not the first one, or was made near the end
    precise: Tensor  # a factor in float32 was not good enough
    rough: Tensor  # the slope may have been made in float32
    above: Tensor  # the factor is that of a majorant
    short: Tensor  # the last step had to be halved often
    starting: Tensor  # no step fell short yet
    polished: Tensor  # further steps below the tolerance gain nothing
    before: Place  # where the last step began
    own: bool = False  # whether the factor's tensor is nobody else's
    secants: Secants = Secants()

    @classmethod
    def begin(cls, place: Place, factor: BlockFactor) -> "Runs":
        """Before the first step, with factors to start with."""
        none, usable = torch.zeros_like(factor.usable, dtype=torch.int64), factor.usable
        no = none > 0
        return cls(
            place=place,
            factor=factor,
            status=none + GOING,
            steps=none,
            factored=none,
            stale=~usable,
            jittered=no,
            lasting=usable,
            precise=no,
            rough=no,
            above=no,
            short=no,
            starting=~no,
            polished=no,
            before=place,
        )

    @property
    def going(self) -> Tensor:
        """Runs without a status, (R,)."""
        return self.status == GOING

    def ended(self, which: Tensor, status: Status) -> "Runs":
        """With a status for those of `which` that have none yet."""
        return self._replace(status=self.status.masked_fill(which & self.going, int(status)))

    def led_by(
        self,
        which: Tensor,
        cholesky: Tensor,
        bad: Tensor,
        *,
        mix: Tensor | None = None,
        last: bool = True,
    ) -> "Runs":
        """With new factors of the runs `which`, one after the other.

        Those that are `bad`, of H with something added to it, are taken by the `last` try only,
        after which runs without a factor have a status.
        """
        usable = cholesky.flatten(1).isfinite().all(1) if last else ~bad
        replaced = spread(which, usable)
        factor = self.factor.replaced(
            replaced, cholesky[usable], None if mix is None else mix[usable], in_place=self.own
        )
        jittered = torch.where(which, spread(which, bad), self.jittered)
        lost = spread(which, ~usable) & last
        made = self._replace(factor=factor, own=True, jittered=jittered)
        return made.ended(lost, Status.INDEFINITE)

    def concluded(self) -> "Runs":
        """At the end: the status tells of what was added to H."""
        jittered = (self.status == int(Status.CONVERGED)) & self.jittered
        return self._replace(status=self.status.masked_fill(jittered, int(Status.JITTERED)))


def spread(which: Tensor, values: Tensor) -> Tensor:
    """Values of the runs `which`, (R,); False for the others."""
    if len(values) == len(which):  # of all runs
        return values
    return torch.zeros_like(which).index_put((which,), values)
