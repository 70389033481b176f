"""f(x) = x W_1 W_2 a / sqrt(h), a fixed: the test loss after any number of steps.

Setting: whitened inputs, noiseless targets x beta, W_1 with orthonormal columns (d >= h), W_2
orthogonal. W_2 enters only through v = W_2 a, so that the network is the two-layer network of a
body W_1 with rate eta_1 and a head v with rate eta_2 |a|^2. All that moves stays in the span of the
initial v and p = W_1' beta (on the side of the h units) and of W_1 v, W_1 p and the part of beta
outside the range of W_1 (on the side of the d inputs). In these coordinates, with the Gram matrices
G (2, 2) and H (3, 3), v is m, the change of W_1 a (3, 2) matrix K, and the residual n:

    n = (m + K G m) / sqrt(h) - (0, 1, 1),   loss = n' H n
    K <- K - eta_1 n m' / sqrt(h),   m <- m - eta_2 A (n + K' H n) / sqrt(h)

Source: arXiv 2606.00340 and the authors' code for the setting and `script_formula`; the recursion,
the closed forms and the expectation are derived here.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from bilevel.core.checks import check_flag, check_one_of, check_positive_integer
from bilevel.errors import ArgumentError
from problems.linear_networks.initial import checked_size
from problems.linear_networks.quadrature import beta_rule, chi_square_rule
from problems.linear_networks.rates import (
    Steps,
    broadcast,
    checked_number,
    checked_rate,
    checked_step,
    checked_steps,
)

Ensemble = Literal["unit", "gaussian"]
"""|a| = |beta| = 1, or a ~ N(0, I_h / h) and beta ~ N(0, I_d / h)."""
MOST_POINTS = 200_000


def conditional_loss(
    h: int,
    A: float | Tensor,
    B: float | Tensor,
    c: float | Tensor,
    lrs: Steps,
    *,
    signal_only: bool = False,
    outside: float | Tensor = 0.0,
) -> Tensor:
    r"""The test loss given the initial weights, before the first step and after each.

    Args:
        h: width.
        A: $\lVert a\rVert^2$.
        B: $\lVert \beta\rVert^2$.
        c: $\beta^\top W_1 W_2 a$; $c^2$ is at most $A (B - \text{outside})$.
        lrs: T steps of a pair of rates each; tensors are broadcast against each other and A, B, c.
        signal_only: descend along the signal alone.
        outside: the squared length of what of beta is orthogonal to the range of W_1: 0 for d = h.

    Returns:
        (T + 1, ...) losses.

    Raises:
        ArgumentError: no network has these A, B, c and `outside`; a rate is negative.

    Examples:
        >>> conditional_loss(4, 1.0, 1.0, 0.0, [(4.0, 0.0)])  # eta_1 = h / A solves it
        tensor([1.2500, 0.0000], dtype=torch.float64)
    """
    checked_size("h", h)
    a, b, inner, rest = _checked_scalars(A, B, c, outside)
    losses = list(_losses(h, a, b - rest, inner, rest, checked_steps(lrs, 2), signal_only))
    return torch.stack(broadcast(*losses))


def expected_loss(
    h: int,
    lrs: Steps,
    *,
    ensemble: Ensemble = "unit",
    signal_only: bool = False,
    inputs: int | None = None,
) -> Tensor:
    r"""The test loss in expectation over Haar weights, before the first step and after each: exact.

    $c = \sqrt{A B}\, t$ with $t$ a coordinate on the sphere. The loss is a polynomial of $t$, of
    the share of $\lVert \beta\rVert^2$ inside the range of $W_1$ (d > h) and, in the Gaussian
    ensemble, of A and B; Gauss rules of as many points as its degree asks for give the expectation.

    Args:
        h: width, at least 2.
        lrs: T steps of a pair of rates each; tensors are broadcast against each other.
        ensemble: "unit" ($\lVert a\rVert = \lVert \beta\rVert = 1$) or "gaussian"
            ($a \sim N(0, I_h / h)$, $\beta \sim N(0, I_d / h)$).
        signal_only: descend along the signal alone.
        inputs: d, at least h; None: h.

    Returns:
        (T + 1, ...) losses, the further axes those of the rates; differentiable in the rates.

    Raises:
        ArgumentError: d < h, an unknown ensemble, a bad rate, or so many steps that the rule would
            be huge.
    """
    checked_size("h", h, least=2)
    d = h if inputs is None else checked_size("inputs", inputs)
    if d < h:
        raise ArgumentError(f"Orthonormal columns need h <= d inputs, got {h = } and d = {d}.")
    check_one_of(ensemble, Ensemble, "ensemble")
    steps = [[rate.unsqueeze(-1) for rate in step] for step in checked_steps(lrs, 2)]
    a, b, t, rest, weights = _rule(h, d, len(steps), ensemble)
    losses = _losses(h, a, b, (a * b).sqrt() * t, rest, steps, signal_only)
    means = [(rows * weights).sum(-1) for rows in losses]
    return torch.stack(broadcast(*means))


def closed_form(
    h: int,
    A: float | Tensor,
    B: float | Tensor,
    c: float | Tensor,
    step1: Sequence[Any] | Tensor,
    step2: Sequence[Any] | Tensor | None = None,
) -> Tensor:
    r"""The loss after one or two exact steps, d = h, written out.

    With $q = A / \sqrt{h} - c$, $R = A / h - 2 c / \sqrt{h} + B$ and
    $\lambda = (1 - A \eta_1 / h) (1 - A \eta_2 / h) - A c\, \eta_1 \eta_2 / h^{3/2}$, the loss is
    $\lambda^2 R$ after one step and $\lambda^2 (\kappa^2 R + 2 \kappa \tau q + \tau^2 A)$ after
    two, $\kappa$ and $\tau$ from the second pair of rates.

    Args:
        h: width.
        A: $\lVert a\rVert^2$.
        B: $\lVert \beta\rVert^2$.
        c: $\beta^\top W_1 W_2 a$.
        step1: $(\eta_1, \eta_2)$ of the first step.
        step2: those of the second; None: one step only.
    """
    e1, e2 = checked_step("step1", step1, 2)
    A, B, c, _ = _checked_scalars(A, B, c)
    root = math.sqrt(checked_size("h", h))
    q, big = A / root - c, A / h - 2 * c / root + B
    lam = (1 - A * e1 / h) * (1 - A * e2 / h) - A * c * e1 * e2 / root**3
    if step2 is None:
        one: Tensor = lam**2 * big
        return one
    f1, f2 = checked_step("step2", step2, 2)
    head = A - 2 * e2 * A / root * q + (e2 * A) ** 2 * big / h
    mixed = root * (lam**2 * big + lam * (c / root - B))
    body = 1 - e1 * q / root + e1**2 * A * big / h
    kap = 1 - f2 * A / h * body - f1 / h * head + f1 * f2 * A * mixed / root**3
    tau = e1 * f2 * A * big / root**3
    two: Tensor = lam**2 * (kap**2 * big + 2 * kap * tau * q + tau**2 * A)
    return two


def surrogate(
    h: int,
    A: float | Tensor,
    B: float | Tensor,
    c: float | Tensor,
    step1: Sequence[Any] | Tensor,
    step2: Sequence[Any] | Tensor | None = None,
) -> Tensor:
    r"""The loss after one or two signal-only steps, d = h.

    It is $k^2 A / h + 2 k b c / \sqrt{h} + b^2 B$, after one step with $k = 1$ and
    $b = A S / h - 1 + A c\, \eta_1 \eta_2 / h^{3/2}$, $S = \eta_1 + \eta_2$.

    Args:
        h: width.
        A: $\lVert a\rVert^2$.
        B: $\lVert \beta\rVert^2$.
        c: $\beta^\top W_1 W_2 a$.
        step1: $(\eta_1, \eta_2)$ of the first step.
        step2: those of the second; None: one step only.
    """
    e1, e2 = checked_step("step1", step1, 2)
    A, B, c, _ = _checked_scalars(A, B, c)
    root = math.sqrt(checked_size("h", h))
    k, b = torch.ones((), dtype=torch.float64), A * (e1 + e2) / h - 1 + e1 * e2 * A * c / root**3
    if step2 is not None:
        f1, f2 = checked_step("step2", step2, 2)
        k, n = 1 + e1 * f2 * A * B / h, (e2 + f2) * A / root
        moved = (e1 + f1) * (k * A + n * c) / root + f1 * e2 * A / h * (k * c + n * B)
        b = (n + moved) / root - 1
    value: Tensor = k**2 * A / h + 2 * k * b * c / root + b**2 * B
    return value


def script_formula(h: int, eta1: float | Tensor, eta2: float | Tensor, step: int) -> Tensor:
    r"""The test loss of the authors' scripts after step 1 or 2, the same pair at both, verbatim.

    It is for A = B = 1 in expectation. The script leaves out of step 1 the cross term
    $2 \eta_1 \eta_2 / h^3$, as the script of two layers does; `surrogate` has it.

    Args:
        h: width.
        eta1: rate of W_1.
        eta2: rate of W_2.
        step: 1 or 2.

    Source: the authors' code, three-layer theory script.
    """
    check_positive_integer(step, "`step`")
    first, second = checked_step("(eta1, eta2)", (eta1, eta2), 2)
    return _script(float(checked_size("h", h)), first + second, first * second, step)


def _script(h: float, s: Tensor, p: Tensor, step: int) -> Tensor:
    if step == 1:
        one: Tensor = s**2 / h**2 + p**2 / h**4 - 2 * s / h + 1 / h + 1
        return one
    if step == 2:
        two: Tensor = (
            (2 * s * (h + p) / h**2 - 1) ** 2
            + 1 / h
            + 2 * p / h**2
            + 10 * p / h**3
            + 37 * p**2 / h**4
            + 12 * p**3 / h**5
            + p**4 / h**6
            + p**2 / h**3
        )
        return two
    raise ArgumentError(f"The scripts have a formula for `step` 1 and 2 only, got {step!r}.")


def _checked_scalars(
    A: float | Tensor, B: float | Tensor, c: float | Tensor, outside: float | Tensor = 0.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    a, b, rest = checked_rate("A", A), checked_rate("B", B), checked_rate("outside", outside)
    inner = checked_number("c", c)
    inside = b - rest
    possible = (inside >= -1e-12 * b) & (inner**2 <= a * inside.clamp(min=0) * (1 + 1e-12))
    if not bool(possible.all()):  # NaN is not possible either
        raise ArgumentError(
            "No network has these A, B, c and `outside`: c = beta' W_1 W_2 a must be finite with "
            "c^2 <= A (B - outside)."
        )
    return a, b, inner, rest


def _losses(
    h: int,
    a: Tensor,
    inside: Tensor,
    c: Tensor,
    outside: Tensor,
    steps: list[list[Tensor]],
    signal_only: bool,
) -> Iterator[Tensor]:
    """The recursion of the module's docstring; `inside` is |p|^2."""
    check_flag(signal_only, "signal_only")
    a, inside, c, outside = broadcast(a, inside, c, outside)
    zero, one, root = torch.zeros_like(a), torch.ones_like(a), math.sqrt(h)
    outer = _stacked([[a, c, zero], [c, inside, zero], [zero, zero, outside]])
    gram = outer[..., :2, :2]
    target = torch.stack([zero, one, one], -1).unsqueeze(-1)
    m, moved = _stacked([[one], [zero]]), torch.zeros(*a.shape, 3, 2, dtype=torch.float64)

    def residual() -> Tensor:
        reached = moved @ gram @ m
        padded = torch.cat([m, torch.zeros_like(m[..., :1, :])], -2)
        return (padded + reached) / root - target

    n = residual()
    yield (n * (outer @ n)).sum((-2, -1))
    for rates in steps:
        eta1, eta2 = (rate.unsqueeze(-1).unsqueeze(-1) for rate in rates)
        pull = -target if signal_only else n
        back = pull[..., :2, :] + moved.mT @ outer @ pull
        moved, m = (
            moved - eta1 / root * pull @ m.mT,
            m - eta2 / root * a.unsqueeze(-1).unsqueeze(-1) * back,
        )
        n = residual()
        yield (n * (outer @ n)).sum((-2, -1))


def _stacked(rows: list[list[Tensor]]) -> Tensor:
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def _rule(
    h: int, d: int, steps: int, ensemble: Ensemble
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """A, |p|^2, t, the outside part and the weights of one rule, each (points,)."""
    degree = 3**steps  # of the loss in t and in |p|^2; in A it is at most twice as high
    unit, single = torch.ones(1, dtype=torch.float64), (h - 1) / 2
    factors = [degree // 2 + 1] * (1 if ensemble == "unit" and d == h else 2)
    if ensemble == "gaussian":
        factors += [degree + 1] + [degree // 2 + 1] * (d > h)
    if math.prod(factors) > MOST_POINTS:
        raise ArgumentError(
            f"The expectation after {steps} steps needs a rule of {math.prod(factors):,} points: "
            "take fewer steps, or average `conditional_loss` over drawn A, B and c."
        )
    t, weights_t = beta_rule(single, single, degree)
    a, weights_a = unit, unit
    b, weights_b = unit, unit
    rest, weights_rest = torch.zeros(1, dtype=torch.float64), unit
    if ensemble == "gaussian":
        a, weights_a = chi_square_rule(h, 2 * degree)
        b, weights_b = chi_square_rule(h, degree)
        if d > h:
            rest, weights_rest = chi_square_rule(d - h, degree)
            rest = rest * (d - h) / h
    elif d > h:
        b, weights_b = beta_rule(h / 2, (d - h) / 2, degree)
    grid = torch.meshgrid(a, b, 2 * t - 1, rest, indexing="ij")
    weights = torch.einsum("i,j,k,l->ijkl", weights_a, weights_b, weights_t, weights_rest)
    a, b, t, rest = (part.flatten() for part in grid)
    return a, b, t, 1 - b if ensemble == "unit" and d > h else rest, weights.flatten()
