"""Bounds on the errors of hypergradients against closed forms: methods times problems."""

import math

import pytest
import torch
from analytic_cases import CASES, Dense, bodies, close, flat
from linear_heads import Given, build, normal

import bilevel
from bilevel import trees
from bilevel.bounds.heads import Certifier
from bilevel.bounds.lipschitz import quadratic_constants
from bilevel.data.rows import Rows
from bilevel.derivatives.head_point import HeadPoint
from bilevel.derivatives.oracles import Oracles
from bilevel.hypergradients import AbstractHypergradient, BodyGradient
from problems.analytic import NAMES

METHODS = {
    "Envelope": lambda steps: bilevel.Envelope(),
    "Implicit by factor": lambda steps: bilevel.Implicit(),
    "Implicit by 2 products of CG": lambda steps: bilevel.Implicit(bilevel.CG(max_steps=2)),
    "Implicit by Dense": lambda steps: bilevel.Implicit(bilevel.Dense()),
    "Implicit by 5 terms of Neumann": lambda steps: bilevel.Implicit(bilevel.Neumann(5)),
    "Unrolled": lambda steps: bilevel.Unrolled(steps),
    "Unrolled, truncated": lambda steps: bilevel.Unrolled(steps, truncate=2),
    "PenaltyMethod": lambda steps: bilevel.PenaltyMethod(50.0),
    "PenaltyMethod, 3 steps": lambda steps: bilevel.PenaltyMethod(5.0, 3),
}
WELL = ["A1", "A4", "A5", "A6", "A8", "A9", "A10", "A11", "A12", "A13", "A14", "A14-tree",
        "A14-nonlinear", "A14-one", "A14-seed-10", "A14-seed-11", "A14-seed-12", "A14-seed-13",
        "A15-log", "A15-ridge"]  # fmt: skip
"""L / mu of at most 40, and a first order that does not vanish at the start."""
LARGEST_RATIO = 100


def solver(problem, body, steps):
    """Steps of at most 1 / L; None: exact."""
    if steps is None:
        return None
    smallest, largest = problem.curvature(body)
    largest = largest if math.isfinite(largest) else 20.0
    return bilevel.FastSGD((1.0 if largest > 1.5 * smallest else 0.7) / largest, steps)


def cell(problem, body, method, steps):
    """The error of a gradient, and what the library says of it."""
    found = bilevel.hypergradient(
        problem, body, METHODS[method](steps), solver=solver(problem, body, steps)
    )
    return float((found.body - problem.phi_gradient(body)).norm()), found


def runs(case, method):
    """The number of the body, and the steps of the head's solver: few, more, exact."""
    inexact_only = method.startswith("Unrolled") or case == "A9" or case[0] == "B"
    return [(0, 2), (0, 20), (1, 5)] + ([] if inexact_only else [(0, None)])


ALWAYS = {"Envelope", "Implicit by 2 products of CG"}
KINDS = {"A9", "A11", "A14", "A16", "B1"}
"""Problems on which every method is looked at by default; those of `ALWAYS` on the catalogue."""


def is_quick(case, method):
    return case in KINDS or (case in NAMES and method in ALWAYS)


CELLS = [
    pytest.param(case, method, marks=[] if is_quick(case, method) else pytest.mark.slow)
    for case in CASES
    for method in METHODS
    if method != "Envelope" or CASES[case].is_stackelberg
    if method != "PenaltyMethod" or case[0] == "A"  # which refuses boxes
]


@pytest.mark.parametrize(("case", "method"), CELLS)
def test_no_bound_is_below_the_error(case, method):
    problem = CASES[case]
    at = bodies(problem, 2)
    for number, steps in runs(case, method):
        error, found = cell(problem, at[number], method, steps)
        assert error <= found.bound
        # B5: the second coordinate of the head is on its bound, unpressed, but does not move with
        # the body, so that there is no kink; other bodies of the boxes may be close to one
        if case[0] == "A" or number == 0:
            assert found.bound_kind == ("estimated" if case == "B5" else "proven")
        if case in WELL and number == 0 and error > 1e-12:
            assert found.bound <= LARGEST_RATIO * error


@pytest.mark.parametrize("case", ["A1", "A9", "A11", "A14", "A16", "A13"])
def test_at_the_exact_head_the_bound_is_small(case):
    """Of the size of rounding, or of the tolerance that the head was solved to."""
    problem = CASES[case]
    inner = bilevel.FastSGD(0.05, 5000, tolerance=1e-13) if case == "A9" else None
    found = bilevel.hypergradient(problem, problem.start, bilevel.Implicit(), solver=inner)
    size = float(problem.phi_gradient(problem.start).norm())
    assert found.bound <= 1e-9 * (1 + size)


def shifted(problem, body, scale, seed=0):
    """theta* moved by `scale` in a random direction."""
    best = problem.best_response(body)
    direction = torch.randn(flat(best).shape, generator=torch.Generator().manual_seed(seed))
    moved = flat(best) + scale * direction.double() / direction.double().norm()
    single = trees.single(best)
    return trees.take(trees.unflatten(moved.unsqueeze(0), single), 0)


ORDERS = [
    ("A14", "Implicit by factor", 1),
    ("A16", "Implicit by factor", 1),
    ("A15-log", "Implicit by Dense", 1),
    ("A9", "Implicit by Dense", 1),
    ("A13", "Envelope", 1),
    ("A13", "Implicit by Dense", 2),  # where F is g, the first order cancels
]


@pytest.mark.parametrize(("case", "method", "order"), ORDERS)
def test_shrinking_the_head_error_shrinks_error_and_bound_at_the_order(case, method, order):
    problem = CASES[case]
    body = problem.start
    scales, errors, bounds = (1e-2, 1e-3), [], []
    for scale in scales:
        head = shifted(problem, body, scale)
        found = bilevel.hypergradient(problem, body, METHODS[method](1), solver=Given(head))
        errors.append(float((found.body - problem.phi_gradient(body)).norm()))
        bounds.append(found.bound)
        assert errors[-1] <= bounds[-1]
    assert math.log10(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)
    assert math.log10(bounds[0] / bounds[1]) == pytest.approx(order, abs=0.1)


def test_the_implicit_bound_is_the_formula():
    """From the constants of A16 and dense derivatives, by hand."""
    problem = CASES["A16"]
    body = problem.start
    head = shifted(problem, body, 0.1)
    found = bilevel.hypergradient(
        problem, body, bilevel.Implicit(bilevel.CG(max_steps=3)), solver=Given(head)
    )
    dense, e = Dense(problem, body), found.response.bound
    stated = problem.lipschitz(body, e)
    right = torch.func.grad(dense.F, 1)(dense.w, flat(head))
    hessian, cross = dense.hessian(flat(head)), dense.cross(flat(head))
    direct = torch.func.grad(dense.F, 0)(dense.w, flat(head))
    # v from the gradient: the cross derivative has full column rank
    v = torch.linalg.lstsq(cross, direct - flat(found.body)).solution
    close(cross @ v, direct - flat(found.body), 1e-12)
    residual = float((hessian @ v - right).norm())
    assert residual > 1e-3 * float(right.norm())
    length = float(v.norm())
    expected = (stated.body_gradient + length * stated.cross) * e
    bent = (stated.head_gradient + length * stated.hessian) * e
    expected += stated.cross_norm * (bent + residual) / found.response.mu
    assert found.bound == pytest.approx(expected, rel=1e-9)


class Silent(type(CASES["A14-nonlinear"])):
    """The same problem, whose constants nobody knows."""

    def known_curvature(self, body):
        return None

    def known_lipschitz(self, body, head, radius):
        return None


@pytest.mark.parametrize("scale", [1e-6, 1e-2, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_estimated_bounds_are_near_the_proven_ones(scale, seed):
    options = {"body": 4, "head": 6, "mu": 0.5, "largest": 5.0, "seed": seed, "nonlinear": True}
    known, silent = CASES["A14-nonlinear"].__class__(**options), Silent(**options)
    body = known.start
    head = shifted(known, body, scale, seed)
    proven, estimated = (
        bilevel.hypergradient(problem, body, bilevel.Implicit(), solver=Given(head))
        for problem in (known, silent)
    )
    error = float((proven.body - known.phi_gradient(body)).norm())
    assert (proven.bound_kind, estimated.bound_kind) == ("proven", "estimated")
    assert "estimated from differences" in estimated.note
    assert error <= proven.bound
    assert error <= estimated.bound  # no promise: here it holds
    assert 0.1 * proven.bound <= estimated.bound <= 10 * proven.bound


def quadratic(penalty=None, k=None, m=3):
    """F is g, features tanh(x W)."""
    n, d = 9, 2
    body = torch.as_tensor(normal(1, d, m))
    y = normal(3, n) if k is None else normal(3, n, k)
    options = {"features": lambda w, x: torch.tanh(x @ w), "body": body, "penalty": penalty}
    return build(normal(2, n, d), y, ridge=0.3, **options), body


PENALTIES = {
    "one ridge": (None, None),
    "two outputs": (None, 2),
    "a penalty of the body for each output": (
        lambda w: (w.mean(0).exp()[:, None] * torch.tensor([1.0, 3.0]).to(w)), 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PENALTIES)
def test_computed_constants_against_dense_derivatives(name):
    """|T| is never below |T(u, u)| in any direction, and at most its Frobenius norm."""
    penalty, k = PENALTIES[name]
    problem, body = quadratic(penalty, k)
    head = bilevel.best_response(problem, body).head
    rows = {"train": problem.data()["train"]}

    def slope(theta):
        at = theta.reshape(head.shape)
        return torch.func.grad(problem.head_objective)(body, at, rows).flatten()

    third = torch.func.jacrev(torch.func.jacrev(slope))(head.flatten())  # (d, P, P)
    cross = torch.func.jacrev(slope)(head.flatten())
    oracles, shared = Oracles(problem), Rows(rows, {"train": None})
    point = HeadPoint(oracles, body.unsqueeze(0), head.unsqueeze(0), shared)
    assert Certifier.for_problem(point).quadratic
    distance = torch.full((1,), 0.25, dtype=torch.float64)
    found = quadratic_constants(point, distance, distance)
    assert found.kind == "proven"
    directions = torch.randn(300, head.numel(), generator=torch.Generator().manual_seed(0)).double()
    directions = directions / directions.norm(dim=1, keepdim=True)
    seen = torch.einsum("ni,dij,nj->nd", directions, third, directions).norm(dim=1).amax()
    assert float(seen) <= float(found.cross) <= float(third.norm()) * (1 + 1e-9)
    norm = float(torch.linalg.matrix_norm(cross, 2))
    assert float(found.cross_norm - 0.25 * found.cross) == pytest.approx(norm, rel=1e-9)


@pytest.mark.parametrize("scale", [1e-6, 1e-2, 1.0])
@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("method", [bilevel.Envelope(), bilevel.Implicit()])
def test_quadratic_heads_are_proven_where_f_is_g(name, method, scale):
    problem, body = quadratic(*PENALTIES[name])
    exact = bilevel.hypergradient(problem, body).body
    best = bilevel.best_response(problem, body).head
    for seed in range(3):
        head = best + scale * torch.as_tensor(normal([seed, 8], *best.shape)) / best.numel() ** 0.5
        found = bilevel.hypergradient(problem, body, method, solver=Given(head))
        assert found.bound_kind == "proven"
        assert float((found.body - exact).norm()) <= found.bound


class Cubic(bilevel.StackelbergProblem):
    """Quadratic in the head at w = 0 and at no other body."""

    def data(self, seed=None):
        return {}

    def init_body(self, generator):
        return torch.zeros((), dtype=torch.float64)

    def init_head(self, generator):
        return torch.zeros(2, dtype=torch.float64)

    def head_objective(self, w, theta, batch):
        return 0.5 * (theta - 1).square().sum() + w * theta.pow(4).sum()


def test_a_head_that_is_quadratic_at_one_body_only_gives_no_proof():
    body = torch.zeros((), dtype=torch.float64)
    found = bilevel.hypergradient(Cubic(), body)
    assert found.response.bound_kind == "proven"  # of the head at this body it is one
    assert found.bound_kind == "estimated"


def test_a_box_is_settled_only_away_from_its_kinks():
    problem = CASES["B1"]
    for body, head, kind in [
        ([1.0, 0.25], [1.0 + 1e-3, 0.5], "proven"),
        ([0.501, 0.25], [0.5005, 0.5], "unknown"),  # theta*_1 may lie on the bound
        ([1.0, 0.4999], [1.1, 0.5], "unknown"),  # theta*_2 may leave it
        ([1.0, 0.25], [1.0, 0.6], "unknown"),  # free here, held at theta*
    ]:
        body, head = (torch.tensor(x, dtype=torch.float64) for x in (body, head))
        found = bilevel.hypergradient(problem, body, bilevel.Implicit(), solver=Given(head))
        assert found.bound_kind == kind
        if kind == "proven":
            assert float((found.body - problem.phi_gradient(body)).norm()) <= found.bound


def test_float32_gradients_are_bounded_with_their_rounding():
    problem = CASES["A11"]
    body = torch.tensor([0.3, -0.7])
    found = bilevel.hypergradient(problem, body, bilevel.Implicit(bilevel.CG(1e-6)))
    exact = problem.phi_gradient(body.double())
    error = float((found.body.double() - exact).norm())
    assert found.bound_kind == "proven"
    assert 1e-9 < error <= found.bound < 1e-5


def test_a_refined_head_is_bounded_where_it_was_moved_to():
    problem = CASES["A14-seed-10"]
    rough = bilevel.FastSGD(0.05, 3)
    refined = bilevel.Implicit(bilevel.CG(), tolerance=1e-12, on_inexact="refine")
    found = bilevel.hypergradient(problem, problem.start, refined, solver=rough)
    error = float((found.body - problem.phi_gradient(problem.start)).norm())
    assert error <= found.bound < 1e-9
    assert found.response.bound < 1e-9


class Wrong(AbstractHypergradient):
    """A method of somebody else: the right gradient times 1.5."""

    def check(self, problem, solver):
        pass

    def gradient(self, oracles, body, answer, rows, state):
        made = bilevel.Implicit().gradient(
            oracles, body, answer, rows, trees.tree_map(torch.zeros_like, answer.head)
        )
        return BodyGradient(trees.tree_map(lambda x: 1.5 * x, made.body), made.status)

    cost = bilevel.Cost()


@pytest.mark.parametrize("case", ["A5", "A14", "A16", "A13"])
def test_a_wrong_method_is_found_out_by_its_bound(case):
    problem = CASES[case]
    found = bilevel.hypergradient(problem, problem.start, Wrong())
    size = float(problem.phi_gradient(problem.start).norm())
    assert found.bound_kind == "proven"
    assert 0.5 * size <= found.bound <= 0.5 * size * (1 + 1e-6) + 1e-9


def test_rows_of_ones_own_are_not_what_the_problem_states():
    problem = CASES["A15-ridge"]
    rows = {name: bilevel.Batch(*(x[:9] for x in rows)) for name, rows in problem.data().items()}
    whole = bilevel.hypergradient(problem, problem.start)
    part = bilevel.hypergradient(problem, problem.start, batch=rows)
    assert (whole.bound_kind, part.bound_kind) == ("proven", "estimated")


def test_stated_curvature_proves_the_bound_of_a_head_that_is_not_quadratic():
    problem, body = CASES["A9"], CASES["A9"].start
    for theta in (-1.0, 0.5, 2.0):
        head = torch.tensor(theta, dtype=torch.float64)
        found = bilevel.best_response(problem, body, Given(head))
        assert found.bound_kind == "proven"
        assert found.mu == 1.0
        assert abs(theta - 1.0) <= found.bound
    assert bilevel.best_response(Silent(), Silent().start).bound_kind == "proven"  # quadratic
