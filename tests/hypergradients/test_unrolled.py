"""Unrolled gradients: the reverse recursion against autograd through the same steps."""

import itertools
import weakref

import pytest
import torch
from points import Custom, Point, gradient, number

import bilevel
from bilevel import (
    CG,
    Ball,
    Box,
    ClosedForm,
    FastSGD,
    Implicit,
    L1Ball,
    Polynomial,
    Simplex,
    Status,
    Unrolled,
    trees,
)
from bilevel.errors import ArgumentError, IncompatibleError
from problems.analytic import FeatureRegression, RandomQuadratic, analytic

PROBLEMS = {
    "0-dim": analytic("A8"),
    "not quadratic": analytic("A9"),
    "tree": RandomQuadratic(3, 5, 0.3, 4.0, seed=1, tree=True, nonlinear=True),
    "rows": FeatureRegression(train=7, features=4, validation=5),
    "box": analytic("B2"),
    "half box": analytic("B5"),
    "moving bounds": Custom(
        lambda w, t: (t * number(1.0, 2.0, -1.0)).sum() + w * t[0],
        lambda w, t: ((t - w * number(1.0, 2.0, 0.3)) ** 2).sum() + t[0] * t[1] + t[2] ** 4,
        [0.1, 0.9, -0.5], 0.6, Box(-0.4, 0.9),
    ),
}  # fmt: skip
PROBLEMS |= {
    name: Custom(
        lambda w, t: (t * number(1.0, 2.0, -1.0)).sum() + w * t[0],
        lambda w, t: ((t - w * number(1.0, 2.0, 0.3)) ** 2).sum() + t[0] * t[1] + t[2] ** 4,
        head, 0.6, head_set,
    )
    for name, head, head_set in [
        ("ball", [0.1, 0.9, -0.5], Ball(0.7)),
        ("ball from inside", [0.1, -0.1, 0.2], Ball(0.7)),
        ("simplex", [0.2, 0.1, 0.7], Simplex()),
        ("l1 ball", [0.1, 0.4, -0.4], L1Ball(0.8)),
        ("l1 ball from inside", [0.0, 0.1, -0.1], L1Ball(0.8)),
    ]
}  # fmt: skip
RATES = {"constant": 0.07, "schedule": Polynomial(0.1, 0.5)}


def through_autograd(problem, body, head, solver, first=0):
    """d/dw F(w, theta_K(w)) by a graph through the steps from number `first` on."""
    rows, w = problem.data(), body.clone().requires_grad_()
    rows = {name: group for name, group in rows.items() if name != "test"}
    head = trees.tree_map(lambda leaf: leaf.clone().requires_grad_(), head)
    for j in range(solver.steps):
        inner = trees.leaves(head)
        value = problem.head_objective(w, head, rows)
        slopes = torch.autograd.grad(value, inner, create_graph=True, materialize_grads=True)
        rate = float(solver.lr(j))
        moved = [leaf - rate * slope for leaf, slope in zip(inner, slopes, strict=True)]
        head = trees.rebuild(head, moved)
        head = trees.take(problem.head_set.project(trees.single(head)), 0)
        if j + 1 == first:
            head = trees.tree_map(lambda leaf: leaf.detach().requires_grad_(), head)
    value = problem.body_objective(w, head, rows)
    return torch.autograd.grad(value, w)[0]


@pytest.mark.parametrize(
    ("rate", "truncate"),
    [*itertools.product(["constant"], [None, 1, 4, 9, 50]), ("schedule", None), ("schedule", 4)],
)
@pytest.mark.parametrize("name", PROBLEMS)
def test_against_autograd_through_the_steps(name, rate, truncate):
    """At any number of steps, far from convergence, and with projections."""
    problem, solver = PROBLEMS[name], FastSGD(RATES[rate], 9)
    drawn = [torch.Generator().manual_seed(seed) for seed in range(2)]
    bodies = [problem.init_body(source) for source in drawn]
    heads = [problem.init_head(source) for source in drawn]
    found = Point(problem, bodies, heads).gradient(Unrolled(9, truncate), solver)
    first = 0 if truncate is None else max(0, 9 - truncate)
    for run in range(2):
        expected = through_autograd(problem, bodies[run], heads[run], solver, first)
        torch.testing.assert_close(found.body[run], expected, rtol=1e-11, atol=1e-13)
    assert (found.status == Status.COMPLETED).all()


@pytest.mark.parametrize("steps", [1, 5, 20])
def test_the_rate_is_attained(steps):
    """One number: the error is |g_wt| |F_t| (1 - eta mu)^K / mu, and has a sign."""
    problem, w = analytic("A4"), number(1.0)  # mu = 2, g_wt = -2, F_t = 4, theta* = 1
    point = Point(problem, [w], [number(1.0)])
    found = point.gradient(Unrolled(steps), FastSGD(0.1, steps))
    assert float(found.body) - 4 == pytest.approx(-4 * 0.8**steps, rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("steps", [10, 40, 160])
def test_the_rate_from_any_start(steps, seed):
    """Quadratic heads, r = 1 - eta mu, eta <= 1 / L, e the error of the start:

    |error| <= r^K (L_Fw e + B (L_Ft e + |p_K|) / mu) + eta K r^(K-1) L_gwt e |p_K|
    """
    problem = RandomQuadratic(4, 6, 0.4, 5.0, seed=seed, nonlinear=seed % 2 == 1)
    w = problem.start
    best = problem.best_response(w)
    bend, start = problem.curvature(w), best + 1
    distance, eta = 6**0.5, 1 / bend.largest
    facts = problem.lipschitz(w, 0.0)
    point = Point(problem, [w], [start])
    solver = FastSGD(eta, steps)
    found = point.gradient(Unrolled(steps), solver)
    last = point.solved(solver).head
    slope = float(point.oracles.body_gradients(point.body, last, point.rows)[1].norm())
    rate = 1 - eta * bend.smallest
    bound = (
        rate**steps
        * (
            facts.body_gradient * distance
            + facts.cross_norm * (facts.head_gradient * distance + slope) / bend.smallest
        )
        + eta * steps * rate ** (steps - 1) * facts.cross * distance * slope
    )
    exact = problem.phi_gradient(w)
    assert (found.body[0] - exact).norm() <= bound + 1e-12 * exact.norm()


def test_in_a_training_the_steps_are_those_that_were_made():
    """With rows drawn for inner steps: by hand, from the heads and rows of each body step."""
    problem, steps = FeatureRegression(train=12, features=4, validation=5), 3
    solver = FastSGD(0.3, steps, batch_size=2)
    strategy = bilevel.BestResponse(0.2, solver, Unrolled(steps), bilevel.SGD())
    options = {"batch_size": None, "seeds": [5], "dtype": torch.float64, "every": 100}
    at = [bilevel.solve(problem, strategy, steps=k, **options) for k in (1, 2, 3)]
    start = at[0].state.strategy.start  # where the head of the state was solved from
    data = bilevel.data.training_data.TrainingData(problem, [5], torch.float64, "cpu")
    sampler = bilevel.data.sampler.Sampler(data, None, ("train", "validation"))
    for k in (1, 2):
        w = at[k - 1].body[0].clone().requires_grad_()
        theta = at[k - 1].state.strategy.start[0]
        for j in range(steps):
            index = sampler.indices("train", 2, k * steps + j, stream="head")[0]
            groups = problem.data()
            groups["train"] = trees.tree_map(lambda leaf, i=index: leaf[i], groups["train"])
            theta = theta.requires_grad_() if j == 0 else theta
            value = problem.head_objective(w, theta, groups)
            theta = theta - 0.3 * torch.autograd.grad(value, theta, create_graph=True)[0]
        torch.testing.assert_close(theta[None], at[k - 1].head, rtol=1e-12, atol=1e-14)
        value = problem.body_objective(w, theta, problem.data())
        moved = w - 0.2 * torch.autograd.grad(value, w)[0]
        torch.testing.assert_close(moved[None], at[k].body, rtol=1e-12, atol=1e-14)
    assert not torch.equal(start, at[0].head)


# memory


def kept_heads(method, solver):
    """How many heads of the solver's path are still alive when a call begins to go back."""
    problem = RandomQuadratic(3, 5, 0.5, 4.0)
    point, seen, alive = Point(problem, [problem.start]), [], []
    gradient, product = point.oracles.head_gradient, point.oracles.head_hvp

    def noted(body, head, rows):
        seen.append(weakref.ref(head))
        return gradient(body, head, rows)

    def counted(*given):
        alive.append(len({id(ref()) for ref in seen if ref() is not None}))
        return product(*given)

    point.oracles.head_gradient, point.oracles.head_hvp = noted, counted
    point.gradient(method, solver)
    assert len(seen) > solver.steps
    return max(alive)


@pytest.mark.parametrize("steps", [10, 40])
def test_unrolled_holds_a_head_per_step_and_implicit_none(steps):
    solver = FastSGD(0.1, steps)
    assert kept_heads(Unrolled(steps), solver) - steps in (0, 1)  # and the one it ends with
    assert kept_heads(Unrolled(steps, 7), solver) - 7 in (0, 1, 2)  # and its start
    assert kept_heads(Implicit(CG(), tolerance=1.0), solver) == 2  # its start and its end


# sets of heads


def test_a_set_of_ones_own_must_say_its_derivative():
    class Slab(bilevel.ConvexSet):
        """|theta_0 + theta_1| <= 1."""

        def project(self, tree):
            over = tree.sum(1, keepdim=True)
            return tree - (over - over.clamp(-1.0, 1.0)) / 2

    class Known(Slab):
        def linearised(self, tree):
            outside = (tree.sum(1, keepdim=True).abs() > 1).to(tree)
            return self.project(tree), lambda v: v - outside * v.mean(1, keepdim=True)

    def problem(head_set):
        return Custom(
            lambda w, t: t[0] - 3 * t[1] * w,
            lambda w, t: ((t - torch.stack([w, 2 * w])) ** 2).sum() / 2,
            [0.0, 0.1], 1.5, head_set,
        )  # fmt: skip

    solver, w = FastSGD(0.5, 60), number(1.5)
    with pytest.raises(IncompatibleError, match=r"Slab does not say.*Define `linearised"):
        gradient(problem(Slab()), Unrolled(60), solver, w)
    found = gradient(problem(Known()), Unrolled(60), solver, w)
    # theta* = (1 - w, 1 + w) / 2
    expected = -0.5 - 3 * (1 + w) / 2 - 3 * w / 2
    assert float(found.body) == pytest.approx(float(expected), rel=1e-12)
    assert found.bound_kind == "unknown"


# mistakes


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        (ClosedForm(), r"plain steps of FastSGD without `tolerance`, not ClosedForm.*Implicit"),
        (FastSGD(0.1, 5, tolerance=1e-3), r"without `tolerance`.*FastSGD\(lr, steps=5\)"),
        (FastSGD(0.1, 6), r"Unrolled\(steps=5\) does not fit FastSGD with steps=6.*`truncate`"),
        (None, r"plain steps of FastSGD"),
    ],
)
def test_other_head_solvers_are_refused(solver, message):
    problem = analytic("A4")
    with pytest.raises(IncompatibleError, match=message):
        gradient(problem, Unrolled(5), solver, problem.start)
    with pytest.raises(IncompatibleError, match=message):
        bilevel.solve(problem, bilevel.BestResponse(0.1, solver, Unrolled(5)), steps=2, seeds=2)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ((0,), "steps"),
        ((-3,), "steps"),
        ((2.0,), "steps"),
        ((True,), "steps"),
        ((5, 0), "truncate"),
        ((5, 1.5), "truncate"),
        ((5, True), "truncate"),
    ],
)
def test_wrong_arguments(given, name):
    with pytest.raises(ArgumentError, match=f"`{name}` must be a positive integer"):
        Unrolled(*given)


def test_steps_that_diverge_are_reported():
    problem = analytic("A4")
    found = gradient(problem, Unrolled(700), FastSGD(2.0, 700), number(1.0))
    assert found.status is Status.DIVERGED
    assert bool(found.body.isnan())


def test_what_it_costs():
    assert Unrolled(7).cost == (8, 14, 0, 0)
    assert Unrolled(7, 3).cost == (8, 6, 0, 0)
    assert Unrolled(7, 30).cost == Unrolled(7).cost
