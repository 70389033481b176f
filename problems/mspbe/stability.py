"""When linear methods converge: the spectra of their expected updates.

With step sizes alpha and eta alpha, and z = (theta, h), the expected update of a linear method is
z <- z + alpha (f - G z). For small alpha it converges if and only if all eigenvalues of G have
positive real parts, but for those that belong to features that no state has.
"""

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from bilevel.core.checks import check_instance, single
from bilevel.errors import ArgumentError, check_name
from problems.mspbe.exact import RANK, Moments

Method = Literal["td", "gtd2", "tdc", "tdrc"]


class ExpectedUpdate(NamedTuple):
    r"""An expected step $z \leftarrow z + \alpha (f - G z)$.

    Attributes:
        matrix: G, (M, M) for TD(0), else (2M, 2M).
        right: f.
    """

    matrix: Tensor
    right: Tensor


def expected_update(
    found: Moments, method: str, *, eta: float = 1.0, beta: float = 1.0
) -> ExpectedUpdate:
    r"""The expected update of a method from the moments.

    $$
    \begin{aligned}
    \text{TD} &: \theta \mathrel{+}= \alpha\, (b - A \theta) \\
    \text{GTD2} &: \theta \mathrel{+}= \alpha\, A^\top h \\
    \text{TDC, TDRC} &: \theta \mathrel{+}= \alpha\, (b - A \theta - (C - A^\top)\, h) \\
    &\phantom{:} \; h \mathrel{+}= \eta \alpha\, (b - A \theta - C h - \beta h),
        \quad \beta = 0 \text{ but for TDRC}
    \end{aligned}
    $$

    Off-policy $C - A^\top$ stands for $\gamma\, \mathbb{E}[\rho\, \phi' \phi^\top]$, which is the
    same only where the ratios of each state average to 1, as they do here.

    Args:
        found: A, b and C.
        method: "td", "gtd2", "tdc" or "tdrc".
        eta: the ratio of the step sizes of $h$ and $\theta$.
        beta: the regularisation of TDRC.

    Examples:
        >>> from problems.mspbe import exact, stability, two_state
        >>> process = two_state(0.9)
        >>> found = exact.moments(process.inputs, process.model, process.discount)
        >>> stability.expected_update(found, "td").matrix    # (5 - 6 gamma) / 2: TD diverges
        tensor([[-0.2000]], dtype=torch.float64)
    """
    check_name(method, get_args(Method), "method")
    check_instance(found, Moments, "found", "exact.moments(...)")
    eta, beta = single(eta, "`eta`"), single(beta, "`beta`", zero_allowed=True)
    a, b, c = found
    if method == "td":
        return ExpectedUpdate(a, b)
    zero, eye = torch.zeros_like(a), torch.eye(len(b), dtype=a.dtype)
    top = [zero, -a.mT] if method == "gtd2" else [a, c - a.mT]
    bottom = [eta * a, eta * (c + beta * eye if method == "tdrc" else c)]
    start = torch.zeros_like(b) if method == "gtd2" else b
    return ExpectedUpdate(
        torch.cat([torch.cat(top, 1), torch.cat(bottom, 1)]), torch.cat([start, eta * b])
    )


def spectral_abscissa(found: Moments, method: str, *, eta: float = 1.0, beta: float = 1.0) -> float:
    """The largest real part of an eigenvalue of -G: negative if and only if small steps converge.

    Directions in which no state has a feature are left out: nothing moves along them.

    Args:
        found: A, b and C.
        method: as in `expected_update`.
        eta: the same.
        beta: the same.

    Examples:
        >>> from problems.mspbe import baird, exact, stability
        >>> process = baird()
        >>> found = exact.moments(process.inputs, process.model, process.discount)
        >>> stability.spectral_abscissa(found, "tdc", eta=1.0) < 0
        True
        >>> stability.spectral_abscissa(found, "tdc", eta=0.1) < 0
        False
    """
    matrix = expected_update(reduced(found), method, eta=eta, beta=beta).matrix
    return float(torch.linalg.eigvals(-matrix).real.max())


def threshold(
    found: Moments,
    method: str,
    name: Literal["eta", "beta"],
    low: float,
    high: float,
    *,
    tolerance: float = 1e-8,
) -> float:
    """Where convergence begins or ends, by bisection on the sign of the spectral abscissa.

    Args:
        found: A, b and C.
        method: as in `expected_update`.
        name: "eta" or "beta"; the other one is 1.
        low: a value on one side of the threshold.
        high: a value on the other side, larger.
        tolerance: the width of the interval that is left.

    Raises:
        UnknownNameError: the name is neither.
        ArgumentError: the method converges at both ends, or at none.

    Examples:
        >>> from problems.mspbe import exact, stability, two_state
        >>> process = two_state()
        >>> found = exact.moments(process.inputs, process.model, process.discount)
        >>> round(stability.threshold(found, "tdc", "eta", 0.01, 1.0), 6)    # (3 gamma - 2.5) / 2.5
        0.188
    """
    check_name(name, ("eta", "beta"), "parameter")
    low, high = (single(value, name, zero_allowed=True) for value in (low, high))
    tolerance = single(tolerance, "`tolerance`")

    def converges(value: float) -> bool:
        eta, beta = (value, 1.0) if name == "eta" else (1.0, value)
        return spectral_abscissa(found, method, eta=eta, beta=beta) < 0

    below = converges(low)
    if not low < high or below == converges(high):
        raise ArgumentError(
            f"There is no threshold of `{name}` to bisect: {method} "
            f"{'converges' if below else 'does not converge'} at {low:g} and at {high:g}. Choose "
            "`low` and `high` on its two sides."
        )
    while high - low > tolerance and low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if converges(middle) == below else (low, middle)
    return (low + high) / 2


def reduced(found: Moments) -> Moments:
    """The moments in coordinates of the directions in which some state has a feature."""
    check_instance(found, Moments, "found", "exact.moments(...)")
    a, b, c = found
    stacked = torch.cat([c, a, a.mT])
    _, sizes, directions = torch.linalg.svd(stacked, full_matrices=False)
    kept = directions[sizes > RANK * sizes.max()].mT
    return Moments(kept.mT @ a @ kept, kept.mT @ b, kept.mT @ c @ kept)
