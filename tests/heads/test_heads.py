"""The exact head of a quadratic objective, against scikit-learn, NumPy and dense solves."""

import itertools

import numpy as np
import pytest
import torch
from linear_heads import HEADS, ONE, Quadratic, build, dense, dense_head, normal
from sklearn.linear_model import Ridge

import bilevel
from bilevel.core.status import Status
from bilevel.data.sampler import Sampler
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import IncompatibleError, ProblemError, SingularHeadError

FEATURES = {"n > M": (12, 5), "n < M": (5, 12), "rank deficient": (11, 6)}


def columns(kind):
    """(n, M) features; the rank deficient ones have rank 3."""
    n, m = FEATURES[kind]
    if kind == "rank deficient":
        return normal(1, n, 3) @ normal(2, 3, m)
    return normal([n, m], n, m)


def targets_for(z, k):
    return normal([len(z), 8], len(z)) if k is None else normal([len(z), 8], len(z), k)


def weights_for(z, k=None):
    return 0.2 + np.abs(normal(6, *((len(z),) if k is None else (len(z), k))))


def penalty_for(kind, m, k):
    if kind == "scalar":
        return 1e-3
    return 1e-3 + np.abs(normal([5, m], *((m,) if kind == "vector" else (m, k))))


OPTIONS = [
    pytest.param(*case, id="-".join(str(x) for x in case))
    for case in itertools.product(
        FEATURES, (None, 2), ("no bias", "bias", "penalised bias"), ("alike", "rows", "outputs"),
        ("scalar", "vector", "matrix"), ("zero", "prior"),
    )
    if not ("matrix" in case and case[1] is None) and not ("outputs" in case and case[1] is None)
]  # fmt: skip


@pytest.mark.parametrize(("features", "k", "bias", "weighted", "kind", "drawn"), OPTIONS)
def test_gradient_vanishes_at_the_closed_form(features, k, bias, weighted, kind, drawn):
    """|d_theta g| / |Z'y/n| <= 1e-10, the gradient recomputed in NumPy; and the dense head."""
    z = columns(features)
    weights = {"alike": None, "rows": weights_for(z), "outputs": weights_for(z, k)}
    y, s = targets_for(z, k), weights[weighted]
    design = z if bias == "no bias" else np.column_stack([z, np.ones(len(z))])
    penalised = design.shape[1] - (bias == "bias")
    given = penalty_for(kind, penalised, k)
    table = np.broadcast_to(np.asarray(given), (penalised,)) if kind == "scalar" else given
    full = table if bias != "bias" else np.concatenate([table, np.zeros_like(table[:1])])
    shape = (design.shape[1],) if k is None else (design.shape[1], k)
    prior = 3 * normal(98, *shape) if drawn == "prior" else 0.0
    problem = build(
        z, y, penalty=lambda _: given if kind == "scalar" else torch.as_tensor(given),
        row_weights=None if s is None else lambda w, batch: torch.as_tensor(s),
        prior=(lambda w, batch: torch.as_tensor(prior)) if drawn == "prior" else None,
        fit_bias=bias != "no bias", penalize_bias=bias == "penalised bias",
        start=normal(99, *shape),
    )  # fmt: skip
    found = bilevel.best_response(problem, ONE)
    assert found.status is Status.CONVERGED
    assert found.head.shape == shape
    matrix, moment = dense(design, y, s, full, prior)
    head = found.head.numpy().reshape(design.shape[1], -1)
    slope = np.einsum("kij,jk->ki", matrix, head) - moment
    assert np.linalg.norm(slope) <= 1e-10 * np.linalg.norm(moment)
    assert found.residual <= 1e-10 * np.linalg.norm(moment)
    condition = np.linalg.cond(matrix).max()
    np.testing.assert_allclose(
        found.head, dense_head(design, y, s, full, prior), rtol=0, atol=1e-14 * condition
    )


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("ridge", [1e-8, 1e-12])
def test_gradient_vanishes_for_the_smallest_ridges(features, ridge):
    z = columns(features)
    y = targets_for(z, None)
    found = bilevel.best_response(build(z, y, ridge=ridge), ONE)
    slope = z.T @ (z @ found.head.numpy() - y) / len(z) + ridge * found.head.numpy()
    assert np.linalg.norm(slope) <= 1e-10 * np.linalg.norm(z.T @ y / len(z))


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("fit_bias", [False, True])
@pytest.mark.parametrize("k", [None, 3])
def test_scikit_learn_agrees(features, fit_bias, k):
    """Their objective is |y - Zt|^2 + a |t|^2: n times ours (twice over) for a = n lambda."""
    z = columns(features)
    y, ridge = targets_for(z, k) + 2.0, 0.03
    model = Ridge(alpha=len(z) * ridge, fit_intercept=fit_bias, solver="cholesky").fit(z, y)
    head = bilevel.best_response(build(z, y, ridge=ridge, fit_bias=fit_bias), ONE).head.numpy()
    weights, bias = (head[:-1], head[-1]) if fit_bias else (head, 0.0)
    np.testing.assert_allclose(weights, model.coef_.T, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(bias, model.intercept_, rtol=1e-9)


def test_least_squares_without_a_ridge():
    z = columns("n > M")
    y = targets_for(z, 2)
    head = bilevel.best_response(build(z, y), ONE).head
    expected = np.linalg.lstsq(z, y, rcond=None)[0]
    np.testing.assert_allclose(head, expected, rtol=1e-10)


def count_calls(function):
    """The function, and a list that grows by one with each call."""
    calls = []

    def counted(*arguments):
        calls.append(1)
        return function(*arguments)

    return counted, calls


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("weighted", [False, True])
def test_body_free_features(features, weighted, monkeypatch):
    """The same heads as with a body that is ignored, and the Gram matrix is made once."""
    z = columns(features)
    y, ridge = targets_for(z, 2), lambda w: torch.exp(w) * 1e-2
    hook = (lambda w, batch: torch.as_tensor(weights_for(z)) * w**2) if weighted else None
    free = build(z, y, penalty=ridge, row_weights=hook, body_free_features=True)
    bound = build(z, y, penalty=ridge, row_weights=hook, features=lambda w, x: x)
    w = 1.3 * ONE
    expected = bilevel.best_response(bound, w).head
    torch.testing.assert_close(bilevel.best_response(free, w).head, expected, rtol=1e-9, atol=1e-11)
    counted, calls = count_calls(bilevel.heads.rows_used.linear_moments)
    monkeypatch.setattr(bilevel.heads.rows_used, "linear_moments", counted)
    data = TrainingData(free, [0, 1], torch.float64, "cpu")
    rows = Sampler(data, None, ("train",)).full
    body, head = (
        torch.tensor([1.0, 1.3], dtype=torch.float64),
        torch.zeros(2, z.shape[1], 2).double(),
    )
    solver, oracles = bilevel.ClosedForm(), Oracles(free)
    state = solver.init(oracles, body, head, rows)
    for _ in range(3):
        solved = solver.solve(oracles, body, head, rows, state, 0)
    assert len(calls) == (0 if weighted else 1)  # weights may depend on the body
    torch.testing.assert_close(solved.head[1], expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("shape", HEADS)
def test_general_quadratic_heads_by_their_hessian(shape):
    problem = Quadratic(HEADS[shape])
    found = bilevel.best_response(problem, 0.7 * ONE)
    assert found.bound_kind == "proven"
    assert found.status is Status.CONVERGED
    leaves = list(found.head.values()) if isinstance(found.head, dict) else [found.head]
    assert [tuple(leaf.shape) for leaf in leaves] == list(HEADS[shape].values())
    flat = np.concatenate([leaf.numpy().ravel() for leaf in leaves])
    expected = np.linalg.solve(problem.matrix, 0.7 * problem.b)
    np.testing.assert_allclose(flat, expected, rtol=1e-12)
    assert found.mu == pytest.approx(np.linalg.eigvalsh(problem.matrix).min(), rel=1e-12)


def test_a_head_that_is_not_quadratic_is_refused():
    with pytest.raises(IncompatibleError, match=r"not quadratic.*FastSGD"):
        bilevel.best_response(Quadratic(HEADS["vector"], power=4.0), ONE)


def test_too_large_a_general_head_is_refused():
    with pytest.raises(IncompatibleError, match=r"1025 numbers.*at most 1024.*LinearHeadProblem"):
        bilevel.best_response(Quadratic({"only": (1025,)}), ONE)


def test_an_indefinite_head_is_refused_with_its_curvature():
    problem = Quadratic(HEADS["vector"], shift=-2.0)
    smallest = f"{np.linalg.eigvalsh(problem.matrix).min():.2g}"
    with pytest.raises(SingularHeadError, match=smallest) as caught:
        bilevel.best_response(problem, ONE)
    assert "strongly convex" in str(caught.value)


SINGULAR = {
    "rank deficient": {},
    "n < M": {},
    "collinear bias": {"fit_bias": True},
}


@pytest.mark.parametrize("case", SINGULAR)
def test_a_singular_linear_head_is_refused_before_training(case):
    z = columns("n > M" if case == "collinear bias" else case)
    if case == "collinear bias":
        z[:, 2] = 1.0
    problem = build(z, targets_for(z, None), **SINGULAR[case])
    with pytest.raises(SingularHeadError, match=r"Set `ridge`.*or use fewer features than rows"):
        bilevel.best_response(problem, ONE)
    seen = []
    with pytest.raises(SingularHeadError, match="no unique minimiser"):
        bilevel.solve(
            problem,
            bilevel.BestResponse(0.1),
            steps=3,
            seeds=2,
            callback=lambda k, _: seen.append(k),
        )
    assert not seen
    # a strategy that needs no closed form trains, and says that there is no bound
    solution = bilevel.solve(
        problem, bilevel.TwoTimescale(1e-3, 1e-2), steps=2, seeds=1, batch_size=None
    )
    assert set(solution.status) == {Status.COMPLETED}
    assert solution.history["head_bound"].isnan().all()


@pytest.mark.parametrize("criterion", [bilevel.SquaredError(), bilevel.HuberLoss()])
def test_scales_that_differ_are_told_apart_from_missing_penalties(criterion):
    z = normal(2, 60, 3) * [1e-6, 1.0, 1e6]
    far = build(z, normal(3, 60), fit_bias=True, ridge=1e-3, criterion=criterion)
    assert bilevel.best_response(far, ONE).status is Status.CONVERGED
    twice = build(z[:, [0, 2, 2]], normal(3, 60), fit_bias=True, criterion=criterion)
    with pytest.raises(SingularHeadError, match="Set `ridge`"):
        bilevel.best_response(twice, ONE)


def test_weights_that_are_negative_are_refused():
    z = columns("n > M")
    problem = build(
        z, targets_for(z, None), ridge=0.1, row_weights=lambda w, batch: torch.as_tensor(z[:, 0])
    )
    with pytest.raises(ProblemError, match=r"`row_weights` .* must be at least 0"):
        bilevel.best_response(problem, ONE)


@pytest.mark.parametrize("head_set", [bilevel.Box(-0.1, 0.2), bilevel.Ball(0.01)])
def test_a_head_outside_of_its_set_is_projected_and_flagged(head_set):
    z = columns("n > M")
    y = targets_for(z, None)
    free = bilevel.best_response(build(z, y, ridge=0.1), ONE).head
    boxed = build(z, y, ridge=0.1, head_set=head_set)
    found = bilevel.best_response(boxed, ONE, bilevel.ClosedForm())
    assert found.status is Status.OUTSIDE_SET
    expected = head_set.project(free.unsqueeze(0))[0]
    assert not torch.equal(expected, free)
    torch.testing.assert_close(found.head, expected, rtol=1e-14, atol=0)
    assert found.residual > 1e-3  # the projection is not the constrained minimiser


def test_a_head_inside_of_its_set_is_left_alone():
    z = columns("n > M")
    y = targets_for(z, None)
    inside = build(z, y, ridge=0.1, head_set=bilevel.Ball(100.0))
    found = bilevel.best_response(inside, ONE, bilevel.ClosedForm())
    assert found.status is Status.CONVERGED
    assert torch.equal(found.head, bilevel.best_response(build(z, y, ridge=0.1), ONE).head)


@pytest.mark.parametrize("w", [-2.0, 0.01, 2.0])
def test_one_number_is_projected_exactly(w):
    """In one dimension the projection of the free minimiser is the constrained one."""
    problem = Quadratic({"only": ()}, head_set=bilevel.Box(-0.1, 0.2))
    found = bilevel.best_response(problem, w * ONE)
    free = w * problem.b[0] / problem.matrix[0, 0]
    assert found.status is Status.CONVERGED
    assert float(found.head) == pytest.approx(np.clip(free, -0.1, 0.2), rel=1e-13)
    assert found.residual <= 1e-13


def test_float32_heads_are_solved_in_float64():
    """The head is the float64 solution of the float32 features, rounded once."""
    z, y = columns("rank deficient").astype(np.float32), targets_for(columns("rank deficient"), 2)
    problem = build(z, y.astype(np.float32), ridge=1e-5, start=np.zeros((6, 2), dtype=np.float32))
    head = bilevel.best_response(problem, torch.ones(())).head
    assert head.dtype == torch.float32
    ridge = float(np.float32(1e-5))
    expected = dense_head(z.astype(float), y.astype(np.float32).astype(float), None, ridge)
    np.testing.assert_allclose(head, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
