"""Every hypergradient x linear solver x problem, against gradients that were derived by hand.

A method is one row of `ROWS`: how it is made for a problem, and how far it may be off. Exact
methods may be off by 1e-8 of the gradient, truncated ones by what is proven of them.
"""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from analytic_cases import CASES, Dense, bodies, directions, flat, shaped
from points import Known, Point

import bilevel
from bilevel import CG, ClosedForm, FastSGD, Implicit, Neumann, Unrolled, trees
from bilevel.linear import Dense as DenseSolver
from problems.analytic import RandomQuadratic, analytic

CASES = CASES | {
    "A14-1e4": RandomQuadratic(4, 10, 1e-3, 10.0, seed=6),
    "A14-1e4-nonlinear-tree": RandomQuadratic(3, 7, 1e-4, 1.0, seed=7, tree=True, nonlinear=True),
    "A14-two": RandomQuadratic(2, 2, 0.3, 3.0, seed=8, tree=True),
}
STEPS, EPS = 12, torch.finfo(torch.float64).eps
BOXES = [name for name in CASES if name.startswith("B")]
NO_CLOSED_FORM = ["A9", *BOXES]


class Facts:
    """What is known about a problem at some bodies: numbers (R,) of proven bounds."""

    def __init__(self, problem, points):
        self.problem, self.points = problem, points
        self.gradient = torch.stack([flat(problem.phi_gradient(w)) for w in points])
        bends = [problem.curvature(w) for w in points]
        self.mu = numbers(bend.smallest for bend in bends)
        largest = [
            bend.largest if math.isfinite(bend.largest) else self.local_largest(w)
            for bend, w in zip(bends, points, strict=True)
        ]
        self.largest = numbers(largest)
        self.cross = numbers(problem.lipschitz(w, 0.0).cross_norm for w in points)
        pairs = [first_derivatives(problem, w) for w in points]
        self.body_slope, self.head_slope = (
            numbers(x.norm() for x in part) for part in zip(*pairs, strict=True)
        )
        # of sums of terms as large as these
        scale = self.body_slope + self.cross * self.head_slope / self.mu
        self.rounding = 1e3 * EPS * scale * self.largest / self.mu

    def local_largest(self, w):
        dense = Dense(self.problem, w)
        return float(torch.linalg.eigvalsh(dense.hessian(dense.theta))[-1])


def numbers(found):
    return torch.tensor([float(number) for number in found], dtype=torch.float64)


def first_derivatives(problem, w):
    """d_w F and d_theta F at theta*(w)."""
    dense = Dense(problem, w)
    return torch.func.grad(dense.F, (0, 1))(dense.w, dense.theta)


def exact_solver(problem):
    return Known() if problem.name in NO_CLOSED_FORM else ClosedForm()


@dataclasses.dataclass(frozen=True)
class Row:
    """A method of the table.

    Attributes:
        make: facts -> the method and a head solver for it.
        allowed: facts -> a bound on the gradient's error, (R,).
        from_best: whether its head solver starts from theta*(w).
    """

    make: Callable
    allowed: Callable = lambda facts: 1e-8 * facts.gradient.norm(dim=1)
    from_best: bool = False


def implicit(linear_solver=None):
    return lambda facts: (Implicit(linear_solver), exact_solver(facts.problem))


def refining(linear_solver=None):
    """From heads that are off by 1e-2."""
    method = Implicit(linear_solver, tolerance=1e-12, on_inexact="refine")
    return lambda facts: (method, Known(off=1e-2))


def neumann(facts):
    series = Neumann(STEPS, step_size=0.7 / facts.largest)
    return Implicit(series), exact_solver(facts.problem)


def geometric(facts, share=0.7, steps=STEPS):
    """|d2_{w theta} g| (1 - eta mu)^K |d_theta F| / mu with eta = share / L."""
    rate = 1 - share * facts.mu / facts.largest
    return facts.cross * rate**steps * facts.head_slope / facts.mu + facts.rounding


def unrolled(steps, truncate=None):
    return lambda facts: (
        Unrolled(steps, truncate),
        FastSGD(0.7 / facts.largest, steps),
    )


ROWS = {
    "factor": Row(implicit()),
    "CG": Row(implicit(CG())),
    "CG accurate": Row(implicit(CG(rtol=1e-13))),
    "Dense": Row(implicit(DenseSolver())),
    "refine": Row(refining()),
    "refine CG": Row(refining(CG(rtol=1e-12))),
    "Neumann": Row(neumann, geometric),
    "Neumann default": Row(  # eta is at least 1 / (1.1 L)
        implicit(Neumann(40)), lambda facts: geometric(facts, 1 / 1.1, 40)
    ),
    "Unrolled": Row(unrolled(STEPS), geometric, from_best=True),
    "Unrolled truncated": Row(unrolled(STEPS + 5, STEPS), geometric, from_best=True),
}
FACTS = {}


def facts_of(name):
    if name not in FACTS:
        FACTS[name] = Facts(CASES[name], bodies(CASES[name]))
    return FACTS[name]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("row", ROWS)
def test_table(row, name):
    row, facts = ROWS[row], facts_of(name)
    heads = [facts.problem.best_response(w) for w in facts.points] if row.from_best else None
    method, solver = row.make(facts)
    found = Point(facts.problem, facts.points, heads).gradient(method, solver)
    errors = (trees.flatten(found.body) - facts.gradient).norm(dim=1)
    assert (errors <= row.allowed(facts)).all(), (errors, row.allowed(facts))
    assert (found.status <= bilevel.Status.CONVERGED).all()
