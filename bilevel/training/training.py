"""The one loop: it trains every strategy of the library, R runs at once, record by record."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.checks import check_flag, check_function, check_positive_integer, single
from bilevel.core.memory import at_once, says_memory
from bilevel.core.signals import uninterrupted
from bilevel.core.status import Status
from bilevel.data.draws import Sampling
from bilevel.data.sampler import BatchSize
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.assembly import Assembly
from bilevel.derivatives.contract import check_contract
from bilevel.derivatives.sizes import graph_bytes, hessian_bytes
from bilevel.errors import ArgumentError
from bilevel.heads.quadratic import LARGEST_GENERAL_HEAD
from bilevel.strategies import AbstractStrategy
from bilevel.strategies.over_tasks import over_tasks
from bilevel.training.arguments import check_state
from bilevel.training.cohort import Cohort
from bilevel.training.compiled import can_compile
from bilevel.training.recorder import turns
from bilevel.training.repetition import same_data, same_steps, start_alike
from bilevel.training.solution import Solution
from bilevel.training.state import ACTIVE, TrainingState

Callback = Callable[[int, dict[str, Tensor]], object]
ONE_RUN = (
    "All {runs} runs are one and the same: the starts, the data and the rows of the steps do not "
    "depend on the seed. Train one with `seeds=1`; or draw the starts with `generator=generator` "
    "in `init_body`, redraw the data (`redraws_data`), or draw batches (`batch_size`)."
)
DEAR_RECORDS = 5
"""Intervals between the records that hold the best response where it is dear."""
STEP_BYTES = 2**29
"""Memory that the steps of all runs may take at once, by `graph_bytes`; more runs than fit
take turns. At its peak a step holds about twice that: a gigabyte. More on a CUDA device."""


class Training:
    """All runs of one strategy: everything is checked and initialised when it is made.

    Runs that do not fit into memory together are several cohorts, which take turns.

    Args:
        strategy: `fitted` to the problem; with numbers for all runs, or (R,) of them.
        data: for the R runs, with the problem to solve.
        batch_size: this and what follows: see `solve`.
        sampling: likewise.
        compile: likewise.
        max_runs_at_once: likewise.
    """

    @says_memory
    def __init__(
        self,
        strategy: AbstractStrategy,
        data: TrainingData,
        batch_size: BatchSize,
        sampling: Sampling = "iid",
        *,
        compile: bool = False,
        max_runs_at_once: int | None = None,
    ) -> None:
        runs = len(data.seeds)
        if max_runs_at_once is not None:
            check_positive_integer(max_runs_at_once, "`max_runs_at_once`", endless=True)
        check_flag(compile, "compile")
        first = Assembly.of(data.part(slice(0, 1)), batch_size, sampling)
        if data.tasks:
            strategy = over_tasks(strategy, first.sampler)
        strategy.check(data.problem)
        check_contract(first)
        self.data, self.cost = data, strategy.cost
        needed = _bytes(first, all_rows=self.cost.passes > 0)
        budget = at_once(STEP_BYTES, data.device)
        self.parts = turns(runs, max_runs_at_once or budget // max(1, needed))
        compile = compile and can_compile(strategy, data)
        self.cohorts = [
            Cohort(
                Assembly.of(data.part(part), batch_size, sampling),
                strategy,
                runs=part,
                compile=compile,
            )
            for part in self.parts
        ]
        _ = self.cohorts[0].recorder  # what cannot be recorded is told of before the first step
        self.records: dict[int, dict[str, Tensor]] = {}  # by their steps

    @property
    def step(self) -> int:
        """How many steps were made."""
        return self.cohorts[0].state.step

    @property
    def recorded(self) -> list[int]:
        """The steps of the records so far."""
        return list(self.records)

    @property
    def state(self) -> TrainingState:
        """Where all runs stand."""
        return TrainingState.join([cohort.standing for cohort in self.cohorts])

    @property
    def _ended(self) -> Tensor:
        """Which runs cannot go on, (R,)."""
        return torch.cat([cohort.state.codes != ACTIVE for cohort in self.cohorts])

    @property
    def _made(self) -> Any:
        """The states of the strategy alone."""
        return TrainingState.join([cohort.state for cohort in self.cohorts]).strategy

    def recorded_names(self) -> list[str]:
        """What every record holds."""
        cohort = self.cohorts[0]
        made = cohort.state.strategy
        return list(cohort.recorder.record(made.body, made.head, respond=False))

    def alike(self, runs: slice = slice(None)) -> bool:
        """Whether some runs, of different seeds, start alike on the same data."""
        made = self._made
        return same_data(self.data) and start_alike((made.body, made.head), runs)

    def one_run(self, runs: slice = slice(None)) -> bool:
        """Whether these runs are known to be one and the same, before they are trained."""
        cohort = self.cohorts[0]
        if cohort.strategy.draws or not same_data(self.data):
            return False
        return same_steps(cohort.sampler, self.data) and start_alike(self._made, runs)

    def head_status(self) -> list[str]:
        """Names of what became of each run's heads so far; COMPLETED where nothing is known."""
        codes = torch.cat([cohort.head_codes for cohort in self.cohorts])
        return [Status(code).name for code in codes.tolist()]

    @property
    def resumable(self) -> bool:
        """Whether its state can be stored and gone on from."""
        return self.cohorts[0].strategy.resumable

    def history(self) -> dict[str, Tensor]:
        """The records so far: name -> (T, R), float64, on the CPU."""
        made = list(self.records.values())
        return {name: torch.stack([values[name] for values in made]).cpu() for name in made[0]}

    def restore(
        self, state: TrainingState, recorded: list[int], history: dict[str, Tensor]
    ) -> None:
        """Stand where a training of the same kind stood, with its records."""
        if self.resumable:
            self.go_on_from(state)
        else:  # it is finished: what became of its runs is all that is needed
            for part, cohort in zip(self.parts, self.cohorts, strict=True):
                cohort.state = cohort.state._replace(codes=state.codes[part])
        self.records = {
            k: {name: values[i].to(self.data.device) for name, values in history.items()}
            for i, k in enumerate(recorded)
        }

    def go_on_from(self, state: TrainingState) -> None:
        """Start from `state` instead of the initial points."""
        if not self.resumable:
            name = type(self.cohorts[0].strategy).__name__
            raise ArgumentError(
                f"{name} cannot go on from a `state`: Python cannot copy what "
                "it is in the middle of. Train all steps in one call."
            )
        whole = check_state(state, self.state)
        for part, cohort in zip(self.parts, self.cohorts, strict=True):
            cohort.take_up(whole.part(part))

    @says_memory
    def run(
        self,
        records: Sequence[int],
        *,
        tolerance: float | None = None,
        callback: Callback | None = None,
        respond: bool = True,
    ) -> Solution:
        """Make steps up to the last of `records` (steps, ascending); Ctrl-C ends early.

        Records that were made already are kept and not made again. What needs theta* and is dear is
        left out of some of them, and without `respond` of all.
        """
        if tolerance is not None:
            tolerance = single(tolerance, "`tolerance`")
        if callback is not None:
            check_function(callback, "callback", "callback(step, values)", 2)
        ending = Status.COMPLETED if tolerance is None else Status.NOT_STATIONARY
        apart = max(1, math.ceil((len(records) - 1) / DEAR_RECORDS))
        try:
            for k in records[len(self.records) :]:
                if self.records and all(cohort.ended for cohort in self.cohorts):
                    break
                self._advance(k - self.step)
                place, ended = len(self.records), self._ended
                due = tolerance is not None or place % apart == 0 or k == records[-1]
                made = [
                    cohort.record(tolerance, respond=respond and due) for cohort in self.cohorts
                ]
                values = _joined(made)
                if self.data.online and self.records:  # it goes on where a run has ended
                    values = _kept(values, next(reversed(self.records.values())), ended)
                self.records[k] = values
                if callback is not None:
                    callback(k, {name: x.clone() for name, x in self.records[k].items()})
        except KeyboardInterrupt:
            if not self.records:
                raise
            ending = Status.INTERRUPTED
            for cohort in self.cohorts:
                cohort.restore()
        return self.solution(ending)

    def _advance(self, count: int) -> None:
        """Steps of all runs; interrupted ones are undone if runs take turns."""
        if self.data.online:  # which nothing can undo
            for _ in range(count):
                with uninterrupted():
                    for cohort in self.cohorts:
                        cohort.advance(1)
            return
        before = [cohort.state for cohort in self.cohorts]
        try:
            for cohort in self.cohorts:
                cohort.advance(count)
        except KeyboardInterrupt:
            if len(before) > 1:  # they would stand at different steps
                for cohort, state in zip(self.cohorts, before, strict=True):
                    cohort.state = state
            raise

    def solution(self, ending: Status) -> Solution:
        """What there is, if the runs that can go on end as `ending`."""
        state = self.state
        certifier = self.cohorts[0].recorder.certifier
        return Solution(
            problem=self.data.problem,
            seeds=tuple(self.data.seeds),
            body=state.strategy.body,
            head=trees.join([cohort.head() for cohort in self.cohorts]),
            status=tuple(s for cohort in self.cohorts for s in cohort.status(ending)),
            steps=torch.tensor(self.recorded),
            history=self.history(),
            bound_kind=certifier.kind,
            bound_note=certifier.note,
            state=state,
        )


def _kept(values: dict[str, Tensor], before: dict[str, Tensor], ended: Tensor) -> dict[str, Tensor]:
    """Values of runs that go on, and of those that `ended` what was recorded before.

    What is left out of a record stays out.
    """
    return {
        name: torch.where(ended & ~x.isnan(), before.get(name, x), x) for name, x in values.items()
    }


def _joined(made: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The records of all runs from those of cohorts; what one does not know is NaN."""
    names = dict.fromkeys(name for values in made for name in values)
    nothing = [torch.full_like(values["objective"], torch.nan) for values in made]
    return {
        name: torch.cat([m.get(name, nan) for m, nan in zip(made, nothing, strict=True)])
        for name in names
    }


def _bytes(made: Assembly, *, all_rows: bool) -> int:
    """The memory that a step of the runs in `made` takes."""
    heads, rows = made.heads, made.sampler.full
    if not made.data.tasks:
        rows = made.sampler.first
        rows = rows.full if all_rows else rows
    small = trees.flatten(heads).shape[1] <= LARGEST_GENERAL_HEAD
    at = (made.body, heads, rows)
    needed = graph_bytes(made.oracles, *at)
    if all_rows and small:  # a solver may form its Hessian
        needed = max(needed, hessian_bytes(made.oracles, *at) // 2)
    return needed
