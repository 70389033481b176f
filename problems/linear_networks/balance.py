"""When equal rates are best in the two-layer orthogonal model, and which equal pair is."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from torch import Tensor

from bilevel.core.checks import check_flag
from bilevel.errors import ArgumentError
from problems.linear_networks.initial import checked_size
from problems.linear_networks.rates import checked_rate, checked_step
from problems.linear_networks.two_layer_orthogonal import expected_loss

Array = NDArray[np.float64]
GRID = 400  # equal rates that are looked at before the best is polished


class EqualPair(NamedTuple):
    """The rate that both layers share at every step.

    Attributes:
        rate: eta_1 = eta_2.
        loss: the expected test loss after the last step.
    """

    rate: float
    loss: float


class Window(NamedTuple):
    """Budgets S = eta_1 + eta_2.

    Attributes:
        low: the lower end.
        high: the upper end.
    """

    low: float
    high: float


def equal_window(h: int, signal_only: bool = True) -> Window:
    r"""Budgets for which the equal pair, used at two steps, is a local minimum among pairs.

    At a fixed sum the loss depends on the pair through $P = \mu_1 \mu_2$ alone, and equal rates are
    the largest $P$: they are a local minimum where $dL/dP < 0$. For the surrogate that is, with
    $\sigma = S / h^{3/2}$, $P = \sigma^2 / 4$ and $\varepsilon = h^{-1/2}$,

    $$
    [4 (1 + P)^3 + 32 P + (16 P (1 + P) + 8 (1 + P)^2) / h] / h
        + 4 \varepsilon \sigma\, (2 \varepsilon \sigma (1 + P) - 1) < 0,
    $$

    a convex function of $\sigma$: the window is one interval, or empty. For exact descent the two
    changes of sign are those of the second derivative in the share of the first layer.

    Args:
        h: width.
        signal_only: of the surrogate; False: of exact descent.

    Raises:
        ArgumentError: the window is empty, as for small h.

    Examples:
        >>> low, high = equal_window(1000)
        >>> round(low / 1000**1.5, 6), round(high / 1000**1.5, 6)
        (0.031838, 2.806622)
    """
    checked_size("h", h)
    check_flag(signal_only, "signal_only")
    unit = h**1.5

    def excess(sigma: Array) -> Array:
        return _surrogate_slope(h, sigma) if signal_only else _exact_curvature(h, sigma * unit)

    def at(sigma: float) -> float:
        return float(excess(np.array([sigma]))[0])

    grid = np.geomspace(0.5 / h**0.5, 2 * h**0.5, GRID)  # from below S = h to above S = h^2
    signs = excess(grid) < 0
    changes = np.flatnonzero(signs[1:] != signs[:-1])
    if len(changes) < 2:
        raise ArgumentError(
            f"At h = {h} there is no budget for which equal rates are a local minimum after two "
            "steps, or none in a window of more than a few per cent."
        )
    low, high = (brentq(at, grid[i], grid[i + 1], xtol=1e-14, rtol=1e-13) for i in changes[:2])
    return Window(float(low) * unit, float(high) * unit)


def best_equal(h: int, T: int, *, signal_only: bool = False) -> EqualPair:
    """The equal pair, the same at all T steps, with the lowest expected loss after the last.

    Args:
        h: width.
        T: steps, 1 to 6.
        signal_only: of the surrogate.

    Raises:
        ArgumentError: T is not among them.

    Examples:
        >>> round(best_equal(1000, 1).loss, 6)
        0.765405
    """
    checked_size("h", h)
    if checked_size("T", T) > 6:
        raise ArgumentError(f"`T` must be at most 6, got {T}.")

    def loss(rates: Tensor) -> Tensor:
        return expected_loss(h, [(rates, rates)] * T, signal_only=signal_only)[-1]

    def slope(rate: float) -> float:
        return float(_derivatives(loss, torch.tensor(rate, dtype=torch.float64))[0])

    grid = torch.from_numpy(np.geomspace(1e-4, 2.0, GRID) * h**2)
    best = int(loss(grid).argmin())
    low, high = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, GRID - 1)])
    rate = float(brentq(slope, low, high, xtol=1e-10 * low, rtol=1e-13))
    return EqualPair(rate, float(loss(torch.tensor(rate, dtype=torch.float64))))


def cumulative_balance(
    mu: tuple[float | Tensor, float | Tensor], S2: float | Tensor
) -> tuple[Tensor, Tensor]:
    r"""The second step's rates that balance the sums over both steps, for a budget S2.

    With the first step's rates fixed, the signal gained in two signal-only steps is largest where
    $\mu_1 + \nu_1 = \mu_2 + \nu_2$, if $\nu \ge 0$ allows it: an equal second step follows an equal
    first one only.

    Args:
        mu: the first step's pair; any unit.
        S2: nu_1 + nu_2, in the same unit.

    Returns:
        (nu_1, nu_2).

    Examples:
        >>> [nu.item() for nu in cumulative_balance((3.0, 1.0), 4.0)]
        [1.0, 3.0]
    """
    first, second = checked_step("mu", mu, 2)
    budget = checked_rate("S2", S2)
    nu1 = ((budget + second - first) / 2).clamp(min=0).minimum(budget)
    return nu1, budget - nu1


def _surrogate_slope(h: int, sigma: Array) -> Array:
    p, eps = sigma**2 / 4, h**-0.5
    noise = 4 * (1 + p) ** 3 + 32 * p + (16 * p * (1 + p) + 8 * (1 + p) ** 2) / h
    slope: Array = noise / h + 4 * eps * sigma * (2 * eps * sigma * (1 + p) - 1)
    return slope


def _exact_curvature(h: int, budgets: Array) -> Array:
    """Minus the second derivative of the two-step loss in the share, at one half."""
    sums = torch.from_numpy(budgets)

    def loss(share: Tensor) -> Tensor:
        return expected_loss(h, [(share * sums, (1 - share) * sums)] * 2)[-1]

    curvature: Array = -_derivatives(loss, torch.full_like(sums, 0.5))[1].numpy()
    return curvature


def _derivatives(function: Callable[[Tensor], Tensor], at: Tensor) -> tuple[Tensor, Tensor]:
    """First and second derivative of a function of each entry by itself."""
    x = at.clone().requires_grad_()
    (first,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    return first.detach(), second
