"""B1, B2, B5 and B7: heads in a box."""

import math

import torch
from torch import Tensor

from bilevel import Box
from problems.analytic.base import Optimum, double
from problems.analytic.formula import BilevelFormula

LOW, HIGH = 0.5, 1.5


def clipped(w: Tensor) -> Tensor:
    """The nearest point of the box: theta*(w) of B1 and B2."""
    return w.clamp(LOW, HIGH)


def clipped_slope(w: Tensor, centre: float) -> Tensor:
    """grad of |w - centre|^2 + |clip(w)|^2; on a bound, its side outside of the box."""
    inside = (w > LOW) & (w < HIGH)
    return 2 * (w - centre) + torch.where(inside, 2 * w, 0.0)


def clipped_directional(w: Tensor, direction: Tensor, centre: float) -> Tensor:
    """The one-sided derivative: on a bound, the head moves only inwards."""
    moves = ((w > LOW) | ((w == LOW) & (direction > 0))) & (
        (w < HIGH) | ((w == HIGH) & (direction < 0))
    )
    slope = 2 * (w - centre) + torch.where(moves, 2 * w, 0.0)
    return (slope * direction).sum()


B1 = BilevelFormula(
    name="B1",
    F=lambda w, theta: (w - 1).square().sum() + theta.square().sum() - 2,
    g=lambda w, theta: (w - theta).square().sum(),
    best=clipped,
    slope=lambda w: clipped_slope(w, 1.0),
    one_sided=lambda w, direction: clipped_directional(w, direction, 1.0),
    bends=lambda w: (2, 2),
    constants=lambda w, theta, radius: (0, 2, 0, 0, 2),
    start=double(1.0, 0.25),
    start_value=-0.1875,
    start_gradient=double(2.0, -1.5),
    solution=Optimum(double(0.5, 0.5), -1.0),
    source="DeSilva (1978).",
    head_set=Box(LOW, HIGH),
    note="Phi has its minimum on a kink.",
)

B2 = BilevelFormula(
    name="B2",
    F=lambda w, theta: (w - 1.5).square().sum() + theta.square().sum() - 4.5,
    g=lambda w, theta: (w - theta).square().sum(),
    best=clipped,
    slope=lambda w: clipped_slope(w, 1.5),
    one_sided=lambda w, direction: clipped_directional(w, direction, 1.5),
    bends=lambda w: (2, 2),
    constants=lambda w, theta, radius: (0, 2, 0, 0, 2),
    start=double(1.0, 0.25),
    start_value=-1.4375,
    start_gradient=double(1.0, -2.5),
    solution=Optimum(double(0.75, 0.75), -2.25),
    source="Falk and Liu (1995).",
    head_set=Box(LOW, HIGH),
)


def halved(w: Tensor) -> Tensor:
    """theta*(w) of B5: the positive part, and 0."""
    return torch.stack([w.clamp(min=0), torch.zeros_like(w)])


def halved_directional(w: Tensor, direction: Tensor) -> Tensor:
    """The one-sided derivative of |w|."""
    return torch.where(w == 0, direction.abs(), w.sign() * direction)


B5 = BilevelFormula(
    name="B5",
    F=lambda w, theta: -w + 2 * theta[0] + theta[1],
    g=lambda w, theta: (w - theta[0]) ** 2 + theta[1] ** 2,
    best=halved,
    slope=lambda w: torch.where(w > 0, 1.0, -1.0).to(w),
    one_sided=halved_directional,
    bends=lambda w: (2, 2),
    constants=lambda w, theta, radius: (0, 0, 0, 0, 2),
    start=double(-0.5),
    start_value=0.5,
    start_gradient=double(-1.0),
    solution=Optimum(double(0.0), 0.0),
    source="Hatz, Leyffer, Schloeder and Bock (2013).",
    head_set=Box(0.0, math.inf),
    spread=0.25,
    note="Phi is the absolute value; the second entry of the head is on its bound, unpressed.",
)

B7 = BilevelFormula(
    name="B7",
    F=lambda w, theta: (w - 3) ** 2 + (theta - 2) ** 2,
    g=lambda w, theta: (theta - 5) ** 2,
    best=lambda w: torch.full_like(w, 5.0),
    slope=lambda w: 2 * (w - 3),
    bends=lambda w: (2, 2),
    constants=lambda w, theta, radius: (0, 2, 0, 0, 0),
    start=double(1.0),
    start_value=13.0,
    start_gradient=double(-4.0),
    solution=Optimum(double(3.0), 9.0),
    source="From Gumus and Floudas (2001).",
    body_set=Box(0.0, 8.0),
    head_set=Box(0.0, 10.0),
    note="The implicit term is exactly 0: g does not depend on the body.",
)

BOXES = {problem.name: problem for problem in (B1, B2, B5, B7)}
