"""The one loop: every training of the library is this loop over R runs at once."""

import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from bilevel import hyperparameters, trees
from bilevel.arguments import (
    check_problem_instance,
    check_state,
    check_strategy,
    float_type,
    seed_list,
)
from bilevel.contract import check_data, check_problem
from bilevel.errors import AllRunsFailedError, ArgumentError
from bilevel.oracles import Oracles
from bilevel.problem import StackelbergProblem
from bilevel.recording import Recorder
from bilevel.sampling import Sampler, TrainingData
from bilevel.schedules import positive
from bilevel.sets import ConvexSet
from bilevel.solution import Solution, TrainingState
from bilevel.status import Status
from bilevel.stepping import CompiledSteps, can_compile
from bilevel.strategies import AbstractStrategy
from bilevel.trees import Tree

BatchSize = int | Mapping[str, int | None] | None
Callback = Callable[[int, dict[str, Tensor]], object]
ACTIVE = -1


def solve(
    problem: StackelbergProblem,
    strategy: AbstractStrategy,
    steps: int = 2000,
    *,
    batch_size: BatchSize = 64,
    seeds: int | Sequence[int] = 30,
    every: int = 50,
    tolerance: float | None = None,
    compile: bool = False,
    state: TrainingState | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    callback: Callback | None = None,
    throw: bool = True,
) -> Solution:
    """Train one strategy from many seeds at once.

    A seed fixes the initial point, the data (if they are redrawn) and the rows of every step, for
    every strategy, alone or together with others.

    Args:
        problem: what to solve.
        strategy: how the two levels move; its numbers may be (R,) tensors, one for each seed.
        steps: how many body steps.
        batch_size: rows per step, drawn i.i.d.: an int for all groups, a dict by group, None: all
            rows.
        seeds: how many (0, 1, ...), or the seeds themselves.
        every: steps between records; step 0 and the last step are always recorded.
        tolerance: stop a run when |projected grad Phi| falls below this times its first value;
            looked at in records only. None: never.
        compile: compile the steps: several times faster after 10 to 60 s of compilation, the same
            numbers up to rounding. Strategies that decide on values run eagerly, with a warning.
        state: of an earlier `Solution`, to go on for `steps` more.
        device: where to compute.
        dtype: of the training; records are computed in float64.
        callback: called as `callback(step, values)` after each record, values (R,) by name.
        throw: raise if every run failed.

    Returns:
        The `Solution`. Ctrl-C ends the training early and returns what was recorded.

    Raises:
        AllRunsFailedError: every run diverged and `throw` is set; it carries the solution.
        BilevelError: bad arguments, data or problems, before the training starts.

    Examples:
        >>> import bilevel
        >>> from problems.toy import ScalarProduct
        >>> strategy = bilevel.TwoTimescale(0.05, 0.2, bilevel.SGD())
        >>> solution = bilevel.solve(ScalarProduct(), strategy, 2000, seeds=4)
        >>> round(float(solution.body.mean()), 3)
        1.47
    """
    check_problem_instance(problem)
    data = TrainingData(problem, seed_list(seeds), float_type(dtype), device)
    training = Training(problem, strategy, data, batch_size, state, compile=compile)
    solution = training.run(steps, every, tolerance=tolerance, callback=callback)
    if throw and all(status.failed for status in solution.status):
        raise AllRunsFailedError(
            f"All {len(solution.status)} runs failed. {solution.status[0].message} Pass "
            "`throw=False` to look at the history.",
            solution,
        )
    return solution


class Training:
    """Runs of one strategy, ready to go: everything is checked and initialised when it is made.

    Args:
        problem: what to solve.
        strategy: with numbers for all runs, or (R,) of them.
        data: for the R runs.
        batch_size: see `solve`.
        state: where to go on; None: at the initial points.
        compile: see `solve`.
    """

    def __init__(
        self,
        problem: StackelbergProblem,
        strategy: AbstractStrategy,
        data: TrainingData,
        batch_size: BatchSize,
        state: TrainingState | None = None,
        *,
        compile: bool = False,
    ) -> None:
        check_strategy(strategy, len(data.seeds))
        strategy.check(problem)
        self.data, self.oracles = data, Oracles(problem)
        self.strategy = hyperparameters.cast(strategy, data.dtype, data.device)
        self.sampler = Sampler(problem, data, batch_size, self.oracles.sampled_groups)
        check_data(problem, data.groups, per_seed=data.per_seed)
        body = _inside(problem.body_set, data.initial(problem.init_body, "body"))
        head = _inside(problem.head_set, data.initial(problem.init_head, "head"))
        check_problem(self.oracles, body, head, self.sampler.rows(0))
        self.recorder = Recorder(self.oracles, self.sampler, body, head)
        codes = torch.full((len(data.seeds),), ACTIVE, device=data.device)
        made = self.strategy.init(self.oracles, body, head, self.sampler.rows(0))
        described = hyperparameters.structure(strategy)
        fresh = TrainingState(0, tuple(data.seeds), made, codes, None, described)
        if state is None:
            state = fresh
        check_state(state, fresh)
        self.state = state
        self.compiled = None
        if compile and can_compile(strategy):
            args = (self.oracles, self.strategy, self.sampler)
            self.compiled = CompiledSteps(*args, state.strategy)
        # runs that ended keep the state they ended with; None while there are none
        self._frozen = state.strategy if bool((state.codes != ACTIVE).any()) else None

    def run(
        self,
        steps: int,
        every: int,
        *,
        tolerance: float | None = None,
        callback: Callback | None = None,
    ) -> Solution:
        """Make `steps` steps and records; Ctrl-C ends early."""
        for name, value in (("steps", steps), ("every", every)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ArgumentError(f"`{name}` must be a positive integer, got {value!r}.")
        if tolerance is not None:
            tolerance = float(positive(tolerance, "`tolerance`"))
        start, last = self.state.step, self.state.step + steps
        recorded: list[int] = []
        records: list[dict[str, Tensor]] = []
        interrupted = False
        try:
            for k in record_steps(start, last, every):
                self.advance(k - self.state.step)
                records.append(self._record(tolerance, first=not records))
                recorded.append(k)
                if callback is not None:
                    callback(k, records[-1])
                if bool((self.state.codes != ACTIVE).all()):
                    break
        except KeyboardInterrupt:
            # a record may be missing its step if the interrupt fell between the two lines
            interrupted, records = True, records[: len(recorded)]
            if not records:
                raise
            self._restore()
        return self._solution(recorded, records, interrupted)

    def advance(self, count: int) -> None:
        """Make `count` steps of all runs, compiled as far as they fill compiled calls."""
        stop = self.state.step + count
        while self.compiled is not None and stop - self.state.step >= self.compiled.at_once:
            k = self.state.step
            made = self.compiled(self.state.strategy, k)
            self.state = self.state._replace(step=k + self.compiled.at_once, strategy=made)
        while self.state.step < stop:
            self.step()

    def step(self) -> None:
        """One eager step of all runs."""
        k = self.state.step
        made = self.strategy.step(self.oracles, self.state.strategy, self.sampler.rows(k), k)
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
        if torch.device(self.data.device).type != "cpu":
            torch.accelerator.synchronize()

    def recorded_names(self) -> list[str]:
        """What every record of this training holds."""
        return list(self.recorder.record(self.state.strategy.body, self.state.strategy.head))

    def _record(self, tolerance: float | None, *, first: bool) -> dict[str, Tensor]:
        """Evaluate; mark the runs that diverged or converged, and keep those where they stopped."""
        self._restore()
        codes, made = self.state.codes, self.state.strategy
        values = self.recorder.record(made.body, made.head)
        active = codes == ACTIVE
        # the optimisers' moments too: a run whose moments overflowed stands still
        moving = [
            x for x in trees.leaves(made) if isinstance(x, Tensor) and x.shape[:1] == codes.shape
        ]
        finite = trees.finite(moving) & values["objective"].isfinite()
        codes = codes.masked_fill(active & ~finite, int(Status.DIVERGED))
        norm = values.get("phi_gradient_norm")
        if tolerance is not None:
            if norm is None:
                raise ArgumentError(
                    "`tolerance` needs |grad Phi|, which is recorded only where the head has a "
                    "closed form and F is g. Leave it out and choose `steps`."
                )
            scale = norm if self.state.first_norm is None else self.state.first_norm
            codes = codes.masked_fill(
                active & finite & (norm <= tolerance * scale), int(Status.CONVERGED)
            )
        if first and self.state.first_norm is None:
            self.state = self.state._replace(first_norm=norm)
        self.state = self.state._replace(codes=codes)
        if bool((codes != ACTIVE).any()):
            self._frozen = made
        return values

    def _restore(self) -> None:
        """Put the runs that ended back to where they ended: steps move all runs."""
        if self._frozen is not None:
            ended = self.state.codes != ACTIVE
            kept = trees.where(ended, self._frozen, self.state.strategy)
            self.state = self.state._replace(strategy=kept)

    def _solution(
        self, recorded: list[int], records: list[dict[str, Tensor]], interrupted: bool
    ) -> Solution:
        made, codes = self.state.strategy, self.state.codes
        ending = Status.INTERRUPTED if interrupted else Status.COMPLETED
        solved = self.strategy.status(made)
        worst = torch.zeros_like(codes) if solved is None else solved
        status = []
        for code, head_code in zip(codes.tolist(), worst.tolist(), strict=True):
            noteworthy = head_code > Status.INTERRUPTED and not interrupted
            unfinished = Status(head_code) if noteworthy else ending
            status.append(unfinished if code == ACTIVE else Status(code))
        history = {name: torch.stack([r[name] for r in records]).cpu() for name in records[0]}
        certifier = self.recorder.certifier
        return Solution(
            problem=self.oracles.problem,
            seeds=tuple(self.data.seeds),
            body=made.body,
            head=made.head,
            status=tuple(status),
            steps=torch.tensor(recorded),
            history=history,
            bound_kind=certifier.kind,
            bound_note=certifier.note,
            state=self.state,
        )


def record_steps(start: int, last: int, every: int) -> list[int]:
    """The first and the last step, and the multiples of `every` between them."""
    return sorted({start, last, *range(start + -start % every, last, every)})


def _inside(convex: ConvexSet, points: Tree) -> Tree:
    """The points of all runs projected onto a set, which must fit them."""
    convex.check(trees.take(points, 0))
    return convex.project(points)
