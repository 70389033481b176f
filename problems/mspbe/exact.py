"""The exact objective of a model and of its features: MSPBE, its solution, and value errors.

All functions are made of plain tensor operations: they can be differentiated and mapped over runs.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from bilevel.errors import ArgumentError, SingularHeadError
from problems.mspbe.process import Model
from problems.mspbe.transitions import Transitions

RANK = 1e-10
"""Singular values below this times the largest count as 0."""

Singular = Literal["error", "least norm"]


class Moments(NamedTuple):
    r"""What MSPBE is made of.

    $$
    A = \mathbb{E}[\rho\, \phi\, (\phi - \gamma \phi')^\top],
    \qquad b = \mathbb{E}[\rho\, r\, \phi], \qquad C = \mathbb{E}[\phi \phi^\top]
    $$

    Attributes:
        a: A, (M, M).
        b: (M,).
        c: C, (M, M).
    """

    a: Tensor
    b: Tensor
    c: Tensor


def moments(features: Tensor, model: Model, discount: float) -> Moments:
    r"""The moments of a known model.

    $$A = Z^\top D (I - \gamma P) Z, \qquad b = Z^\top D r, \qquad C = Z^\top D Z$$

    Args:
        features: Z, (S, M), one row for each state.
        model: of the process.
        discount: $\gamma$.
    """
    weighted = model.weights.unsqueeze(1) * features
    ahead = features - discount * model.transitions @ features
    return Moments(weighted.mT @ ahead, weighted.mT @ model.rewards, weighted.mT @ features)


def sampled_moments(
    features: Tensor, next_features: Tensor, rows: Transitions, discount: float
) -> Moments:
    r"""The moments of transitions: averages over n rows with their weights.

    Args:
        features: phi, (n, M).
        next_features: phi', (n, M), whatever they are where an episode ended.
        rows: the transitions.
        discount: $\gamma$.
    """
    n = len(features)
    weighted = (rows.weights / n).unsqueeze(1) * features
    corrected = rows.ratios.unsqueeze(1) * weighted
    ahead = features - discount * rows.continues.unsqueeze(1) * next_features
    return Moments(corrected.mT @ ahead, corrected.mT @ rows.rewards, weighted.mT @ features)


def mspbe(found: Moments, head: Tensor) -> Tensor:
    r"""$(b - A \theta)^\top C^{-1} (b - A \theta)$, 0-dim; a pseudo-inverse where C is singular."""
    residual = found.b - found.a @ head
    return residual @ (inverse(found.c, hermitian=True) @ residual)


def best_auxiliary(found: Moments, head: Tensor, *, singular: Singular = "least norm") -> Tensor:
    r"""$\omega^* = C^{-1} (b - A \theta)$, (M,); by default of least norm where C is singular."""
    return _solved(found.c, found.b - found.a @ head, "C = E[phi phi^T]", singular)


def lstd(found: Moments, ridge: float | Tensor = 0.0, *, singular: Singular = "error") -> Tensor:
    r"""The least-squares TD head, (M,): without ridge its MSPBE is 0.

    $$\theta^* = (A + \text{ridge} \cdot I)^{-1} b$$

    Args:
        found: the moments.
        ridge: added to the diagonal of A, at least 0.
        singular: what to do where A + ridge I has no inverse: raise an error, which looks at
            values, or take the solution of least norm, which can be mapped over runs.

    Raises:
        SingularHeadError: the matrix is singular and `singular` is "error".
    """
    matrix = found.a + ridge * torch.eye(len(found.b), dtype=found.a.dtype, device=found.a.device)
    return _solved(matrix, found.b, "A = E[rho phi (phi - gamma phi')^T]", singular)


def msve(features: Tensor, head: Tensor, model: Model) -> Tensor:
    r"""The value error $\sum_s d_s (V(s) - V^\pi(s))^2$, 0-dim."""
    return (model.weights * (features @ head - model.values).square()).sum()


def msbe(features: Tensor, head: Tensor, model: Model, discount: float) -> Tensor:
    r"""The Bellman error $\sum_s d_s (r + \gamma P V - V)_s^2$, 0-dim."""
    values = features @ head
    ahead = model.rewards + discount * model.transitions @ values
    return (model.weights * (ahead - values).square()).sum()


def errors(features: Tensor, head: Tensor, model: Model, discount: float) -> dict[str, Tensor]:
    r"""What is reported of every head: value error first, the objective of TDC after it.

    `test_msve`, and `test_lstd_msve` for the LSTD head (of least norm) on the same features;
    `test_mspbe` and its root `test_rmspbe`; `test_msbe`.

    Args:
        features: (S, M), one row for each state.
        head: (M,).
        model: of the process.
        discount: $\gamma$.
    """
    found = moments(features, model, discount)
    objective = mspbe(found, head)
    return {
        "test_msve": msve(features, head, model),
        "test_lstd_msve": msve(features, lstd(found, singular="least norm"), model),
        "test_mspbe": objective,
        "test_rmspbe": objective.clamp(min=0).sqrt(),
        "test_msbe": msbe(features, head, model, discount),
    }


def inverse(matrix: Tensor, *, hermitian: bool = False) -> Tensor:
    r"""The pseudo-inverse, with singular values up to `RANK` times the largest taken as 0.

    Its derivatives come from two steps $X \leftarrow 2 X - X A X$, which leave it as it is and are
    several digits more accurate than those of `pinv`; they are those of the inverse, in the range
    of A. NaN where the matrix is not finite, so that one bad run does not stop all others.
    """
    fine = matrix.isfinite().all()
    safe = torch.where(fine, matrix.detach(), torch.zeros_like(matrix))
    found = torch.linalg.pinv(safe, rtol=RANK, hermitian=hermitian)
    found = torch.where(fine, found, torch.full_like(found, torch.nan))
    for _ in range(2):
        found = 2 * found - found @ matrix @ found
    return found


def _solved(matrix: Tensor, right: Tensor, name: str, singular: Singular) -> Tensor:
    if singular == "least norm":
        least: Tensor = inverse(matrix) @ right
        return least
    if singular != "error":
        raise ArgumentError(f'`singular` must be "error" or "least norm", got {singular!r}.')
    rank, size = int(torch.linalg.matrix_rank(matrix, rtol=RANK)), len(matrix)
    if rank < size:
        raise SingularHeadError(
            f"{name} is singular: rank {rank} of {size}, so the solution is not unique. There are "
            "features that depend on each other in the states that count. Remove some, add a "
            '`ridge`, or ask for the solution of least norm (`singular="least norm"`).'
        )
    found: Tensor = torch.linalg.solve(matrix, right)
    return found
