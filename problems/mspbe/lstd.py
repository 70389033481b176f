"""LSTD as a strategy: the head that has no step size."""

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from bilevel import Cost, trees
from bilevel.core.checks import Number, positive
from bilevel.data.rows import Rows
from bilevel.derivatives.oracles import Oracles
from bilevel.problem.base import StackelbergProblem
from bilevel.strategies import AbstractStrategy
from bilevel.trees import Tree
from problems.mspbe.exact import RANK
from problems.mspbe.neural import Evaluation
from problems.mspbe.parts import averages, check_linear


class LSTDState(NamedTuple):
    """Both levels, and the averages of A and b so far in float64."""

    body: Tree
    head: Tensor
    a: Tensor
    b: Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class LSTD(AbstractStrategy):
    r"""The least-squares TD head on all rows so far: no step size.

    $$(A + \text{ridge} \cdot I)\, \theta = b$$

    On all rows (`batch_size=None`) this is the exact best response, from the first step on; on
    batches A and b are averages over the steps. Where the matrix is singular the solution of least
    norm is taken.

    Args:
        ridge: added to the diagonal of A, at least 0.

    Source: Bradtke and Barto (1996), Boyan (1999). Differs from the source in: the ridge belongs to
    averages, not to sums.

    Examples:
        >>> import bilevel
        >>> from problems.mspbe import LinearEvaluation, boyan, methods
        >>> problem = LinearEvaluation(boyan())
        >>> solution = bilevel.solve(problem, methods.LSTD(), steps=1, batch_size=None, seeds=1)
        >>> float(solution.history["test_msve"][-1]) < 1e-9
        True
    """

    ridge: Number = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "ridge", positive(self.ridge, "`ridge`", zero_allowed=True))

    def check(self, problem: StackelbergProblem) -> None:
        """The features must be fixed."""
        check_linear(self, problem)

    @override
    def init(self, oracles: Oracles, body: Tree, head: Tree, rows: Rows) -> LSTDState:
        b = torch.zeros_like(head, dtype=torch.float64)
        return LSTDState(body, head, torch.zeros_like(b).unsqueeze(-1) * b.unsqueeze(-2), b)

    @override
    def step(self, oracles: Oracles, state: LSTDState, rows: Rows, k: int) -> LSTDState:
        problem = oracles.problem
        assert isinstance(problem, Evaluation)
        rate = 1 / (k + 1)
        a, b = averages(rows.cast(torch.float64).groups["train"], problem.discount)
        a, b = state.a + rate * (a - state.a), state.b + rate * (b - state.b)
        eye = torch.eye(b.shape[1], dtype=b.dtype, device=b.device)
        matrix = a + trees.per_run(_double(self.ridge), a) * eye
        head = (torch.linalg.pinv(matrix, rtol=RANK) @ b.unsqueeze(-1)).squeeze(-1)
        return LSTDState(state.body, head.to(state.head.dtype), a, b)

    @property
    @override
    def draws(self) -> bool:
        return False

    @property
    def cost(self) -> Cost:
        """The average over the batch counts as a gradient."""
        return Cost(gradients=1, solves=1)


def _double(number: Number) -> Number:
    return number.double() if isinstance(number, Tensor) else number
