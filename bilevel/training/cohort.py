"""Runs that are computed together: where they stand, and how they get on."""

import functools
import time

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core import parts
from bilevel.core.status import Status
from bilevel.derivatives.assembly import Assembly
from bilevel.errors import ArgumentError
from bilevel.strategies import AbstractStrategy
from bilevel.training.compiled import CompiledSteps
from bilevel.training.new_tasks import NewTasks
from bilevel.training.recorder import Recorder
from bilevel.training.state import ACTIVE, TrainingState
from bilevel.trees import Tree


class Cohort:
    """Runs of one strategy that are computed together.

    Args:
        made: the runs before their first step.
        strategy: `fitted` to their problem; with numbers for all runs, or an axis of them.
        runs: which on that axis these are.
        compile: whether to compile the steps.
    """

    def __init__(
        self,
        made: Assembly,
        strategy: AbstractStrategy,
        *,
        runs: slice = slice(None),
        compile: bool = False,
    ) -> None:
        self.oracles, self.sampler, data = made.oracles, made.sampler, made.data
        self.strategy = parts.part(strategy, runs, trees.leaves(made.body)[0])
        described = parts.spelled(parts.structure(self.strategy))
        if told := self.sampler.description:
            described = parts.without_modules(f"{described} on {told}")
        self._starts = made
        if data.online:  # as nothing was experienced yet, also where it goes on from there later
            _ = self.recorder
        codes = torch.full((len(data.seeds),), ACTIVE, device=data.device)
        unknown = torch.full_like(codes, torch.nan, dtype=torch.float64)
        first = self.strategy.init(self.oracles, made.body, made.head, self.sampler.first)
        self.state = TrainingState(0, tuple(data.seeds), first, codes, unknown, described)
        self.compiled = None
        if compile:
            self.compiled = CompiledSteps(self.oracles, self.strategy, self.sampler, first)
        # where all runs stood when one was found to have ended: later steps move that one too
        self._frozen: Tree | None = None

    @functools.cached_property
    def recorder(self) -> Recorder:
        """Evaluates the runs; made when first asked for: who has others train asks for few."""
        made = self._starts
        found = Recorder(made, NewTasks.of(made.data, self.strategy) if made.data.tasks else None)
        del self._starts  # they may be large
        return found

    def go_on_from(self, state: TrainingState) -> None:
        """Take the place of `state`, one of such a training."""
        self.state = state
        self._frozen = state.strategy if bool((state.codes != ACTIVE).any()) else None

    @property
    def standing(self) -> TrainingState:
        """Where the runs stand, with what the source of their rows has seen."""
        return self.state._replace(experience=self.sampler.snapshot())

    def take_up(self, state: TrainingState) -> None:
        """Go on from what `standing` was."""
        if state.experience is not None:
            self.sampler.go_on_from(state.experience)
        self.go_on_from(state._replace(experience=None))

    @property
    def ended(self) -> bool:
        """Whether no run can go on."""
        return bool((self.state.codes != ACTIVE).all())

    def advance(self, count: int) -> None:
        """Make `count` steps of all runs, compiled as far as they fill compiled calls."""
        stop = self.state.step + count
        if self.compiled is not None:
            for k, made in self.compiled.run(self.state.strategy, self.state.step, stop):
                self.state = self.state._replace(step=k, strategy=made)
        while self.state.step < stop:
            self.step()

    def step(self) -> None:
        """One eager step of all runs."""
        k = self.state.step
        at = self.state.strategy
        made = self.strategy.step(self.oracles, at, self.sampler.at(k, at.body, at.head), k)
        self.state = self.state._replace(step=k + 1, strategy=made)

    def seconds_per_step(self, steps: int) -> float:
        """The mean time of `steps` further steps, all runs together."""
        self._synchronise()
        began = time.perf_counter()
        self.advance(steps)
        self._synchronise()
        return (time.perf_counter() - began) / steps

    def _synchronise(self) -> None:
        """Wait for an accelerator, which works behind the program's back."""
        if torch.device(self.sampler.data.device).type != "cpu":
            torch.accelerator.synchronize()

    def record(self, tolerance: float | None = None, *, respond: bool = True) -> dict[str, Tensor]:
        """Evaluate; mark the runs that diverged or converged, and keep those where they stopped.

        Args:
            tolerance: see `solve`.
            respond: see `Recorder.record`.
        """
        self.restore()
        codes, made = self.state.codes, self.state.strategy
        values = self.recorder.record(made.body, self.head(), respond=respond)
        active = codes == ACTIVE
        # the optimisers' moments too: a run whose moments overflowed stands still
        moving = [
            x for x in trees.leaves(made) if isinstance(x, Tensor) and x.shape[:1] == codes.shape
        ]
        finite = trees.finite(moving) & values["objective"].isfinite()
        cause = self.head_codes.clamp(min=int(Status.DIVERGED))
        codes = torch.where(active & ~finite, cause, codes)
        norm = values.get("phi_gradient_norm")
        if norm is None and tolerance is not None:
            raise ArgumentError(
                "`tolerance` needs |grad Phi|, which is recorded only where the best response is "
                "found: not for heads that are large, on sets without bounds or faces or, where F "
                "is not g, on sets without bounds, in chunks of rows, or with a g that is not "
                "convex in the head. Leave it out and choose `steps`."
            )
        if norm is not None:
            if self.sampler.data.online:  # nothing was experienced yet where there is no slope
                norm = norm.masked_fill(norm == 0, torch.nan)
            first = self.state.first_norm
            first = torch.where(first.isnan(), norm, first)  # not every best response is found
            self.state = self.state._replace(first_norm=first)
            if tolerance is not None:
                small = norm <= tolerance * first
                codes = codes.masked_fill(active & finite & small, int(Status.CONVERGED))
        self.go_on_from(self.state._replace(codes=codes))
        return values

    @property
    def head_codes(self) -> Tensor:
        """What became of each run's heads so far, (R,); COMPLETED where nothing is known."""
        known = self.strategy.status(self.state.strategy)
        return torch.zeros_like(self.state.codes) if known is None else known

    def head(self) -> Tree:
        """The heads as records show them."""
        if not self.oracles.tasks:
            return self.state.strategy.head
        return self.strategy.recorded(self.oracles, self.state.strategy, self.sampler.full)

    def restore(self) -> None:
        """Put the runs that ended back to where they ended: steps move all runs."""
        if self._frozen is not None:
            ended = self.state.codes != ACTIVE
            kept = trees.where(ended, self._frozen, self.state.strategy)
            self.state = self.state._replace(strategy=kept)

    def status(self, ending: Status) -> list[Status]:
        """What became of each run, if those that can go on end as `ending`.

        What is worse to know of its heads comes first, also where |grad Phi| became small: that is
        known of the best response, whatever head a run had.
        """
        status = []
        pairs = zip(self.state.codes.tolist(), self.head_codes.tolist(), strict=True)
        for code, head_code in pairs:
            ended = ending if code == ACTIVE else Status(code)
            fine = ended in (Status.COMPLETED, Status.CONVERGED, Status.NOT_STATIONARY)
            status.append(Status(head_code) if fine and head_code > Status.INTERRUPTED else ended)
        return status
