"""Heads by cvxpy: against closed forms, active sets, optimality conditions and other solvers."""

import concurrent.futures
import copy

import cvxpy
import numpy as np
import pytest
import torch
from convex_heads import RADIUS, sets, violation
from linear_heads import ONE, build, dense, normal
from scipy.optimize import lsq_linear
from small_problems import Smooth

import bilevel
from bilevel import ClosedForm, Cvxpy, Status
from bilevel.heads.convex import compiled
from bilevel.testing import check_head_solver


def table(rows=60, columns=5, outputs=None):
    """Features and targets with heads of about 0.1."""
    z = normal([rows, columns], rows, columns)
    return z, normal([rows, 8], rows) if outputs is None else normal([rows, 8], rows, outputs)


PLAIN = {
    "vector": (table(), {"ridge": 0.01}),
    "outputs": (table(outputs=3), {"ridge": 0.01}),
    "bias": (table(outputs=2), {"ridge": 0.01, "fit_bias": True}),
    "weights": (table(), {"row_weights": lambda w, b: torch.linspace(0.1, 2, 60).double()}),
    "by output": (table(outputs=2), {"penalty": lambda w: torch.arange(1.0, 11).reshape(5, 2)}),
    "n < M": (table(4, 9), {"ridge": 1e-3}),
    "body-free": (table(), {"ridge": 0.01, "body_free_features": True}),
}  # fmt: skip


@pytest.mark.parametrize("case", PLAIN)
def test_without_constraints_heads_are_those_of_the_closed_form(case):
    (z, y), options = PLAIN[case]
    problem = build(z, y, **options)
    found = bilevel.best_response(problem, 1.3 * ONE, Cvxpy())
    assert found.status is Status.CONVERGED
    expected = bilevel.best_response(problem, 1.3 * ONE, ClosedForm()).head
    # of few rows the one factors their kernel, the other the Hessian, of condition 1e4
    rtol = 1e-9 if case == "n < M" else 1e-11
    torch.testing.assert_close(found.head, expected, rtol=rtol, atol=1e-13)


def test_two_thousand_rows_in_a_box_against_an_active_set():
    """scipy's lsq_linear(method="bvls") on all rows; tolerance of the requirement 1e-6."""
    z, y = normal(1, 2000, 32), normal(2, 2000)
    y, ridge = y + z @ normal(5, 32), 1e-3
    problem = build(z, y, ridge=ridge, head_set=bilevel.Box(-0.5, 0.5))
    found = bilevel.best_response(problem, ONE, Cvxpy())
    rows = np.vstack([z / np.sqrt(2000), np.sqrt(ridge) * np.eye(32)])
    right = np.concatenate([y / np.sqrt(2000), np.zeros(32)])
    expected = lsq_linear(rows, right, (-0.5, 0.5), method="bvls", tol=1e-14).x
    np.testing.assert_allclose(found.head, expected, rtol=0, atol=1e-11)
    # at the bounds, not near them
    assert ((found.head.abs() == 0.5).numpy() == (np.abs(expected) == 0.5)).all()
    assert 0.2 < float((found.head.abs() == 0.5).double().mean()) < 0.9


@pytest.mark.parametrize("name", sets())
@pytest.mark.parametrize("outputs", [None, 2])
def test_heads_in_sets_satisfy_the_optimality_conditions(name, outputs):
    z, y = table(outputs=outputs)
    problem = build(z, y, ridge=0.01, head_set=sets()[name])
    found = bilevel.best_response(problem, ONE, Cvxpy())
    assert found.status is Status.CONVERGED
    assert found.words == "CLARABEL: optimal"
    matrix, moment = dense(z, y, None, 0.01)
    head = found.head.numpy().reshape(5, -1)
    slope = np.einsum("kij,jk->ik", matrix, head) - moment.T
    assert violation(name, head, slope) <= 1e-13


def test_ill_conditioned_heads_in_a_box_are_exact_too():
    """H has condition 1e8, where interior points are off by 1e-4: Newton steps finish."""
    z = normal(1, 80, 12) * np.logspace(0, -3, 12) @ np.linalg.qr(normal(2, 12, 12))[0]
    y = z @ normal(3, 12) + 0.01 * normal(4, 80)
    problem = build(z, y, ridge=1e-9, head_set=bilevel.Nonnegative())
    found = bilevel.best_response(problem, ONE, Cvxpy())
    rows = np.vstack([z / np.sqrt(80), np.sqrt(1e-9) * np.eye(12)])
    expected = lsq_linear(
        rows, np.concatenate([y / np.sqrt(80), np.zeros(12)]), (0, np.inf), method="bvls", tol=1e-15
    ).x
    assert found.status is Status.CONVERGED
    np.testing.assert_allclose(found.head, expected, rtol=0, atol=1e-8 * np.abs(expected).max())


@pytest.mark.parametrize("kind", ["box", "nonnegative", "ball", "simplex", "l1 ball"])
def test_heads_of_all_scales_are_exact(kind):
    """Features and targets over six orders of magnitude, fewer rows than features among them."""
    source = np.random.default_rng([7, len(kind)])
    for _ in range(8):
        n, m, k = source.integers(5, 40), source.integers(2, 12), source.integers(1, 4)
        z = source.standard_normal((n, m)) * 10 ** source.uniform(-2, 0, m)
        z, size = z * 10 ** source.uniform(-3, 3), 10 ** source.uniform(-2, 1)
        y = source.standard_normal((n, k)) * 10 ** source.uniform(-2, 2)
        convex = {
            "box": bilevel.Box(-size, 0.5 * size),
            "nonnegative": bilevel.Nonnegative(),
            "ball": bilevel.Ball(size),
            "simplex": bilevel.Simplex(),
            "l1 ball": bilevel.L1Ball(size),
        }[kind]
        largest = np.linalg.norm(z) ** 2 / n
        problem = build(z, y, ridge=1e-5 * largest, head_set=convex)
        found = bilevel.best_response(problem, ONE, Cvxpy())
        assert found.status is Status.CONVERGED
        scale = np.linalg.norm(z.T @ y) / n + largest * float(found.head.norm())
        assert found.residual <= 1e-10 * scale
        # the bound knows no closed form: it is the certificate of the head that was returned
        assert found.bound <= 1e-4 * max(float(found.head.norm()), scale / largest)


@pytest.mark.parametrize("solver", ["OSQP", "SCS", "HIGHS"])
def test_any_solver_leads_to_the_same_head(solver):
    z, y = table()
    problem = build(z, y, ridge=0.01, head_set=sets()["box"])
    found = bilevel.best_response(problem, ONE, Cvxpy(solver=solver))
    assert found.words == f"{solver}: optimal"
    expected = bilevel.best_response(problem, ONE, Cvxpy()).head
    torch.testing.assert_close(found.head, expected, rtol=1e-12, atol=1e-14)


# constraints of one's own


def test_an_l1_ball_as_a_constraint_and_as_a_set():
    """The one has the accuracy of the solver, the other is exact."""
    z, y = table()
    own = bilevel.best_response(
        build(z, y, ridge=0.01), ONE, Cvxpy(lambda theta: [cvxpy.norm1(theta) <= RADIUS])
    )
    problem = build(z, y, ridge=0.01, head_set=sets()["l1 ball"])
    stated = bilevel.best_response(problem, ONE, Cvxpy())
    torch.testing.assert_close(own.head, stated.head, rtol=0, atol=1e-9)
    assert stated.bound < 1e-10
    # the bound of the first is one on the distance to the head without the constraint
    free = bilevel.best_response(build(z, y, ridge=0.01), ONE).head
    assert own.bound >= float((own.head - free).norm()) > 0.01


def test_an_equality_against_its_normal_equations():
    """sum theta = 0.3 for two outputs together, within a box that does not matter."""
    z, y = table(outputs=2)
    problem = build(z, y, ridge=0.01, head_set=bilevel.Box(-9.0, 9.0))
    found = bilevel.best_response(problem, ONE, Cvxpy(lambda theta: cvxpy.sum(theta) == 0.3))
    matrix, moment = dense(z, y, None, 0.01)
    whole = np.zeros((11, 11))
    whole[:5, :5], whole[5:10, 5:10] = matrix
    whole[:10, 10] = whole[10, :10] = 1
    expected = np.linalg.solve(whole, np.concatenate([*moment, [0.3]]))[:10].reshape(2, 5).T
    np.testing.assert_allclose(found.head, expected, rtol=0, atol=1e-9)


# compiled once


def test_a_training_compiles_once(monkeypatch):
    """Two seeds, four steps: the solving chain, and the matrices of the solver, are made once."""
    made = []
    chain = cvxpy.Problem._construct_chain
    monkeypatch.setattr(
        cvxpy.Problem, "_construct_chain", lambda *a, **k: made.append(1) or chain(*a, **k)
    )
    problem = Smooth(head_set=bilevel.Box(-0.1, 0.1))
    strategy = bilevel.BestResponse(1e-2, Cvxpy())
    solution = bilevel.solve(problem, strategy, steps=4, seeds=2, dtype=torch.float64)
    assert set(solution.status) == {Status.COMPLETED}
    assert len(made) == 1
    # another solver object, the same set: nothing is made again
    bilevel.solve(problem, bilevel.BestResponse(1e-2, Cvxpy()), steps=1, seeds=1)
    assert len(made) == 1


def test_compiled_problems_are_told_apart():
    """By the set, the constraints and the shape; and only so many are kept."""
    z, y = table()
    problem, heads = build(z, y, ridge=0.1), []
    for b in (0.01 * i for i in range(1, compiled.KEPT + 3)):
        problem.head_set = bilevel.Box(-b, b)
        heads.append(bilevel.best_response(problem, ONE, Cvxpy()).head)
    assert [round(float(head.abs().max()), 12) for head in heads[:3]] == [0.01, 0.02, 0.03]
    assert len(compiled.Kept.of(problem)) == compiled.KEPT
    assert len(compiled.Kept.of(copy.deepcopy(problem))) == 0
    solvers = [
        Cvxpy(lambda theta, r=r: [cvxpy.norm1(theta) <= r], options={"max_iter": 100})
        for r in (0.1, 0.05)
    ]
    sums = [
        float(bilevel.best_response(build(z, y), ONE, solver).head.abs().sum())
        for solver in solvers
    ]
    assert sums == pytest.approx([0.1, 0.05], rel=1e-6)


def test_threads_share_what_was_compiled():
    """Each solve sets the parameters for itself."""
    z, y = table()
    problem = build(z, y, ridge=0.1, head_set=bilevel.Box(-0.05, 0.05))

    def head(scale):
        return bilevel.best_response(problem, scale * ONE, Cvxpy()).head

    scales = [1.0, 1.5, 2.0, 2.5] * 3
    expected = [head(scale) for scale in scales]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(head, scales))
    assert all(map(torch.equal, found, expected))
    assert len(compiled.Kept.of(problem)) == 1


# parts of trainings


@pytest.mark.parametrize("head_set", [bilevel.Everywhere(), *sets().values()])
def test_it_keeps_the_contract_of_head_solvers(head_set):
    z, y = table(20, 4, 2)
    problem = build(z, y, ridge=0.01, head_set=head_set)
    (finding,) = check_head_solver(Cvxpy(), problem)
    assert "CONVERGED" in str(finding)


@pytest.mark.usefixtures("untimed")
def test_trainings_compare_as_with_the_closed_form():
    """Unconstrained, the numbers of every record agree to 1e-6; two seeds, float64."""
    strategies = {
        "closed": bilevel.BestResponse(1e-2, ClosedForm()),
        "cvxpy": bilevel.BestResponse(1e-2, Cvxpy()),
    }
    found = bilevel.compare(
        Smooth(outputs=2), strategies, seeds=2, steps=6, every=3, dtype=torch.float64
    )
    assert set(found.status["cvxpy"]) == {"COMPLETED"}
    one, two = (found.history[name] for name in strategies)
    for name in ("objective", "phi", "test_mse"):
        np.testing.assert_allclose(two[name], one[name], rtol=1e-6)
    # a sharp test of the same: exact heads next to exact heads
    assert (two["head_gap"] < 1e-12).all()


def test_a_stored_training_goes_on_bit_for_bit(tmp_path):
    class PerSeed(Smooth):
        redraws_data = True

    problem = PerSeed(head_set=sets()["nonnegative"])
    strategy = bilevel.BestResponse(1e-2, Cvxpy(options={"max_iter": 100}))
    shared = {"seeds": 2, "every": 2, "batch_size": 7}
    whole = bilevel.solve(problem, strategy, steps=4, **shared)
    half = bilevel.solve(problem, strategy, steps=2, **shared)
    half.save(tmp_path / "half")
    again = bilevel.Solution.load(tmp_path / "half", problem)
    compiled.Kept.of(problem).clear()
    rest = bilevel.solve(problem, strategy, steps=2, **shared, state=again.state)
    assert torch.equal(rest.head, whole.head)
    assert bool((whole.head >= 0).all())
    assert bool((whole.head == 0).any())


def test_float32_heads_are_in_their_set():
    z, y = table()
    convex = bilevel.Box(-0.05, 0.1)
    problem = build(
        z.astype(np.float32), y.astype(np.float32), ridge=0.01, head_set=convex,
        start=np.zeros(5, dtype=np.float32),
    )  # fmt: skip
    found = bilevel.best_response(problem, torch.ones(()), Cvxpy())
    assert found.head.dtype == torch.float32
    assert torch.equal(convex.project(found.head), found.head)
    expected = bilevel.best_response(build(z, y, ridge=0.01, head_set=convex), ONE, Cvxpy()).head
    torch.testing.assert_close(found.head.double(), expected, rtol=1e-6, atol=1e-8)
