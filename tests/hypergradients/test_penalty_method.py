"""PenaltyMethod against theta_s by Newton steps on F + s g, and what becomes of its bias."""

import pytest
import torch
from analytic_cases import CASES, Dense, bodies, flat
from drawn_heads import KINDS, Drawn, Held
from points import Known, Point

import bilevel
from bilevel import ClosedForm, FastSGD, PenaltyMethod, trees
from bilevel.core.status import Status
from bilevel.errors import ArgumentError, IncompatibleError
from bilevel.hypergradients import Answer

OPEN = [name for name in CASES if name.startswith("A")]
STIFF = ["A14-stiff"]
"""There d2 F / d theta2 is not small beside 100 H."""


def solver(name):
    return Known() if name == "A9" else ClosedForm()


def gradient(name, body, method):
    return Point(CASES[name], [body]).gradient(method, solver(name))


def reference(problem, w, s):
    """d_w F(theta_s) + s (d_w g(theta_s) - d_w g(theta*)), theta_s by Newton steps."""
    dense = Dense(problem, w)

    def both(theta):
        return dense.F(dense.w, theta) + s * dense.g(dense.w, theta)

    theta = dense.theta
    for _ in range(8):
        slope, bend = torch.func.grad(both)(theta), torch.func.jacrev(torch.func.grad(both))(theta)
        theta = theta - torch.linalg.solve(bend, slope)
    in_body = torch.func.grad(dense.F)(dense.w, theta)
    there, here = (torch.func.grad(dense.g)(dense.w, at) for at in (theta, dense.theta))
    return in_body + s * (there - here)


@pytest.mark.parametrize("s", [3.0, 100.0, 3000.0])
@pytest.mark.parametrize("name", OPEN)
def test_against_newton_steps_on_both_objectives(name, s):
    for w in bodies(CASES[name], 2):
        found = gradient(name, w, PenaltyMethod(s))
        expected = reference(CASES[name], w, s)
        assert found.status.tolist() == [Status.COMPLETED]
        off = (trees.flatten(found.body)[0] - expected).norm()
        assert off <= (1e-8 + 1e-11 * s) * (1 + expected.norm())


@pytest.mark.parametrize("name", OPEN)
def test_the_bias_halves_when_the_multiplier_doubles(name):
    w = bodies(CASES[name], 2)[1]
    exact = flat(CASES[name].phi_gradient(w))
    biases = [
        float((trees.flatten(gradient(name, w, PenaltyMethod(s)).body)[0] - exact).norm())
        for s in (1.0, 2.0, 100.0, 200.0, 400.0)
    ]
    if name in ("A3", "A13"):  # there is no implicit term, or F is g
        assert max(biases) <= 1e-9
        return
    if name in STIFF:
        assert biases[3] / biases[2] > 0.55
        return
    assert biases[3] / biases[2] == pytest.approx(0.5, rel=0.05)
    assert biases[4] / biases[3] == pytest.approx(0.5, rel=0.05)
    assert biases[2] > 1e-4 * exact.norm()


KINDS = [kind for kind in KINDS if not kind.startswith("huber")]


@pytest.mark.parametrize("tasks", [None, 3])
@pytest.mark.parametrize("bias", ["no", "penalised"])
@pytest.mark.parametrize("kind", KINDS)
def test_linear_heads_of_every_kind(kind, bias, tasks):
    """Led by the factor of the head, or without one: the same; and close to grad Phi."""
    problem = Held(kind, bias, tasks=tasks)
    body = problem.init_body(None)
    exact = bilevel.hypergradient(problem, body).body
    size = float(trees.norm(trees.single(exact)))
    for s, allowed in ((1e3, 3e-2), (1e5, 3e-4)):
        found = bilevel.hypergradient(problem, body, PenaltyMethod(s))
        off = trees.tree_map(torch.sub, found.body, exact)
        error = float(trees.norm(trees.single(off)))
        assert 0 < error <= allowed * size
        assert error <= found.bound
        plain = FastSGD(0.3, 4000)
        other = bilevel.hypergradient(problem, body, PenaltyMethod(s), solver=plain)
        for one, another in zip(found.body.values(), other.body.values(), strict=True):
            torch.testing.assert_close(one, another, rtol=0, atol=1e-10 * s * size)


def test_where_f_is_g_it_is_the_envelope():
    problem = Drawn("squared", "free")
    body = problem.init_body(None)
    found = bilevel.hypergradient(problem, body, PenaltyMethod(100.0)).body
    expected = bilevel.hypergradient(problem, body, bilevel.Envelope()).body
    for one, other in zip(found.values(), expected.values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)


def test_second_derivatives_are_not_taken(monkeypatch):
    problem = Held("squared")
    taken = []
    for name in ("head_hvp", "cross_vjp", "head_hessian", "head_products"):
        monkeypatch.setattr(
            bilevel.derivatives.oracles.Oracles, name, lambda *a, name=name: taken.append(name)
        )
    point = Point(Held("squared"), [problem.init_body(None)])
    at = point.body, point.head, point.rows
    for method in (PenaltyMethod(100.0), PenaltyMethod(100.0, 5)):
        state = method.init(point.oracles, *at)
        answer = Answer(point.head, FastSGD(0.1, 1), point.head, 0)
        method.gradient(point.oracles, point.body, answer, point.rows, state)
    assert not taken


@pytest.mark.parametrize("name", ["B1", "B2"])
def test_projected_steps_on_boxes(name):
    problem = CASES[name]
    w = bodies(problem, 1)[0]
    exact = flat(problem.phi_gradient(w))
    errors = []
    for s in (100.0, 200.0):
        found = Point(problem, [w]).gradient(PenaltyMethod(s, 1000), Known())
        errors.append(float((trees.flatten(found.body)[0] - exact).norm()))
    assert errors[0] <= 0.1 * (1 + exact.norm())
    assert errors[1] <= 0.53 * errors[0] + 1e-9


def test_steps_that_go_on_from_the_last_ones_follow_the_exact_ones():
    """A few inner steps for each step of the body: theta_s keeps up, and the bodies agree."""
    problem, ends = Held("squared", "penalised"), {}
    start = trees.norm(trees.single(bilevel.hypergradient(problem, problem.init_body(None)).body))
    for inner_steps in (None, 1, 10):
        method = PenaltyMethod(300.0, inner_steps)
        strategy = bilevel.BestResponse(0.03, gradient=method, optimizer=bilevel.SGD())
        solution = bilevel.solve(
            problem, strategy, steps=60, seeds=1, batch_size=None, every=60, dtype=torch.float64
        )
        assert solution.status[0] is Status.COMPLETED
        ends[inner_steps] = trees.take(solution.body, 0)
    left = bilevel.hypergradient(problem, ends[None]).body
    assert trees.norm(trees.single(left)) <= 0.3 * start
    apart = [
        float(trees.norm(trees.single(trees.tree_map(torch.sub, ends[few], ends[None]))))
        for few in (1, 10)
    ]
    assert apart[1] < 0.2 * apart[0]
    assert apart[1] <= 0.01


@pytest.mark.parametrize("inner_steps", [None, 5])
def test_runs_of_one_training_have_multipliers_of_their_own(inner_steps):
    problem = Held("squared, outputs", "free")

    def train(multiplier, seeds):
        method = PenaltyMethod(multiplier, inner_steps)
        strategy = bilevel.BestResponse(0.01, gradient=method, optimizer=bilevel.SGD())
        return bilevel.solve(
            problem, strategy, steps=5, batch_size=6, seeds=seeds, every=5, dtype=torch.float64
        ).body

    together = train(torch.tensor([30.0, 300.0], dtype=torch.float64), [4, 7])
    for run, (multiplier, seed) in enumerate([(30.0, 4), (300.0, 7)]):
        alone = train(multiplier, [seed])
        for name, leaf in together.items():
            torch.testing.assert_close(leaf[run], alone[name][0], rtol=1e-8, atol=1e-9)


def test_float32_is_as_good_as_rounding_lets_it_be():
    problem = Held("squared", "penalised")
    body = problem.init_body(None)
    double = bilevel.hypergradient(problem, body, PenaltyMethod(100.0)).body
    strategy = bilevel.BestResponse(0.1, gradient=PenaltyMethod(100.0), optimizer=bilevel.SGD())
    ends = [
        bilevel.solve(problem, strategy, steps=3, seeds=1, batch_size=None, dtype=dtype)
        for dtype in (torch.float64, torch.float32)
    ]
    for name, leaf in ends[0].body.items():
        torch.testing.assert_close(ends[1].body[name].double(), leaf, rtol=0, atol=2e-3)
    assert all(end.status[0] is Status.COMPLETED for end in ends)
    assert double


def test_a_solve_that_does_not_get_there_says_so(monkeypatch):
    monkeypatch.setattr(bilevel.hypergradients.penalty_method, "MOST", 1)
    problem = Held("softmax", "penalised")
    found = bilevel.hypergradient(problem, problem.init_body(None), PenaltyMethod(1.0))
    assert found.status is Status.NOT_CONVERGED


def test_what_is_refused():
    problem = CASES["B1"]
    with pytest.raises(IncompatibleError, match=r"without a set of heads.*Box.*`inner_steps`"):
        bilevel.hypergradient(problem, problem.start, PenaltyMethod(100.0))
    restricted = bilevel.Cvxpy(constraints=lambda head: [head[0] >= 0])
    held = Held("squared")
    with pytest.raises(IncompatibleError, match=r"constraints of its own.*PenaltyMethod"):
        bilevel.hypergradient(held, held.init_body(None), PenaltyMethod(9.0), solver=restricted)
    for wrong in (0.0, -1.0, "large"):
        with pytest.raises(ArgumentError, match="`multiplier`"):
            PenaltyMethod(wrong)
    with pytest.raises(ArgumentError, match="`inner_steps`"):
        PenaltyMethod(100.0, 0)
