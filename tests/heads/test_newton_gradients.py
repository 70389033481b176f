"""Gradients of Phi at heads by Newton: central differences, dense solves, trainings."""

import warnings

import numpy as np
import pytest
import torch
from analytic_cases import CASES, bodies, flat
from class_heads import CLASSES, Classes, TrueClasses, huber_data, slope
from points import Point
from small_problems import General, doubles

import bilevel
from bilevel import (
    BestResponse,
    ClosedForm,
    Envelope,
    HuberLoss,
    Implicit,
    LogisticLoss,
    Newton,
    RunningData,
    SoftmaxLoss,
    Status,
    trees,
)
from bilevel.errors import AllRunsFailedError, IncompatibleError
from bilevel.linear import Dense
from problems.analytic import analytic
from problems.classification import breast_cancer

LOSSES = {"logistic": (LogisticLoss(), None), "softmax": (SoftmaxLoss(), CLASSES)}
KINDS = {"F is g": Classes, "F is not g": TrueClasses}


def problem_of(loss, kind=Classes, **options):
    criterion, outputs = LOSSES[loss]
    return kind(criterion=criterion, outputs=outputs, **{"ridge": 0.05, **options})


def drawn(problem, seed=0):
    return problem.init_body(torch.Generator().manual_seed(seed))


def central(problem, body, step=1e-4):
    """grad Phi by central differences of order four, heads of all points solved anew at once."""
    like = trees.single(body)
    vector = trees.flatten(like)
    units = torch.eye(vector.shape[1], dtype=torch.float64) * step
    moved = torch.cat([vector + shift * units for shift in (1, -1, 2, -2)])
    points = trees.unflatten(moved, like)
    point = Point(problem, [trees.take(points, i) for i in range(len(moved))])
    solved = point.solved(Newton(1e-13))
    assert (solved.status == int(Status.CONVERGED)).all()
    one, two, three, four = point.oracles.body_value(point.body, solved.head, point.rows).chunk(4)
    return (8 * (one - two) - (three - four)) / (12 * step)


def numbers(tree):
    return trees.flatten(trees.single(tree))[0]


@pytest.mark.parametrize("fit_bias", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_equal_central_differences_of_heads_solved_anew(loss, kind, fit_bias):
    problem = problem_of(loss, KINDS[kind], fit_bias=fit_bias)
    body = drawn(problem)
    expected = central(problem, body)
    found = bilevel.hypergradient(problem, body)  # Envelope, or Implicit
    assert found.status is Status.CONVERGED
    torch.testing.assert_close(numbers(found.body), expected, rtol=0, atol=1e-8)
    assert expected.norm() > 1e-2
    assert (numbers(found.body) - expected).norm() <= found.bound + 1e-8  # theirs
    point = Point(problem, [body])
    for solver in (None, Dense(), bilevel.CG(rtol=1e-12)):
        if fit_bias and loss == "softmax" and isinstance(solver, Dense):
            continue  # without a penalty on the sum of the biases, that matrix is singular
        implicit = point.gradient(Implicit(solver), Newton())
        torch.testing.assert_close(numbers(found.body), trees.flatten(implicit.body)[0], atol=1e-9,
                                   rtol=0)  # fmt: skip


@pytest.mark.parametrize("loss", LOSSES)
def test_huge_classes_gradient_is_that_of_huber_too(loss):
    """With rows off the kinks, Huber heads have a derivative."""
    criterion, outputs = HuberLoss(0.7), None if loss == "logistic" else 2
    problem = Classes(criterion=criterion, outputs=outputs, ridge=0.1)
    problem.data = lambda seed=None: huber_data(2, outputs)
    body = drawn(problem, 1)
    expected = central(problem, body, 1e-6)
    found = bilevel.hypergradient(problem, body)
    torch.testing.assert_close(numbers(found.body), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", [n for n in CASES if not n.startswith("B")])
def test_the_table_of_analytic_problems(name):
    """Implicit at heads by Newton, by its factor, against gradients derived by hand."""
    problem = CASES[name]
    points = bodies(problem)
    found = Point(problem, points).gradient(Implicit(), Newton(1e-13))
    expected = torch.stack([flat(problem.phi_gradient(w)) for w in points])
    errors = (trees.flatten(found.body) - expected).norm(dim=1)
    assert (errors <= 1e-8 * expected.norm(dim=1)).all()
    assert (found.status <= Status.CONVERGED).all()


@pytest.mark.parametrize("fit_bias", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_factor_of_another_head_is_corrected(loss, fit_bias, monkeypatch):
    """The adjoint solves the system of this head, though the factor is of another body's."""
    problem = problem_of(loss, TrueClasses, fit_bias=fit_bias, penalize_bias=True)
    point = Point(problem, [drawn(problem, 0), drawn(problem, 1)])
    other = Point(problem, [drawn(problem, 5), drawn(problem, 6)]).solved(Newton())
    solved = point.solved(Newton(1e-12))
    memory = torch.zeros_like(solved.head)
    made = {}
    for name, factor in {"none": None, "old": other.factor}.items():
        answer = bilevel.Answer(solved.head, Newton(), point.head, 0, factor)
        made[name] = Implicit().gradient(point.oracles, point.body, answer, point.rows, memory)
        assert (made[name].status == int(Status.CONVERGED)).all()
    dense = point.gradient(Implicit(Dense()), Newton(1e-12))
    for found in made.values():
        torch.testing.assert_close(found.adjoint, dense.adjoint, rtol=1e-9, atol=1e-11)
        size = trees.flatten(dense.body).norm(dim=1)
        off = trees.flatten(trees.tree_map(torch.sub, found.body, dense.body)).norm(dim=1)
        assert (off <= 1e-8 * size).all()


def test_a_large_head_needs_no_matrix_for_its_adjoint(monkeypatch):
    from bilevel.heads.objectives import linear

    problem = problem_of("softmax", TrueClasses)
    point = Point(problem, [drawn(problem)])
    dense = point.gradient(Implicit(Dense()), Newton(1e-12))
    monkeypatch.setattr(linear, "LARGEST_BLOCK", 1)
    point.oracles.head_hessian = lambda *given: pytest.fail("formed a matrix")
    found = point.gradient(Implicit(), Newton(1e-12))
    torch.testing.assert_close(
        trees.flatten(found.body), trees.flatten(dense.body), rtol=1e-8, atol=1e-10
    )


# bounds


@pytest.mark.parametrize("off", [1e-6, 1e-3, 0.3])
@pytest.mark.parametrize("fit_bias", [False, True])
@pytest.mark.parametrize("loss", [*LOSSES, "huber"])
def test_bounds_are_never_below_the_error(loss, fit_bias, off):
    """Proven where all coefficients are penalised: |theta - theta*| and g - g*."""
    if loss == "huber":
        problem = Classes(criterion=HuberLoss(0.5), ridge=0.05, fit_bias=fit_bias)
    else:
        problem = problem_of(loss, fit_bias=fit_bias)
    body = drawn(problem)
    best = bilevel.best_response(problem, body, Newton(1e-13)).head
    noise = torch.randn(best.shape, generator=torch.Generator().manual_seed(1)).double()
    noise = noise - noise.mean(-1, keepdim=True) if best.ndim == 2 else noise
    from linear_heads import Given

    head = best + off * noise
    found = bilevel.best_response(problem, body, Given(head))
    assert found.bound_kind == ("estimated" if fit_bias else "proven")
    error = float((head - best).norm())
    assert fit_bias or error <= found.bound
    if not fit_bias:
        data = problem.data()
        gap = problem.head_objective(body, head, data) - problem.head_objective(body, best, data)
        assert 0 < float(gap) <= found.value_bound
        assert found.mu == pytest.approx(problem.ridge, rel=1e-12)
    own = np.linalg.norm(slope(problem, body, head))
    assert found.residual == pytest.approx(own, rel=1e-9)
    gradient = bilevel.hypergradient(problem, body, Envelope(), solver=Given(head))
    exact = bilevel.hypergradient(problem, body, Envelope(), solver=Newton(1e-13))
    apart = float((numbers(gradient.body) - numbers(exact.body)).norm())
    assert gradient.bound_kind == "estimated"
    assert off > 0.1 or apart <= 1.5 * gradient.bound


def test_penalties_of_their_own_are_the_bound():
    penalty = torch.tensor([0.3, 0.02, 0.1, 0.5], dtype=torch.float64)
    problem = problem_of("logistic")
    problem.penalty = lambda body: penalty
    found = bilevel.best_response(problem, drawn(problem))
    assert found.mu == pytest.approx(0.02)
    assert found.bound_kind == "proven"
    assert "smallest penalty" in found.note


# trainings


def test_best_response_trains_with_newton_by_default(tmp_path):
    problem = breast_cancer(width=6)
    strategy = BestResponse(1e-3)
    options = {"seeds": 3, "every": 10, "dtype": torch.float64}
    whole = bilevel.solve(problem, strategy, steps=20, **options)
    assert whole.status == (Status.COMPLETED,) * 3
    assert whole.history["objective"][-1].mean() < whole.history["objective"][0].mean()
    assert whole.history["head_residual"].max() <= 1e-9
    half = bilevel.solve(problem, strategy, steps=10, **options)
    half.save(tmp_path / "half")
    loaded = bilevel.Solution.load(tmp_path / "half", problem)
    on = bilevel.solve(problem, strategy, steps=10, state=loaded.state, **options)
    assert trees.equal(on.body, whole.body)
    assert torch.equal(on.head, whole.head)
    alone = bilevel.solve(problem, strategy, steps=20, **{**options, "seeds": [1]})
    torch.testing.assert_close(alone.head[0], whole.head[1], rtol=0, atol=1e-7)


def test_newton_is_not_compiled_and_says_so():
    problem = problem_of("logistic")
    with pytest.warns(UserWarning, match="is not compiled: it runs eagerly"):
        compiled = bilevel.solve(
            problem, BestResponse(1e-2), steps=3, seeds=2, batch_size=5, compile=True
        )
    plain = bilevel.solve(problem, BestResponse(1e-2), steps=3, seeds=2, batch_size=5)
    assert torch.equal(compiled.head, plain.head)


def test_presets_offer_best_response_and_refuse_running_averages():
    problem = problem_of("softmax")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        comparison = bilevel.compare(
            problem, bilevel.preset_strategies(1e-3, 1e-2), seeds=2, steps=4, batch_size=5
        )
    assert "best response" in comparison.strategies
    running = bilevel.preset_strategies(1e-3, 1e-2, names=["best response running"])
    with pytest.raises(IncompatibleError, match="SoftmaxLoss is not quadratic"):
        bilevel.solve(problem, running["best response running"], steps=2, seeds=2, batch_size=5)
    with pytest.raises(IncompatibleError, match="no closed form"):
        BestResponse(0.1, ClosedForm(RunningData())).check(problem)


def test_a_head_that_is_no_linear_one_trains_too():
    for problem in (analytic("A9"), General()):
        strategy = BestResponse(1e-2, Newton(), optimizer=bilevel.SGD())
        solution = bilevel.solve(problem, strategy, steps=5, seeds=2, dtype=torch.float64)
        assert all(not status.failed for status in solution.status)
        assert solution.history["head_residual"].max() <= 1e-9


def test_rows_that_become_separable_end_a_run_with_its_cause():
    """A body that lets the labels into a feature after a while, and no penalty."""
    inputs, noise = doubles(1, 30, 1), doubles(2, 30)
    labels = (inputs[:, 0] + 2 * noise > 0).long()

    class Leaks(bilevel.LinearHeadProblem):
        criterion = LogisticLoss()
        fit_bias = True

        def data(self, seed=None):
            return {
                "train": bilevel.Batch(torch.cat([inputs, 2.0 * labels[:, None] - 1], 1), labels)
            }

        def init_body(self, generator):
            return torch.zeros((), dtype=torch.float64)

        def init_head(self, generator):
            return torch.zeros(3, dtype=torch.float64)

        def features(self, body, x):
            leak = torch.relu(body - 0.5) * x[:, 1:]
            return torch.cat([x[:, :1], torch.cos(3 * x[:, :1]) + leak], 1)

        def body_penalty(self, body):
            return -body  # drives it on

    strategy = BestResponse(0.1, optimizer=bilevel.SGD())
    options = {"seeds": 2, "every": 4, "batch_size": None, "dtype": torch.float64}
    fine = bilevel.solve(Leaks(), strategy, steps=4, **options)
    assert fine.status == (Status.COMPLETED,) * 2
    with pytest.raises(AllRunsFailedError, match="features separate the classes") as caught:
        bilevel.solve(Leaks(), strategy, steps=12, **options)
    assert caught.value.solution.status == (Status.NO_MINIMISER,) * 2
    assert caught.value.solution.history["objective"][:2].isfinite().all()  # until then
