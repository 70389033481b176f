"""f(x) = x W_1 W_2 / h with orthogonal weights: the test loss after any number of steps.

Setting: d = h, whitened inputs, noiseless targets X Q / sqrt(h) with Q orthogonal, W_1 and W_2
orthogonal. Descent then moves each eigenvalue z = exp(i theta) of U = Q' W_1 W_2 by itself. With
eps = h^(-1/2), mu_i = eta_i / h^(3/2), x1 = z, x2 = 1 and rho = eps x1 x2 - 1, one step is

    x1 <- x1 - mu_1 rho conj(x2),   x2 <- x2 - mu_2 conj(x1) rho

(signal only: -1 for rho) and the test loss the mean of |rho|^2 over the eigenvalues. In expectation
over Haar weights the loss is (1 - 1/h) times the mean of |rho|^2 over the circle plus its values
at z = 1 and z = -1 over 2h, for every h, since E tr U^k is 1 for even k and 0 for odd k.

Source: arXiv 2606.00340 and the authors' code for the setting, `script_formula` and the surrogate
after two steps; the recursion, its expectation and the exact first step are derived here.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from bilevel.core.checks import check_flag, check_positive_integer, is_ordered
from bilevel.errors import ArgumentError, ShapeError
from problems.linear_networks.initial import checked_size
from problems.linear_networks.rates import Steps, broadcast, checked_step, checked_steps

MOST_STEPS = 12
ORTHOGONAL = 1e-10  # largest entry of U'U - I


def conditional_loss(spectrum: Tensor, lrs: Steps, *, signal_only: bool = False) -> Tensor:
    r"""The test loss given the initial weights, before the first step and after each.

    Args:
        spectrum: the phases $\theta$ of the eigenvalues of U, (h,), or U itself, (h, h).
        lrs: T steps of a pair of rates each; tensors are broadcast against each other.
        signal_only: descend along the signal alone.

    Returns:
        (T + 1, ...) losses, the further axes those of the rates.

    Raises:
        ArgumentError: U is not orthogonal, or a rate is negative or not finite.
        ShapeError: the shape is another, or a step has not two rates.

    Examples:
        >>> import torch
        >>> conditional_loss(torch.eye(1, dtype=torch.float64), [(1.0, 0.0)])  # U = 1: beta is met
        tensor([0., 0.], dtype=torch.float64)
    """
    phases, steps = _phases(spectrum), checked_steps(lrs, 2)
    losses = [rows.mean(-1) for rows in _squares(len(phases), phases, steps, signal_only)]
    return torch.stack(broadcast(*losses))


def expected_loss(h: int, lrs: Steps, *, signal_only: bool = False) -> Tensor:
    r"""The test loss in expectation over Haar weights, before the first step and after each: exact.

    $\lVert \rho\rVert^2$ after $t$ steps is a trigonometric polynomial of degree at most $3^t$,
    whose mean over the circle is that over equally spaced points.

    Args:
        h: width.
        lrs: at most 12 steps of a pair of rates each; tensors are broadcast against each other.
        signal_only: descend along the signal alone.

    Returns:
        (T + 1, ...) losses, the further axes those of the rates; differentiable in the rates.

    Raises:
        ArgumentError: more than 12 steps, or a rate that is negative or not finite.

    Examples:
        >>> expected_loss(5, [(7.0, 11.0), (4.0, 9.0)])
        tensor([1.2000, 0.4054, 0.2776], dtype=torch.float64)
    """
    checked_size("h", h)
    steps = checked_steps(lrs, 2)
    if len(steps) > MOST_STEPS:
        raise ArgumentError(
            f"The expectation after {len(steps)} steps needs 3^{len(steps)} points on the circle: "
            f"take at most {MOST_STEPS} steps, or average `conditional_loss` over drawn weights."
        )
    half = (3 ** len(steps) + 1) // 2  # 2 half > 3^T points, symmetric about the real axis
    phases = torch.arange(half + 1, dtype=torch.float64) * (math.pi / half)
    weights = torch.full_like(phases, (1 - 1 / h) / half)
    weights[[0, -1]] = (1 - 1 / h) / (2 * half) + 1 / (2 * h)
    losses = [(rows * weights).sum(-1) for rows in _squares(h, phases, steps, signal_only)]
    return torch.stack(broadcast(*losses))


def expected_one_step(h: int, step: Sequence[Any] | Tensor) -> Tensor:
    r"""The expected loss after one exact step.

    $$(1 + 1/h)\, (g^2 + 2 g P / h + P^2 / h)$$

    with $g = (1 - \eta_1 / h^2) (1 - \eta_2 / h^2)$ and $P = \eta_1 \eta_2 / h^3$.

    Args:
        h: width.
        step: $(\eta_1, \eta_2)$.
    """
    width = float(checked_size("h", h))
    first, second = checked_step("step", step, 2)
    g, p = (1 - first / width**2) * (1 - second / width**2), first * second / width**3
    value: Tensor = (1 + 1 / h) * (g**2 + 2 * g * p / h + p**2 / h)
    return value


def surrogate(
    h: int, step1: Sequence[Any] | Tensor, step2: Sequence[Any] | Tensor | None = None
) -> Tensor:
    r"""The expected loss after one or two signal-only steps.

    $$
    \begin{aligned}
    \text{one} &: (S / h^2 - 1)^2 + (1 + P^2) / h + 2 P / h^2,
        \quad S = \eta_1 + \eta_2, \; P = \mu_1 \mu_2 \\
    \text{two} &: (\varepsilon B - 1)^2 + (A^2 + C^2 + 2 A C / h) / h
    \end{aligned}
    $$

    with $k_1 = 1 + \nu_1 \mu_2$, $k_2 = 1 + \nu_2 \mu_1$, $A = k_1 k_2$,
    $B = k_1 (\mu_2 + \nu_2) + k_2 (\mu_1 + \nu_1)$, $C = (\mu_1 + \nu_1)(\mu_2 + \nu_2)$,
    $\varepsilon = h^{-1/2}$, where $\mu$ and $\nu$ are the rates of the two steps over $h^{3/2}$.
    With $\nu = \mu$ the second line is `script_formula(..., step=2)`.

    Args:
        h: width.
        step1: $(\eta_1, \eta_2)$ of the first step.
        step2: those of the second; None: one step only.
    """
    checked_size("h", h)
    eps = h**-0.5
    mu1, mu2 = (rate / h**1.5 for rate in checked_step("step1", step1, 2))
    if step2 is None:
        p = mu1 * mu2
        one: Tensor = (eps * (mu1 + mu2) - 1) ** 2 + (1 + p**2) / h + 2 * p / h**2
        return one
    nu1, nu2 = (rate / h**1.5 for rate in checked_step("step2", step2, 2))
    k1, k2 = 1 + nu1 * mu2, 1 + nu2 * mu1
    a, b = k1 * k2, k1 * (mu2 + nu2) + k2 * (mu1 + nu1)
    c = (mu1 + nu1) * (mu2 + nu2)
    two: Tensor = (eps * b - 1) ** 2 + (a**2 + c**2 + 2 * a * c / h) / h
    return two


def script_formula(h: int, eta1: float | Tensor, eta2: float | Tensor, step: int) -> Tensor:
    r"""The test loss of the authors' scripts after step 1 or 2, the same pair at both, verbatim.

    The script leaves out of step 1 the cross term $2 \eta_1 \eta_2 / h^5$, which `surrogate` and,
    as reported, theorem 5.3 of the paper have.

    Args:
        h: width.
        eta1: rate of W_1.
        eta2: rate of W_2.
        step: 1 or 2.

    Source: the authors' code, two-layer theory script.
    """
    check_positive_integer(step, "`step`")
    first, second = checked_step("(eta1, eta2)", (eta1, eta2), 2)
    return _script(float(checked_size("h", h)), first + second, first * second, step)


def _script(h: float, s: Tensor, p: Tensor, step: int) -> Tensor:
    if step == 1:
        one: Tensor = s**2 / h**4 + p**2 / h**7 - 2 * s / h**2 + 1 / h + 1
        return one
    if step == 2:
        two: Tensor = (
            (1 / h) * (1 + p / h**3) ** 4
            + 16 * p**2 / h**7
            + (2 * s * (p + h**3) / h**5 - 1) ** 2
            + 8 * (p / h**5) * (1 + p / h**3) ** 2
        )
        return two
    raise ArgumentError(f"The scripts have a formula for `step` 1 and 2 only, got {step!r}.")


def _squares(
    h: int, phases: Tensor, steps: list[list[Tensor]], signal_only: bool
) -> Iterator[Tensor]:
    """|rho_t|^2 for t = 0, 1, ..., each (..., points)."""
    check_flag(signal_only, "signal_only")
    eps = h**-0.5
    x1 = torch.polar(torch.ones_like(phases), phases)
    x2 = torch.ones_like(x1)
    rho = eps * x1 * x2 - 1
    yield _square(rho)
    for rates in steps:
        mu1, mu2 = (rate.unsqueeze(-1) / h**1.5 for rate in rates)
        pull = -torch.ones_like(rho) if signal_only else rho
        x1, x2 = x1 - mu1 * pull * x2.conj(), x2 - mu2 * x1.conj() * pull
        rho = eps * x1 * x2 - 1
        yield _square(rho)


def _square(value: Tensor) -> Tensor:
    return value.real**2 + value.imag**2


def _phases(spectrum: Tensor) -> Tensor:
    """Phases as they are; those of the eigenvalues of an orthogonal matrix."""
    if not isinstance(spectrum, Tensor) or spectrum.ndim not in (1, 2) or spectrum.numel() == 0:
        raise ShapeError("`spectrum` must be (h,) phases or the (h, h) matrix Q' W_1 W_2.")
    spectrum = spectrum.double()
    if not is_ordered(spectrum) or not bool(spectrum.isfinite().all()):
        raise ArgumentError("`spectrum` has entries that are not finite.")
    if spectrum.ndim == 1:
        return spectrum
    rows, columns = spectrum.shape
    if rows != columns:
        raise ShapeError(f"Q' W_1 W_2 must be square, got {(rows, columns)}: take d = h.")
    off = float((spectrum.T @ spectrum - torch.eye(rows)).abs().max())
    if off > ORTHOGONAL:
        raise ArgumentError(
            f"Q' W_1 W_2 is not orthogonal (U'U - I has an entry of {off:.2g}), which the closed "
            "form needs: d = h, W_1, W_2 and Q orthogonal. `DeepLinearProblem` takes any weights."
        )
    phases: Tensor = torch.linalg.eigvals(spectrum).angle()
    return phases
