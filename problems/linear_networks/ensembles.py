"""The networks of the paper: random weights, targets and data."""

from typing import Literal, get_args

import torch
from torch import Tensor

from bilevel.core.checks import single
from bilevel.errors import check_name
from problems.linear_networks.deep_linear import DeepLinearProblem
from problems.linear_networks.initial import (
    checked_size,
    gaussian,
    haar,
    orthonormal_columns,
    whitened_design,
)

Design = Literal["whitened", "gaussian"]
"""X'X = n I exactly, or independent N(0, 1) entries."""
Weights = Literal["orthogonal", "gaussian"]
"""Orthonormal columns and Haar rotations, or N(0, 1/rows) entries."""


def paper_network(
    depth: int,
    h: int,
    generator: torch.Generator,
    *,
    d: int | None = None,
    n: int | None = None,
    design: Design = "whitened",
    weights: Weights = "orthogonal",
    noise: float = 0.0,
) -> DeepLinearProblem:
    r"""A network of the paper at its initial weights, with drawn data.

        Of depth 2 $f(x) = x W_1 W_2 / h$ with h outputs and $\beta = Q / \sqrt{d}$; deeper ones
        have one output, $f(x) = x W_1 \dots W_{L-1} a / \sqrt{h}$, and $\beta \sim N(0, I_d / h)$.

    The last factor $a \sim N(0, I_h / h)$ is the last of the weights, and the paper freezes it:
    rate 0.

    Args:
        depth: 2, or more.
        h: width.
        generator: what everything is drawn with.
        d: inputs; None: h.
        n: rows; None: d.
        design: of the rows.
        weights: of the layers.
        noise: variance rho of the noise of the targets.

    Raises:
        ArgumentError: h > d for orthonormal columns, n < d for a whitened design, or `noise` is
            negative or not finite.
        UnknownNameError: no such design or weights.
    """
    checked_size("depth", depth, least=2)
    checked_size("h", h)
    d = h if d is None else checked_size("d", d)
    check_name(weights, get_args(Weights), "kind of weights")
    if weights == "orthogonal":
        layers = [orthonormal_columns(d, h, generator)]
        layers += [haar(h, generator) for _ in range(max(depth - 2, 1))]
    else:
        layers = [gaussian(d, h, generator) / d**0.5]
        layers += [gaussian(h, h, generator) / h**0.5 for _ in range(max(depth - 2, 1))]
    if depth > 2:
        layers.append(gaussian(h, 1, generator) / h**0.5)
    beta = target(d, h, h if depth == 2 else 1, generator)
    inputs, targets = rows(d if n is None else n, beta, generator, design, noise)
    kappa = 1 / h if depth == 2 else h**-0.5
    return DeepLinearProblem.from_data(inputs, targets, layers, beta, kappa)


def target(d: int, h: int, outputs: int, generator: torch.Generator) -> Tensor:
    """beta, (d, outputs): N(0, I_d / h) for one output, else orthonormal columns over sqrt(d)."""
    if outputs == 1:
        beta: Tensor = gaussian(d, 1, generator) / h**0.5
    else:
        beta = orthonormal_columns(d, outputs, generator) / d**0.5
    return beta


def rows(
    n: int, beta: Tensor, generator: torch.Generator, design: Design = "whitened", noise: float = 0
) -> tuple[Tensor, Tensor]:
    """Inputs (n, d) and targets X beta + xi, (n, K), with xi ~ N(0, noise).

    Raises:
        ArgumentError: n < d for a whitened design; `noise` is negative or not finite.
        UnknownNameError: no such design.
    """
    noise = single(noise, "`noise`, a variance,", zero_allowed=True)
    check_name(design, get_args(Design), "design")
    draw = whitened_design if design == "whitened" else gaussian
    inputs = draw(checked_size("n", n), len(beta), generator)
    targets = inputs @ beta
    if noise > 0:
        targets = targets + noise**0.5 * gaussian(n, beta.shape[1], generator)
    return inputs, targets
