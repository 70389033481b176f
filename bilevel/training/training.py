"""The one loop: it trains every strategy of the library, R runs at once, record by record."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core import parts as parts_module
from bilevel.core.checks import check_positive_integer, positive
from bilevel.core.status import Status
from bilevel.data.draws import Sampling
from bilevel.data.sampler import BatchSize, Sampler
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.contract import check_contract, check_data
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import ArgumentError
from bilevel.heads.quadratic import LARGEST_GENERAL_HEAD
from bilevel.problem.base import StackelbergProblem
from bilevel.strategies import AbstractStrategy
from bilevel.training.arguments import (
    check_state,
    check_strategy,
)
from bilevel.training.cohort import Cohort, start
from bilevel.training.compiled import can_compile
from bilevel.training.recorder import joined
from bilevel.training.repetition import same_data, same_steps, start_alike
from bilevel.training.solution import Solution
from bilevel.training.state import TrainingState

Callback = Callable[[int, dict[str, Tensor]], object]
ONE_RUN = (
    "All {runs} runs are one and the same: the starts, the data and the rows of the steps do not "
    "depend on the seed. Train one with `seeds=1`; or draw the starts with `generator=generator` "
    "in `init_body`, redraw the data (`redraws_data`), or draw batches (`batch_size`)."
)
DEAR_RECORDS = 5
"""Intervals between the records that hold the best response where it is dear."""
STEP_BYTES = 2**29
"""Memory that the steps of all runs may take at once, by `Oracles.graph_bytes`; more runs than fit
take turns. At its peak a step holds about twice that: a gigabyte."""


class Training:
    """All runs of one strategy: everything is checked and initialised when it is made.

    Args:
        problem: what to solve.
        strategy: with numbers for all runs, or (R,) of them.
        data: for the R runs.
        batch_size: see `solve`.
        sampling: see `solve`.
        compile: see `solve`.
        max_runs_at_once: see `solve`.
    """

    def __init__(
        self,
        problem: StackelbergProblem,
        strategy: AbstractStrategy,
        data: TrainingData,
        batch_size: BatchSize,
        sampling: Sampling = "iid",
        *,
        compile: bool = False,
        max_runs_at_once: int | None = None,
    ) -> None:
        runs = len(data.seeds)
        check_strategy(strategy, runs)
        strategy = strategy.fitted(problem)
        strategy.check(problem)
        if max_runs_at_once is not None:
            check_positive_integer(max_runs_at_once, "`max_runs_at_once`")
        check_data(problem, data.groups, per_seed=data.per_seed)
        needed = _check_start(problem, strategy, data.part(slice(0, 1)), batch_size, sampling)
        at_once = max_runs_at_once or max(1, int(STEP_BYTES // max(needed, 1)))
        turns = math.ceil(runs / at_once)
        size = math.ceil(runs / turns)
        parts = [slice(i, min(i + size, runs)) for i in range(0, runs, size)]
        compile = compile and can_compile(strategy, chunked=data.chunks is not None)
        self.problem, self.data = problem, data
        self.parts = parts
        self.cohorts = [
            Cohort(
                problem,
                parts_module.part(strategy, part),
                data if len(parts) == 1 else data.part(part),
                batch_size,
                sampling,
                compile=compile,
            )
            for part in parts
        ]
        self.recorded: list[int] = []
        self.records: list[dict[str, Tensor]] = []

    @property
    def step(self) -> int:
        """How many steps were made."""
        return self.cohorts[0].state.step

    @property
    def state(self) -> TrainingState:
        """Where all runs stand."""
        return TrainingState.join([cohort.state for cohort in self.cohorts])

    def recorded_names(self) -> list[str]:
        """What every record holds."""
        cohort = self.cohorts[0]
        made = cohort.state.strategy
        return list(cohort.recorder.record(made.body, made.head, respond=False))

    def alike(self, runs: slice = slice(None)) -> bool:
        """Whether some runs, of different seeds, start alike on the same data."""
        made = self.state.strategy
        return same_data(self.data) and start_alike((made.body, made.head), runs)

    def one_run(self, runs: slice = slice(None)) -> bool:
        """Whether these runs are known to be one and the same, before they are trained."""
        if self.cohorts[0].strategy.draws or not self.alike(runs):
            return False
        same = same_steps(self.cohorts[0].sampler, self.data)
        return same and start_alike(self.state.strategy, runs)

    def head_status(self) -> list[str]:
        """Names of what became of each run's heads so far; COMPLETED where nothing is known."""
        codes: list[int] = []
        for cohort in self.cohorts:
            found = cohort.strategy.status(cohort.state.strategy)
            codes += [0] * len(cohort.data.seeds) if found is None else found.tolist()
        return [Status(code).name for code in codes]

    @property
    def resumable(self) -> bool:
        """Whether its state can be stored and gone on from."""
        return self.cohorts[0].strategy.resumable

    def history(self) -> dict[str, Tensor]:
        """The records so far: name -> (T, R), float64, on the CPU."""
        names = self.records[0]
        return {name: torch.stack([r[name] for r in self.records]).cpu() for name in names}

    def restore(
        self, state: TrainingState, recorded: list[int], history: dict[str, Tensor]
    ) -> None:
        """Stand where a training of the same kind stood, with its records."""
        if self.resumable:
            self.go_on_from(state)
        else:  # it is finished: what became of its runs is all that is needed
            for part, cohort in zip(self.parts, self.cohorts, strict=True):
                cohort.state = cohort.state._replace(codes=state.codes[part])
        self.recorded = list(recorded)
        self.records = [
            {name: values[i].to(self.data.device) for name, values in history.items()}
            for i in range(len(recorded))
        ]

    def go_on_from(self, state: TrainingState) -> None:
        """Start from `state` instead of the initial points."""
        if not self.resumable:
            name = type(self.cohorts[0].strategy).__name__
            raise ArgumentError(
                f"{name} cannot go on from a `state`: Python cannot copy what "
                "it is in the middle of. Train all steps in one call."
            )
        states = [cohort.state for cohort in self.cohorts]
        whole = check_state(state, TrainingState.join(states))
        for part, cohort in zip(self.parts, self.cohorts, strict=True):
            cohort.go_on_from(whole if len(self.parts) == 1 else whole.part(part))

    def run(
        self,
        records: Sequence[int],
        *,
        tolerance: float | None = None,
        callback: Callback | None = None,
    ) -> Solution:
        """Make steps up to the last of `records` (steps, ascending); Ctrl-C ends early.

        Records that were made already are kept and not made again.
        """
        if tolerance is not None:
            tolerance = float(positive(tolerance, "`tolerance`"))
        ending = Status.COMPLETED if tolerance is None else Status.NOT_STATIONARY
        apart = max(1, math.ceil((len(records) - 1) / DEAR_RECORDS))
        try:
            for k in records[len(self.recorded) :]:
                if self.recorded and all(cohort.ended for cohort in self.cohorts):
                    break
                self._advance(k - self.step)
                place = len(self.recorded)
                respond = tolerance is not None or place % apart == 0 or k == records[-1]
                made = [cohort.record(tolerance, respond=respond) for cohort in self.cohorts]
                self.records.append(joined(made))
                self.recorded.append(k)
                if callback is not None:
                    callback(k, self.records[-1])
        except KeyboardInterrupt:
            # a record may be missing its step if the interrupt fell between the two lines
            ending, self.records = Status.INTERRUPTED, self.records[: len(self.recorded)]
            if not self.records:
                raise
            for cohort in self.cohorts:
                cohort.restore()
        return self.solution(ending)

    def _advance(self, count: int) -> None:
        """Steps of all runs; interrupted ones are undone if runs take turns."""
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
            problem=self.problem,
            seeds=tuple(self.data.seeds),
            body=state.strategy.body,
            head=state.strategy.head,
            status=tuple(s for cohort in self.cohorts for s in cohort.status(ending)),
            steps=torch.tensor(self.recorded),
            history=self.history(),
            bound_kind=certifier.kind,
            bound_note=certifier.note,
            state=state,
        )


def _check_start(
    problem: StackelbergProblem,
    strategy: AbstractStrategy,
    data: TrainingData,
    batch_size: BatchSize,
    sampling: Sampling,
) -> int:
    """Check the problem's contract on one run, and return the bytes that a step of it takes."""
    oracles = Oracles(problem)
    sampler = Sampler(problem, data, batch_size, oracles.sampled_groups, sampling)
    rows = sampler.rows(0)
    body, head = start(problem, data)
    check_contract(oracles, body, head, rows)
    if not strategy.cost.passes:
        return oracles.graph_bytes(body, head, rows)
    needed = oracles.graph_bytes(body, head, rows.full)
    if trees.flatten(head).shape[1] <= LARGEST_GENERAL_HEAD:  # the solver may form its Hessian
        needed = max(needed, oracles.hessian_bytes(body, head, rows.full) // 2)
    return needed
