"""How fast trainings with two step sizes converge, beside what theorems promise."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bilevel import trees
from bilevel.analysis.envelopes import vector_of
from bilevel.analysis.points import whole
from bilevel.analysis.settling import RecordedBodies, Settled, envelopes, settled
from bilevel.analysis.slopes import Slope, log_slope
from bilevel.core import parts
from bilevel.core.checks import (
    check_flag,
    check_function,
    check_instance,
    check_positive_integer,
)
from bilevel.core.generators import generator
from bilevel.core.graph import ordinary
from bilevel.core.schedules import AbstractSchedule, Polynomial
from bilevel.data.sampler import BatchSize
from bilevel.data.training_data import TrainingData
from bilevel.errors import ArgumentError, spell
from bilevel.optimizers import SGD
from bilevel.problem.base import StackelbergProblem
from bilevel.strategies import TwoTimescale
from bilevel.training.arguments import seed_list
from bilevel.training.training import Training
from bilevel.trees import Tree

Array = NDArray[Any]
Schedules = Mapping[str, tuple[AbstractSchedule, AbstractSchedule]]

RECORDS, AT_ONCE = 60, 10
"""How many records, about, and how many steps a compiled call makes: records are at multiples."""
BODY, HEAD, GRADIENT, ENVELOPE = (
    "|w - w*|^2", "|theta - theta*(w)|^2", "|grad Phi|^2", "|envelope gradient|^2"
)  # fmt: skip
RECORDED = {HEAD: "head_gap", GRADIENT: "phi_gradient_norm"}
PROMISES = {(1.0, 2 / 3): (BODY, -2 / 3), (3 / 5, 2 / 5): (ENVELOPE, -2 / 5)}
"""Exponents of body and head, and what falls how fast by a theorem: 3.7 and 3.6."""


def theorem_schedules() -> dict[str, tuple[Polynomial, Polynomial]]:
    r"""The schedules $a\,(k + 20)^{-e}$ of theorems 3.7 and 3.6, and two uniform ones.

    Returns:
        By name: exponents 1 and 2/3; 3/5 and 2/5; 1; 1/2.

    Source: arXiv 2605.15530. Differs from the source in: 1. the factors, left open there.

    Examples:
        >>> from bilevel import analysis
        >>> [one.exponent for one in analysis.theorem_schedules()["theorem 3.6"]]
        [0.6, 0.4]
    """
    numbers = {
        "theorem 3.7": (20.0, 1.0, 2.0, 2 / 3),
        "theorem 3.6": (2.0, 3 / 5, 1.0, 2 / 5),
        "uniform 1/k": (20.0, 1.0, 20.0, 1.0),
        "uniform 1/sqrt k": (1.0, 1 / 2, 1.0, 1 / 2),
    }
    return {
        name: (Polynomial(a, e, 20.0), Polynomial(b, f, 20.0))
        for name, (a, e, b, f) in numbers.items()
    }


@dataclasses.dataclass(frozen=True, eq=False)
class Convergence:
    r"""What `convergence` returns.

    Attributes:
        problem: the name of its class.
        steps: of the records, (T,).
        after: slopes are fitted to the records at later steps.
        curves: schedule -> quantity -> (T, R), the squares of all runs. The envelope's have as many
            runs as were asked for.
        slopes: one for each schedule and quantity.
        optimum: $w^*$, a tree like the body; None if none is known.
        l: of the envelope; NaN without one.
        rho: what was taken for the weak convexity of $\Phi$; likewise.
        failed: schedule -> how many runs failed.
        notes: what was left out, and why.
    """

    problem: str
    steps: Array
    after: int
    curves: dict[str, dict[str, Array]]
    slopes: tuple[Slope, ...]
    optimum: Tree | None
    l: float  # noqa: E741 - the name of the formula
    rho: float
    failed: dict[str, int]
    notes: tuple[str, ...]

    def means(self) -> dict[str, dict[str, Array]]:
        """Schedule -> quantity -> the mean over the runs that are finite throughout, (T,)."""
        return {
            name: {q: values[:, np.isfinite(values).all(0)].mean(1) for q, values in table.items()}
            for name, table in self.curves.items()
        }

    def figure(self) -> Any:
        """A matplotlib `Figure`: means on log-log axes, fitted lines and promised slopes."""
        from bilevel.report.rates import rates

        return rates(self.steps, self.means(), [one._asdict() for one in self.slopes], self.after)


@ordinary()
def convergence(
    problem: StackelbergProblem,
    schedules: Schedules | None = None,
    *,
    steps: int = 60_000,
    batch_size: BatchSize = 64,
    seeds: int | Sequence[int] = 400,
    after: int = 2000,
    optimum: Tree | None = None,
    envelope_runs: int = 50,
    compile: bool = True,
    callback: Callable[[int], object] | None = None,
) -> Convergence:
    r"""Slopes on log-log axes of how fast body and head converge, under several schedules.

    $$\log \operatorname{mean} \lVert x_k\rVert^2 = p \log k + q$$

    over records evenly spaced in $\log k$, from step `after` on.

    The levels move simultaneously by plain projected steps (`TwoTimescale` with `SGD`), in float64,
    and all schedules are one training. Squares of four lengths are followed:
    $\lVert w - w^*\rVert$, $\lVert\theta - \theta^*(w)\rVert$, $\lVert\nabla\Phi(w)\rVert$ (with a
    set of bodies $\lVert w - \mathrm{Proj}(w - \nabla\Phi)\rVert$) and the gradient of the Moreau
    envelope.

    Args:
        problem: where F is g. Without noise or batches nothing is random, and slopes are those of
            deterministic descent.
        schedules: name -> (of the body, of the head); None: `theorem_schedules()`.
        steps: how many.
        batch_size: see `solve`.
        seeds: how many (0, 1, ...), or the seeds themselves; schedules share them. Slopes of means
            need more of them than comparisons do.
        after: the first steps, which are left out of the fits.
        optimum: $w^*$, a tree like the body. None: where proximal steps lead from the last bodies
            of eight runs, if that is one point.
        envelope_runs: for how many runs of each schedule the gradient of the envelope is found, to
            1 %; 0: for none. Each record of a network takes hundreds of gradients of $\Phi$.
        compile: whether to compile the steps.
        callback: called as `callback(step)` after each record.

    Returns:
        The curves, and slopes with intervals beside what is promised:
        $\lVert\theta - \theta^*\rVert^2$ follows $\beta_k$; with exponents 1 and 2/3
        $\lVert w - w^*\rVert^2$ falls as $k^{-2/3}$, and with 3/5 and 2/5 the smallest squared
        gradient of the envelope as $k^{-2/5}$. Those are upper bounds: the body may be faster.

    Raises:
        ArgumentError: an argument cannot work.
        IncompatibleError: F is not g.

    Source: arXiv 2605.15530, theorems 3.6 and 3.7. Differs from the source in: 1. the exponents are
    inferred from the rates it cites.

    Examples:
        >>> from bilevel import analysis
        >>> from problems.toy import ScalarProduct
        >>> found = analysis.convergence(ScalarProduct(noise_scale=0.3), steps=40, seeds=5,
        ...     after=10, envelope_runs=0, compile=False)
        >>> found.slopes[0].schedule, found.slopes[0].quantity
        ('theorem 3.7', '|w - w*|^2')
    """
    check_instance(problem, StackelbergProblem, "problem", "an instance of your problem")
    check_flag(compile, "compile")
    check_positive_integer(envelope_runs, "`envelope_runs`", zero_allowed=True)
    pairs = _pairs(theorem_schedules() if schedules is None else schedules)
    marks = record_marks(steps, after)
    data = TrainingData(problem, seed_list(seeds), torch.float64, "cpu")
    training = _training(pairs, data, batch_size, compile)
    kept = RecordedBodies(training, len(marks))
    best = None if optimum is None else vector_of(problem, optimum, "optimum")

    def recorded(step: int, values: dict[str, Tensor]) -> None:
        kept.add()
        if callback is not None:
            callback(step)

    if callback is not None:
        check_function(callback, "callback", "callback(step)", 1)
    solution = whole(training.run(marks, callback=recorded))
    measured = _Measured.of(solution.history)
    if kept.fits:
        measured.add_bodies(data, kept.bodies, best, len(pairs), envelope_runs)
    else:
        measured.notes.append("the bodies of all records are too large to keep, so that neither "
                              f"{BODY} nor {ENVELOPE} is known")  # fmt: skip
    recorded_steps = solution.steps.numpy()
    curves = measured.by_schedule(list(pairs))
    failed = [status.failed for status in solution.status]
    runs = len(data.seeds)
    return Convergence(
        problem=type(problem).__name__,
        steps=recorded_steps,
        after=after,
        curves=curves,
        slopes=tuple(_slopes(recorded_steps, curves, pairs, after)),
        optimum=measured.tree(problem),
        l=measured.l,
        rho=measured.rho,
        failed={name: sum(failed[i * runs :][:runs]) for i, name in enumerate(pairs)},
        notes=tuple(measured.notes),
    )


@dataclasses.dataclass
class _Measured:
    """What is known of all runs: quantity -> (T, S N), and what was measured against."""

    squares: dict[str, Array]
    notes: list[str]
    best: Tensor | None = None
    l: float = np.nan  # noqa: E741
    rho: float = np.nan

    @classmethod
    def of(cls, history: dict[str, Tensor]) -> "_Measured":
        """From the records of a training."""
        known = {q: history[name].numpy() ** 2 for q, name in RECORDED.items() if name in history}
        missing = [q for q in RECORDED if q not in known]
        notes = [f"best responses are not found, so that {q} is not known" for q in missing]
        return cls(known, notes)

    def add_bodies(
        self, data: TrainingData, bodies: Tensor, best: Tensor | None, schedules: int, runs: int
    ) -> None:
        """What needs bodies (T, S R, n): distances from w*, and envelopes of some runs."""
        found = Settled(best, "")
        if best is None:
            found = settled(data, bodies[-1], schedules)
        self.best = found.body
        if found.body is None:
            self.notes.append(f"{found.note}, so that {BODY} is not known")
        else:
            off = (bodies - found.body).square().sum(2)
            self.squares = {BODY: off.numpy(), **self.squares}
        if runs:
            some = data.part(slice(0, runs)).repeated(schedules)
            split = bodies.reshape(len(bodies), schedules, -1, bodies.shape[2])[:, :, :runs]
            envelope = envelopes(some, split.flatten(1, 2))
            self.squares[ENVELOPE] = envelope.norm.square().numpy()
            self.l, self.rho = envelope.l, envelope.rho

    def by_schedule(self, names: Sequence[str]) -> dict[str, dict[str, Array]]:
        """Schedule -> quantity -> (T, N)."""
        split = {q: np.split(values, len(names), axis=1) for q, values in self.squares.items()}
        return {name: {q: x[i] for q, x in split.items()} for i, name in enumerate(names)}

    def tree(self, problem: StackelbergProblem) -> Tree | None:
        """w* as the problem has bodies."""
        if self.best is None:
            return None
        like = trees.cast(trees.single(problem.init_body(generator(0, "body"))), torch.float64)
        return trees.take(trees.unflatten(self.best.reshape(1, -1), like), 0)


def record_marks(steps: int, after: int) -> list[int]:
    """The steps of records: 0, and multiples of ten that are evenly spaced in log k."""
    check_positive_integer(steps, "`steps`")
    check_positive_integer(after, "`after`", zero_allowed=True)
    if steps < 2 * AT_ONCE:
        raise ArgumentError(f"`steps` must be at least {2 * AT_ONCE}, got {steps}.")
    if after >= steps:
        raise ArgumentError(f"`after` must be below `steps` = {steps:,}, got {after:,}.")
    even = np.geomspace(AT_ONCE, steps, RECORDS)
    return sorted({0, steps, *(min(steps, AT_ONCE * round(k / AT_ONCE)) for k in even)})


def promised(pair: tuple[AbstractSchedule, AbstractSchedule]) -> dict[str, float]:
    """Quantity -> the slope that is promised for schedules of body and head."""
    body, head = pair
    if not (isinstance(body, Polynomial) and isinstance(head, Polynomial)):
        return {}
    exponents = (float(body.exponent), float(head.exponent))
    found = {HEAD: -exponents[1]}
    for known, (quantity, slope) in PROMISES.items():
        if np.allclose(exponents, known):
            found[quantity] = slope
    return found


def _slopes(steps: Array, curves: dict[str, dict[str, Array]], pairs: Schedules, after: int) -> Any:
    """Of every schedule and quantity."""
    late = steps > after
    for name, table in curves.items():
        said = promised(pairs[name])
        for quantity, values in table.items():
            slope, low, high, level, runs = log_slope(steps[late], values[late])
            theorem = said.get(quantity, np.nan)
            yield Slope(name, quantity, slope, low, high, level, theorem, runs)


def _training(
    pairs: Schedules, data: TrainingData, batch_size: BatchSize, compile: bool
) -> Training:
    """All schedules as one training, each for all seeds."""
    strategies = [
        TwoTimescale(body, head, SGD(), order="simultaneous") for body, head in pairs.values()
    ]
    if len({parts.structure(one) for one in strategies}) > 1:
        raise ArgumentError(
            "`schedules` must be of one kind, such as Polynomial for all bodies and Polynomial for "
            "all heads: they are one training. Call `convergence` once for each kind."
        )
    fitted = [one.fitted(data.problem) for one in strategies]
    runs = data.repeated(len(fitted))
    return Training(parts.stack(fitted, len(data.seeds)), runs, batch_size, compile=compile)


def _pairs(schedules: Any) -> Schedules:
    """Names and pairs of schedules, or an error."""
    right = isinstance(schedules, Mapping) and len(schedules) > 0
    right = right and all(isinstance(name, str) for name in schedules)
    right = right and all(
        isinstance(pair, tuple | list)
        and len(pair) == 2
        and all(isinstance(one, AbstractSchedule) for one in pair)
        for pair in schedules.values()
    )
    if not right:
        raise ArgumentError(
            '`schedules` must be a dictionary such as {"mine": (Polynomial(1.0, 0.6), '
            f"Polynomial(1.0, 0.4))}}, of the body and of the head, got {spell(schedules)}."
        )
    return {name: (pair[0], pair[1]) for name, pair in schedules.items()}
