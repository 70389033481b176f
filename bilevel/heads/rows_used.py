"""On which rows an exact head is solved."""

import abc
import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from bilevel import trees
from bilevel.core.checks import Number, positive
from bilevel.derivatives.head_point import HeadPoint
from bilevel.derivatives.oracles import OF_ROWS
from bilevel.errors import ArgumentError, IncompatibleError
from bilevel.heads.quadratic import (
    check_quadratic,
    linear_moments,
    quadratic_system,
    refuse_singular,
    uses_dual,
)
from bilevel.linear.centre import Centre, by_output
from bilevel.linear.gram import row_moments
from bilevel.linear.systems import AbstractSystem, RowMoments
from bilevel.problem.base import StackelbergProblem
from bilevel.problem.linear_head import LinearHeadProblem

BATCH_REMEDY = (
    "Set `ridge` (or `penalty`) to a positive number, use more rows per batch than features, or "
    "average over batches with ClosedForm(RunningData())."
)
RUNNING_REMEDY = "Set `extra_ridge` of RunningData, or `ridge`, to a positive number."


class Decided(NamedTuple):
    """What is decided at the initial bodies.

    Attributes:
        penalised: whether a linear head may be solved in the dual form, see `uses_dual`.
    """

    penalised: bool


class Moments(NamedTuple):
    """Sums over rows that are kept from step to step, float64.

    Attributes:
        gram: Z'SZ/n, (R, M, M), or (R, K, M, M) for weights of outputs; of running data the
            discounted sum over the batches.
        moment: Z'St/n, (R, M, K); likewise.
        weight: what to divide both by, (R,): the discounted number of batches.
        rows: n.
        centre: from where features and targets are counted; None: as they are.
    """

    gram: Tensor
    moment: Tensor
    weight: Tensor
    rows: int
    centre: Centre | None = None


class AbstractHeadData(abc.ABC):
    """Chooses the rows of a `ClosedForm`, and makes its linear system from them."""

    def check(self, problem: StackelbergProblem) -> None:  # noqa: B027 - a hook
        """Raise `IncompatibleError` if the system of `problem` cannot be made (a hook)."""

    @property
    @abc.abstractmethod
    def uses_batch(self) -> bool:
        """Whether the system depends on the rows of the step."""

    @abc.abstractmethod
    def init(self, point: HeadPoint) -> Any:
        """The state before the first system; refuses heads without a unique minimiser."""

    @abc.abstractmethod
    def system(self, point: HeadPoint, state: Any) -> tuple[AbstractSystem, Any]:
        """The system at the bodies, and the state for the next one."""


@dataclasses.dataclass(frozen=True, eq=False)
class FullData(AbstractHeadData):
    """The head is solved on all training rows; the body's gradient is taken on the step's batch.

    Examples:
        >>> import bilevel
        >>> bilevel.ClosedForm(bilevel.FullData()).uses_batch, bilevel.ClosedForm().data
        (False, FullData())
    """

    uses_batch = False

    def init(self, point: HeadPoint) -> Decided | Moments:
        """Check that H is positive definite; compute the Gram matrix if it never changes."""
        problem, rows = point.problem, point.rows.full
        if not (
            isinstance(problem, LinearHeadProblem)
            and problem.body_free_features
            and not problem.tasks
            and point.oracles.overridden.isdisjoint(OF_ROWS)
        ):
            return _decide(point.full)
        found = linear_moments(point.full)
        alone = point.oracles.known is not None
        system = (
            quadratic_system(point.full, penalised=False) if alone else found.system(rows.count)
        )
        refuse_singular(system, point)
        one = torch.ones_like(found.gram[:, 0, 0])
        return Moments(found.gram, found.moment, one, rows.count, found.centre)

    @override
    def system(
        self, point: HeadPoint, state: Decided | Moments
    ) -> tuple[AbstractSystem, Decided | Moments]:
        if isinstance(state, Moments) and point.oracles.known is None:
            penalty = by_output(point.oracles.linear_penalty(point.body, point.head).double())
            known = (penalty, state.centre, point.oracles.bias)
            return RowMoments(state.gram, state.moment, *known).system(state.rows), state
        # a single point shares the system that was looked at before
        penalised = isinstance(state, Decided) and state.penalised
        return quadratic_system(point.full, penalised=penalised), state


@dataclasses.dataclass(frozen=True, eq=False)
class BatchData(AbstractHeadData):
    r"""The head is solved on the rows of the step's batch, where the body's gradient is taken too.

    That gradient is exactly the one of the batch's own $\Phi_B(w) = \min_\theta g_B(w, \theta)$.
    Its mean over batches is not $\nabla\Phi$: a head fits the few rows it is solved on too well.
    The smaller the batch is against the number of features, the stronger that is; a ridge tempers
    it.

    Examples:
        >>> import bilevel
        >>> from problems.regression import diabetes
        >>> solver = bilevel.ClosedForm(bilevel.BatchData())
        >>> strategy = bilevel.BestResponse(5e-4, solver)
        >>> solution = bilevel.solve(diabetes(width=8), strategy, steps=20, batch_size=32, seeds=2)
    """

    uses_batch = True

    def init(self, point: HeadPoint) -> Decided:
        """Check that H of the first batch is positive definite."""
        return _decide(point, BATCH_REMEDY)

    @override
    def system(self, point: HeadPoint, state: Decided) -> tuple[AbstractSystem, Decided]:
        return quadratic_system(point, penalised=state.penalised), state


@dataclasses.dataclass(frozen=True, eq=False)
class RunningData(AbstractHeadData):
    r"""The head is solved on running averages over the batches seen so far.

    $\theta = (S_k + \operatorname{diag}(\tilde p))^{-1} (m_k + \tilde p\, q)$, where
    $\tilde p = p + \text{extra\_ridge}$, with the averages, in float64,

    $$S_k = \sum_{i \le k} \text{decay}^{k-i}\, G_i \Big/ \sum_{i \le k} \text{decay}^{k-i}$$

    of $G_i = Z^\top S Z/n$ on the rows of step $i$, and $m_k$ alike of $Z^\top S t/n$. A batch is
    remembered for about $1 / (1 - \text{decay})$ steps.

    This head is not exact. $G_i$ has the features of the body of step $i$, so that $S_k$ mixes
    those of many bodies: the error is of the order of the body's movement over the last
    $1 / (1 - \text{decay})$ steps (with features that do not depend on the body there is none), and
    the sampling error of as many batches. `extra_ridge` adds a bias of its own. The body's gradient
    is then no longer exactly that of any $\Phi$; `head_gap` and `head_bound` of the history say how
    far the head is off.

    At a single point there is one batch, all rows: what is left is the bias of `extra_ridge`.

    Args:
        decay: how much of the average is kept, in [0, 1); 0 forgets everything but the batch.
        extra_ridge: added to the penalty of every coefficient, the bias too; at least 0. Both may
            be (R,) tensors. What `prior` returns is that of the batch, and draws with all of it.

    Raises:
        ArgumentError: one of them is out of its range.

    Source: running averages of sufficient statistics, as in recursive least squares with
    forgetting: Ljung, System Identification (2nd ed. 1999), section 11.2. Differs from the source
    in: 1. the features move with the body. 2. The matrix is averaged and factored, not its inverse.

    Examples:
        >>> import bilevel
        >>> from problems.regression import diabetes
        >>> solver = bilevel.ClosedForm(bilevel.RunningData(decay=0.9))
        >>> strategy = bilevel.BestResponse(5e-4, solver)
        >>> solution = bilevel.solve(diabetes(width=8), strategy, steps=20, batch_size=32, seeds=2)
    """

    decay: Number = 0.95
    extra_ridge: Number = 1e-3
    uses_batch = True

    def __post_init__(self) -> None:
        for name in ("decay", "extra_ridge"):
            checked = positive(getattr(self, name), f"`{name}`", zero_allowed=True)
            object.__setattr__(self, name, checked)
        if bool((torch.as_tensor(self.decay, dtype=torch.float64) >= 1).any()):
            raise ArgumentError(
                f"`decay` must be below 1, got {self.decay}: 1 would never forget a batch."
            )

    def check(self, problem: StackelbergProblem) -> None:
        """Refuse heads that are not linear in features."""
        if not isinstance(problem, LinearHeadProblem):
            raise IncompatibleError(
                f"RunningData averages Gram matrices of features, which {type(problem).__name__} "
                "does not have. Use LinearHeadProblem if the head is linear in features, or "
                "ClosedForm with FullData() or BatchData()."
            )

    def init(self, point: HeadPoint) -> Moments:
        """Nothing seen yet; check that the first system will be positive definite."""
        found = row_moments(point.oracles, point.body, point.rows)
        matrix, moment = torch.zeros_like(found.gram), torch.zeros_like(found.moment)
        empty = Moments(matrix, moment, matrix.flatten(1)[:, 0], point.rows.count, found.centre)
        refuse_singular(self.system(point, empty)[0], point, RUNNING_REMEDY)
        return empty

    def system(self, point: HeadPoint, state: Moments) -> tuple[AbstractSystem, Moments]:
        """Of the averages, with this batch in them, all counted from the means of this batch."""
        fresh = row_moments(point.oracles, point.body, point.rows)
        kept = RowMoments(state.gram, state.moment, fresh.penalty, state.centre)
        kept = kept.seen_from(fresh.centre)
        decay, extra = _double(self.decay), _double(self.extra_ridge)
        weight = decay * state.weight + 1
        sums = trees.per_run(decay, fresh.gram) * kept.gram + fresh.gram
        moments = trees.per_run(decay, fresh.moment) * kept.moment + fresh.moment
        averages = RowMoments(
            sums / trees.per_run(weight, sums),
            moments / trees.per_run(weight, moments),
            fresh.penalty + trees.per_run(extra, fresh.penalty),
            fresh.centre,
            prior=fresh.prior,
        )
        return averages.system(state.rows), Moments(sums, moments, weight, state.rows, fresh.centre)


def _decide(point: HeadPoint, remedy: str = "") -> Decided:
    """Check that g is quadratic in the head and H positive definite on the rows."""
    if not point.oracles.quadratic_linear_head:
        check_quadratic(point)
    penalised = uses_dual(point)
    refuse_singular(quadratic_system(point, penalised=penalised), point, remedy)
    return Decided(penalised)


def _double(number: Number) -> Number:
    return number.double() if isinstance(number, Tensor) else number
