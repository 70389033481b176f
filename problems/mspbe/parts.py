"""What linear updates are made of, for R runs at once."""

from typing import Any, NamedTuple

from torch import Tensor

from bilevel.errors import IncompatibleError
from bilevel.problem.base import StackelbergProblem
from problems.mspbe.fixed import Fixed
from problems.mspbe.neural import Evaluation, check_model
from problems.mspbe.process import Model
from problems.mspbe.transitions import Transitions


class Parts(NamedTuple):
    """What the updates of R runs are sums of; features are (n, M) or (R, n, M), the rest (R, n).

    Attributes:
        phi: the features of the rows.
        next_phi: the features of what follows (for a model, of all states again).
        error: phi^T error = E[rho delta phi].
        prediction: phi^T prediction = E[phi phi^T] h.
        corrected: phi^T corrected = E[rho phi phi^T] h.
        ahead: next_phi^T ahead = gamma E[rho phi' phi^T] h.
    """

    phi: Tensor
    next_phi: Tensor
    error: Tensor
    prediction: Tensor
    corrected: Tensor
    ahead: Tensor


def parts_of(rows: Transitions | Model, head: Tensor, auxiliary: Tensor, discount: float) -> Parts:
    """The parts for R runs at heads and auxiliary variables (R, M), on rows of the runs or shared.

    Args:
        rows: transitions, or the states of a model; with or without a run axis.
        head: theta.
        auxiliary: h.
        discount: gamma.
    """
    phi = rows.inputs
    values, q = along(phi, head), along(phi, auxiliary)
    if isinstance(rows, Model):
        check_model(rows)
        error = rows.weights * (rows.rewards + discount * along(rows.transitions, values) - values)
        prediction = rows.weights * q
        ahead = discount * along(rows.transitions.mT, prediction)
        return Parts(phi, phi, error, prediction, prediction, ahead)
    share, follow = rows.weights / phi.shape[-2], discount * rows.continues
    ratios = share * rows.ratios
    error = ratios * (rows.rewards + follow * along(rows.next_inputs, head) - values)
    corrected = ratios * q
    return Parts(phi, rows.next_inputs, error, share * q, corrected, corrected * follow)


def averages(rows: Transitions | Model, discount: float) -> tuple[Tensor, Tensor]:
    """A and b of the rows, with the run axis that they have."""
    phi = rows.inputs
    if isinstance(rows, Model):
        check_model(rows)
        weighted = rows.weights.unsqueeze(-1) * phi
        ahead = discount * rows.transitions @ phi
    else:
        weighted = (rows.ratios * rows.weights / phi.shape[-2]).unsqueeze(-1) * phi
        ahead = discount * rows.continues.unsqueeze(-1) * rows.next_inputs
    return weighted.mT @ (phi - ahead), along(weighted.mT, rows.rewards)


def along(matrix: Tensor, vectors: Tensor) -> Tensor:
    """The products of a matrix, or one for each run, with vectors (R, M)."""
    return (matrix @ vectors.unsqueeze(-1)).squeeze(-1)


def check_linear(part: Any, problem: StackelbergProblem) -> None:
    """Raise unless the problem has fixed features."""
    if not isinstance(problem, Evaluation) or not isinstance(problem.network, Fixed):
        raise IncompatibleError(
            f"{type(part).__name__} is a method for fixed features, and "
            f"{type(problem).__name__} is no LinearEvaluation. For features that are learned use "
            "SingleLoop(body_lr, head_lr, auxiliary_lr), which follows the problem's directions."
        )
