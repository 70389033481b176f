"""A1 to A9 and A13: scalars, or a scalar head on two constants."""

import math

import torch
from torch import Tensor

from bilevel import Box
from problems.analytic.base import Optimum, double, grown
from problems.analytic.formula import BilevelFormula, Formula

A1 = BilevelFormula(
    name="A1",
    F=lambda w, theta: w**2 + theta**2,
    g=lambda w, theta: (w + theta - 1) ** 2,
    best=lambda w: 1 - w,
    slope=lambda w: 4 * w - 2,
    bends=lambda w: (2, 2),
    constants=lambda w, theta, radius: (0, 2, 0, 0, 2),
    start=double(1.0),
    start_value=1.0,
    start_gradient=double(2.0),
    solution=Optimum(double(0.5), 0.5),
    source="Lampariello and Sagratella (2017), example 3.2.",
)

A2 = BilevelFormula(
    name="A2",
    F=lambda w, theta: (w - 1) ** 2 + (theta - 1) ** 2,
    g=lambda w, theta: 500 * theta - 50 * w * theta + theta**2 / 2,
    best=lambda w: 50 * w - 500,
    slope=lambda w: 2 * (w - 1) + 100 * (50 * w - 501),
    bends=lambda w: (1, 1),
    constants=lambda w, theta, radius: (0, 2, 0, 0, 50),
    start=double(1.0),
    start_value=451.0**2,
    start_gradient=double(-45100.0),
    solution=Optimum(double(25051 / 2501), 203401 / 2501),
    source="Macal and Hurter (1997).",
    note="Stiff: Phi'' = 5002.",
)

A3 = BilevelFormula(
    name="A3",
    F=lambda w, theta: w**2,
    g=lambda w, theta: theta**2 / 2 - w * theta,
    best=lambda w: w,
    slope=lambda w: 2 * w,
    bends=lambda w: (1, 1),
    constants=lambda w, theta, radius: (0, 0, 0, 0, 1),
    start=double(1.0),
    start_value=1.0,
    start_gradient=double(2.0),
    solution=Optimum(double(0.0), 0.0),
    source="Henrion and Surowiec (2011), c = 0.",
    note="The implicit term is exactly 0: F does not depend on the head.",
)

A4 = BilevelFormula(
    name="A4",
    F=lambda w, theta: (w - 1) ** 2 + (theta + 1) ** 2,
    g=lambda w, theta: (theta - w) ** 2,
    best=lambda w: w,
    slope=lambda w: 4 * w,
    bends=lambda w: (2, 2),
    constants=lambda w, theta, radius: (0, 2, 0, 0, 2),
    start=double(1.0),
    start_value=4.0,
    start_gradient=double(4.0),
    solution=Optimum(double(0.0), 2.0),
    source="An analytic quadratic.",
)

A5 = BilevelFormula(
    name="A5",
    F=lambda w, theta: w * theta - 2 * w + 1,
    g=lambda w, theta: theta**2 - 2 * w * theta + w**2,
    best=lambda w: w,
    slope=lambda w: 2 * w - 2,
    bends=lambda w: (2, 2),
    constants=lambda w, theta, radius: (1, 0, 0, 0, 2),
    start=double(2.0),
    start_value=1.0,
    start_gradient=double(2.0),
    solution=Optimum(double(1.0), 0.0),
    source="Liu et al. (2019), figure 2.",
    note="Without the implicit term, alternation goes to (2, 2).",
)

A6 = BilevelFormula(
    name="A6",
    F=lambda w, theta: (theta - 1) ** 2 / 2,
    g=lambda w, theta: (theta - w) ** 2 / 2 + theta**2 / 2,
    best=lambda w: w / 2,
    slope=lambda w: (w / 2 - 1) / 2,
    bends=lambda w: (2, 2),
    constants=lambda w, theta, radius: (0, 1, 0, 0, 1),
    start=double(0.0),
    start_value=0.5,
    start_gradient=double(-0.5),
    solution=Optimum(double(2.0), 0.0),
    note="The direct gradient d_w F is 0 everywhere.",
)

A7 = BilevelFormula(
    name="A7",
    F=lambda w, theta: (theta - 1) ** 2 / 2,
    g=lambda w, theta: (theta - 2) ** 2 / 2 + w * theta**2 / 2,
    best=lambda w: 2 / (1 + w),
    slope=lambda w: -(2 / (1 + w) - 1) * 2 / (1 + w) ** 2,
    bends=lambda w: (1 + w, 1 + w),
    constants=lambda w, theta, radius: (0, 1, 1, 0, grown(theta.abs(), 1, radius)),
    start=double(3.0),
    start_value=0.125,
    start_gradient=double(0.0625),
    solution=Optimum(double(1.0), 0.0),
    body_set=Box(-0.9, math.inf),
    note="A ridge penalty of one coefficient; w > -1, kept by a box.",
)

A8 = BilevelFormula(
    name="A8",
    F=lambda w, theta: (theta - 1) ** 2 / 2,
    g=lambda w, theta: w.exp() * theta**2 / 2 - 2 * theta,
    best=lambda w: 2 * (-w).exp(),
    slope=lambda w: -(2 * (-w).exp() - 1) * 2 * (-w).exp(),
    bends=lambda w: (w.exp(), w.exp()),
    constants=lambda w, theta, radius: (0, 1, w.exp(), 0, grown(2, w.exp(), radius)),
    start=double(0.0),
    start_value=0.5,
    start_gradient=double(-2.0),
    solution=Optimum(double(math.log(2)), 0.0),
    note="The penalty is e^w.",
)


def exponential_root(w: Tensor) -> Tensor:
    """The theta with theta + e^theta = w, by Newton's method.

    The function is convex and increasing, and the first iterate lies right of the root, so that
    all others do and fall towards it. Ten steps reach rounding for every w.
    """
    theta = torch.where(w > 1, w.clamp(min=1).log(), w)
    for _ in range(10):
        theta = theta - (theta + theta.exp() - w) / (1 + theta.exp())
    return theta


A9 = BilevelFormula(
    name="A9",
    F=lambda w, theta: theta**2 / 2,
    g=lambda w, theta: theta**2 / 2 + theta.exp() - w * theta,
    best=exponential_root,
    slope=lambda w: exponential_root(w) / (1 + exponential_root(w).exp()),
    bends=lambda w: (1, math.inf),
    constants=lambda w, theta, radius: (0, 1, 0, (theta + radius).exp(), 1),
    start=double(1 + math.e),
    start_value=0.5,
    start_gradient=double(1 / (1 + math.e)),
    solution=Optimum(double(1.0), 0.0),
    note="The head has no closed form.",
)

X, V, RIDGE = (1.0, 2.0), (2.0, 1.0), 1.0
XX, XV = sum(x * x for x in X), sum(x * v for x, v in zip(X, V, strict=True))

A13 = Formula(
    name="A13",
    g=lambda w, theta: (
        sum((w * x * theta - v) ** 2 for x, v in zip(X, V, strict=True)) / 2 + RIDGE * theta**2 / 2
    ),
    best=lambda w: w * XV / (RIDGE + w**2 * XX),
    slope=lambda w: -w * RIDGE * XV**2 / (RIDGE + w**2 * XX) ** 2,
    bends=lambda w: (RIDGE + w**2 * XX, RIDGE + w**2 * XX),
    constants=lambda w, theta, radius: (
        grown((2 * w * XX * theta - XV).abs(), 2 * w.abs() * XX, radius),
        RIDGE + w**2 * XX,
        2 * w.abs() * XX,
        0,
        grown((2 * w * XX * theta - XV).abs(), 2 * w.abs() * XX, radius),
    ),
    start=double(1.0),
    start_value=7 / 6,
    start_gradient=double(-4 / 9),
    source="Variable projection, Golub and Pereyra (1973), with a ridge penalty.",
    note="F is g: the partial gradient at theta* is the total one. Phi falls with |w|.",
)

SCALARS = {problem.name: problem for problem in (A1, A2, A3, A4, A5, A6, A7, A8, A9, A13)}
