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
from bilevel import CG, ClosedForm, FastSGD, Implicit, Neumann, PenaltyMethod, Unrolled, trees
from bilevel.linear import Dense as DenseSolver
from problems.analytic import NAMES, RandomQuadratic, analytic

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


def penalised(facts):
    """Projected steps on the boxes, whose curvatures are alike."""
    steps = 400 if facts.problem.name in BOXES else None
    return PenaltyMethod(1e6, steps), exact_solver(facts.problem)


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
    "PenaltyMethod": Row(penalised, lambda facts: 5e-2 * facts.gradient.norm(dim=1)),
    "Unrolled": Row(unrolled(STEPS), geometric, from_best=True),
    "Unrolled truncated": Row(unrolled(STEPS + 5, STEPS), geometric, from_best=True),
}
FACTS = {}


def facts_of(name):
    if name not in FACTS:
        FACTS[name] = Facts(CASES[name], bodies(CASES[name]))
    return FACTS[name]


ALWAYS = {"factor", "CG", "Unrolled"}
KINDS = {"A1", "A5", "A9", "A11", "A14", "A15-log", "A16", "B1", "A14-nonlinear-tree", "A14-1e4"}
"""Problems for every method by default; those of `ALWAYS` are tried on all of them."""
TABLE = [
    pytest.param(row, name, marks=[] if row in ALWAYS or name in KINDS else pytest.mark.slow)
    for row in ROWS
    for name in CASES
]


@pytest.mark.parametrize(("row", "name"), TABLE)
def test_table(row, name):
    row, facts = ROWS[row], facts_of(name)
    heads = [facts.problem.best_response(w) for w in facts.points] if row.from_best else None
    method, solver = row.make(facts)
    found = Point(facts.problem, facts.points, heads).gradient(method, solver)
    errors = (trees.flatten(found.body) - facts.gradient).norm(dim=1)
    assert (errors <= row.allowed(facts)).all(), (errors, row.allowed(facts))
    assert (found.status <= bilevel.Status.CONVERGED).all()


def test_the_table_has_every_problem_and_no_gradient_of_zero():
    assert set(NAMES) <= set(CASES)
    for name in CASES:
        facts = facts_of(name)
        assert (facts.gradient.norm(dim=1) > 1e-6).all()
        if name not in ("A3", "A13", "B7"):  # where there is no implicit term
            assert (facts.cross * facts.head_slope > 0).any()


# references that share nothing with the formulas of the problems


def newton_response(problem, body, steps):
    """theta*(w) as a graph: Newton steps from zero, and the projection of isotropic heads."""
    start = Dense(problem, body)
    theta = torch.zeros_like(start.theta)

    def g(theta):
        return problem.head_objective(body, shaped(theta, start.head), problem.rows())

    for _ in range(steps):
        slope, bend = torch.func.grad(g)(theta), torch.func.jacrev(torch.func.grad(g))(theta)
        theta = theta - torch.linalg.solve(bend, slope)
    return problem.head_set.project(shaped(theta, start.head))


def phi_by_newton(problem, steps):
    def phi(body):
        return problem.body_objective(body, newton_response(problem, body, steps), problem.rows())

    return phi


@pytest.mark.parametrize("name", [name for name in CASES if name != "A14"])
def test_against_autograd_through_a_dense_solve(name):
    facts = facts_of(name)
    phi = phi_by_newton(facts.problem, 8 if name == "A9" else 1)
    expected = torch.stack([flat(torch.func.grad(phi)(w)) for w in facts.points])
    found = Point(facts.problem, facts.points).gradient(Implicit(), exact_solver(facts.problem))
    errors = (trees.flatten(found.body) - expected).norm(dim=1)
    assert (errors <= 1e-8 * expected.norm(dim=1)).all()


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("A14-seed")])
def test_against_differences_of_phi_with_heads_solved_anew(name):
    problem, w = CASES[name], CASES[name].start
    draw = torch.Generator().manual_seed(0)
    direction = torch.randn(w.shape, generator=draw, dtype=torch.float64)
    step = 1e-3 / float(direction.norm()) * (1 + float(w.norm()))
    shifts = [-2, -1, 1, 2]
    point = Point(problem, [w + s * step * direction for s in shifts])
    largest = Facts(problem, [w]).largest
    solver = FastSGD(1 / largest, 400) if name in NO_CLOSED_FORM else ClosedForm()
    values = point.oracles.body_value(point.body, point.solved(solver).head, point.rows)
    weights = numbers([1, -8, 8, -1])
    expected = float((weights * values).sum()) / (12 * step)
    found = bilevel.hypergradient(problem, w, Implicit(), solver=exact_solver(problem)).body
    scale = float(found.norm() * direction.norm()) + float(values.abs().max())
    assert abs(float((found * direction).sum()) - expected) <= 1e-7 * scale


# kinks


KINKS = {
    "B1": [numbers([0.5, 0.5]), numbers([0.5, 1.0]), numbers([1.5, 0.5])],
    "B5": [torch.tensor(0.0, dtype=torch.float64)],
}
METHODS = [
    pytest.param(Implicit(), Known(), id="Implicit"),
    pytest.param(Implicit(CG()), Known(), id="CG"),
    pytest.param(Unrolled(60), FastSGD(0.25, 60), id="Unrolled"),
]


@pytest.mark.parametrize(("method", "solver"), METHODS)
@pytest.mark.parametrize("name", KINKS)
def test_beside_a_kink_gradients_are_the_one_sided_derivatives(name, method, solver):
    problem = analytic(name)
    for kink in KINKS[name]:
        ways = [d for d in directions(kink) if (d.abs() > 0.01).all()]  # leave both bounds
        near = [kink + 1e-7 * way for way in ways]
        heads = [problem.best_response(w) for w in near]
        found = Point(problem, near, heads).gradient(method, solver).body
        for way, slope in zip(ways, found, strict=True):
            expected = float(problem.directional_derivative(kink, way))
            assert float((slope * way).sum()) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("method", "solver"), METHODS)
@pytest.mark.parametrize("name", KINKS)
def test_at_a_kink_the_gradient_is_a_one_sided_derivative(name, method, solver):
    problem = analytic(name)
    for kink in KINKS[name]:
        point = Point(problem, [kink], [problem.best_response(kink)])
        found = point.gradient(method, solver).body[0].reshape(-1)
        for i, slope in enumerate(found.tolist()):
            axis = shaped(torch.eye(len(found)).double()[i], kink)
            sides = [s * float(problem.directional_derivative(kink, s * axis)) for s in (1, -1)]
            assert min(abs(slope - side) for side in sides) <= 1e-12
