"""Newton from warm starts, and where it must not answer."""

import numpy as np
import pytest
import torch
from class_heads import curved, given, labelled, single, table
from linear_heads import ONE, build, normal
from points import Point
from small_problems import doubles

import bilevel
from bilevel import LogisticLoss, Newton, SoftmaxLoss, Status, trees
from bilevel.derivatives.head_point import HeadPoint
from bilevel.errors import ArgumentError, IncompatibleError, SingularHeadError
from bilevel.heads.newton import descent
from bilevel.heads.newton.starts import better_start
from bilevel.heads.objectives import linear
from bilevel.heads.objectives.view import head_objective

# warm starts


def moved(body, step):
    noise = trees.tree_map(lambda leaf: doubles([9, leaf.ndim], *leaf.shape), body)
    return trees.tree_map(lambda leaf, d: leaf + step * d, body, noise)


def test_a_small_body_step_takes_few_steps_and_no_factor():
    """The last factor serves again: at most 3 chord steps to 1e-8 after a body step of 1e-3."""
    inputs, labels, criterion, outputs = table("digits")
    weight = 0.3 * doubles(8, 64, 20)
    problem = build(
        inputs, labels, features=lambda w, x: torch.tanh(x @ w), body=weight, ridge=1e-3
    )
    type(problem).criterion, type(problem).outputs = criterion, outputs
    point, ways = Point(problem, [weight]), []
    run = descent.Descent.run

    def spied(self):
        ways.append(run(self))
        return ways[-1]

    solver = Newton(1e-8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(descent.Descent, "run", spied)
        first = point.solved(solver)
        point.body = moved(point.body, 1e-3)
        again = solver.solve(point.oracles, point.body, first.head, point.rows, first.state, 1)
    assert int(ways[0].factored) >= 2
    assert int(ways[1].steps) <= 3
    assert int(ways[1].factored) == 0
    assert again.residual <= 1e-8 * 20
    fresh = point.solved(Newton(1e-12))
    torch.testing.assert_close(again.head, fresh.head, rtol=0, atol=1e-5)


def test_a_factor_of_another_body_is_replaced():
    problem = curved("softmax")
    point = single(problem)
    first = point.solved(Newton())
    point.body = moved(point.body, 3.0)
    solver = Newton()
    again = solver.solve(point.oracles, point.body, first.head, point.rows, first.state, 1)
    assert again.status.tolist() == [int(Status.CONVERGED)]
    torch.testing.assert_close(again.head, point.solved(solver).head, rtol=0, atol=1e-9)
    assert not torch.equal(again.state.factor.cholesky, first.state.factor.cholesky)


@pytest.mark.parametrize("name", ["breast cancer", "digits"])
def test_after_a_long_body_step_newton_starts_from_what_the_last_head_predicted(name):
    """The head fitted to those predictions by ridge regression, where g is less than at the last.

    A body step that mixes the features: least squares finds A^-1 theta, up to the penalty.
    """
    inputs, labels, criterion, outputs = table(name)
    m = inputs.shape[1]
    eye = torch.eye(m, dtype=torch.float64)
    problem = build(inputs, labels, features=lambda w, x: x @ w, body=eye, ridge=1e-3)
    type(problem).criterion, type(problem).outputs = criterion, outputs
    solver, mixing = Newton(), eye + 0.5 * doubles(5, m, m)
    first = Point(problem, [eye]).solved(solver)
    point = Point(problem, [mixing], [first.head[0]])
    at = HeadPoint(point.oracles, point.body, point.head, point.rows)
    objective = head_objective(at)
    place = objective.at(objective.vector(point.head))
    best, new = better_start(objective, place, torch.tensor([True]), first.state.predictions)
    best = best.point
    z = inputs @ mixing.numpy()
    predicted = inputs @ first.head[0].numpy()
    expected = np.linalg.solve(z.T @ z / len(z) + 1e-3 * np.eye(m), z.T @ predicted / len(z))
    assert new.tolist() == [True]
    np.testing.assert_allclose(objective.head(best)[0].numpy(), expected, rtol=0, atol=1e-5)

    def factorisations():
        ways, run = [], descent.Descent.run
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(descent.Descent, "run", lambda self: ways.append(run(self)) or ways[-1])
            found = solver.solve(point.oracles, point.body, point.head, point.rows, first.state, 1)
        assert found.status.tolist() == [int(Status.CONVERGED)]
        return int(ways[0].factored), found.head

    few, warm = factorisations()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(objective), "fit", lambda self, predictions: None)
        many, cold = factorisations()
    torch.testing.assert_close(warm, cold, rtol=0, atol=1e-7)
    assert few < many


def test_zeros_without_a_past_have_no_better_start(monkeypatch):
    """They are the start of nearly every first solve: g is not looked at."""
    problem = curved("softmax")
    at = single(problem)
    objective = head_objective(HeadPoint(at.oracles, at.body, at.head, at.rows))
    place = objective.at(torch.zeros_like(objective.vector(at.head)))
    monkeypatch.setattr(type(objective), "value", lambda self, place: pytest.fail("looked at g"))
    nothing = torch.zeros_like(place.predictions)
    best, new = better_start(objective, place, torch.tensor([True]), nothing)
    assert best is place
    assert new.tolist() == [False]


def test_no_gram_matrix_of_many_features(monkeypatch):
    """Above `LARGEST_BLOCK` features nothing of their number squared is made, restarts included."""
    monkeypatch.setattr(linear, "LARGEST_BLOCK", 2)
    sizes, fits, make = [], [], torch.linalg.cholesky_ex
    fit = linear.LinearObjective.fit
    monkeypatch.setattr(torch.linalg, "cholesky_ex", lambda x: sizes.append(x.shape[-1]) or make(x))
    monkeypatch.setattr(
        linear.LinearObjective, "fit", lambda *where: fits.append(fit(*where)) or fits[-1]
    )
    inputs, labels, criterion, outputs = table("digits")
    eye, solver = torch.eye(64, dtype=torch.float64), Newton(1e-6)
    problem = build(inputs, labels, features=lambda w, x: x @ w, body=eye, ridge=1e-3)
    type(problem).criterion, type(problem).outputs = criterion, outputs
    first = Point(problem, [eye]).solved(solver)
    point = Point(problem, [eye + 0.5 * doubles(5, 64, 64)])
    again = solver.solve(point.oracles, point.body, first.head, point.rows, first.state, 1)
    assert again.status.tolist() == [int(Status.CONVERGED)]
    assert fits == [None]
    assert set(sizes) == {1}


def test_nothing_is_kept_of_a_solve_that_failed():
    """One class is absent, and its unpenalised bias runs away; it must not be found again."""
    z, y = normal(1, 12, 3), np.arange(12) % 2
    problem = given(z, y, SoftmaxLoss(), 3, ridge=1e-3, fit_bias=True)
    point, solver = Point(problem, [ONE]), Newton()
    first = point.solved(solver)
    assert first.status.tolist() == [int(Status.NO_MINIMISER)]
    assert not first.state.predictions.any()
    assert not first.state.factor.usable.any()
    zero = torch.zeros_like(first.head)
    again = solver.solve(point.oracles, point.body, zero, point.rows, first.state, 1)
    assert again.status.tolist() == [int(Status.NO_MINIMISER)]


def test_float32_heads_are_as_near_as_float32_can_tell():
    problem = curved("softmax", fit_bias=True, penalize_bias=True)
    body = problem.init_body(torch.Generator().manual_seed(0))
    exact = bilevel.best_response(problem, body).head
    single = bilevel.best_response(problem, trees.cast(body, torch.float32))
    assert single.head.dtype == torch.float32
    assert single.status is Status.CONVERGED
    # the features are rounded too
    torch.testing.assert_close(single.head.double(), exact, rtol=0, atol=1e-5)
    assert 1e-12 < single.residual < 1e-6  # of the head that is returned


# trouble


def test_arguments_are_checked():
    for wrong in ({"tolerance": 0.0}, {"tolerance": -1.0}, {"max_steps": 0}, {"max_steps": True}):
        with pytest.raises(ArgumentError, match=next(iter(wrong))):
            Newton(**wrong)
    boxed = curved("logistic", head_set=bilevel.Box(-1.0, 1.0))
    body = boxed.init_body(torch.Generator())
    with pytest.raises(IncompatibleError, match=r"Newton knows no sets of heads.*Cvxpy"):
        bilevel.best_response(boxed, body, Newton())


def test_too_few_steps_say_so():
    problem = curved("logistic")
    body = problem.init_body(torch.Generator().manual_seed(0))
    found = bilevel.best_response(problem, body, Newton(max_steps=1))
    assert found.status is Status.NOT_CONVERGED
    assert found.residual > 1e-10


def separable(kind):
    """Rows that a head without a penalty fits better and better."""
    z = normal(1, 30, 3)
    if kind == "one class beyond a bias":
        y = np.arange(30) % 2  # see `standing`
        return z, y, LogisticLoss(), None, {"fit_bias": True, "ridge": 1.0}
    y = (z[:, 0] > 0).astype(int)
    if kind == "but for a few rows":  # on the boundary itself, with both labels
        z[:4, 0], y[:4] = 0.0, [0, 1, 0, 1]
        return z, y, LogisticLoss(), None, {}
    if kind == "three classes":
        return z, (z @ normal(2, 3, 3)).argmax(1), SoftmaxLoss(), 3, {}
    return z, y, LogisticLoss(), None, {}


def standing(problem, kind):
    """The point of a problem; one class, which a training refuses, comes in behind its back."""
    point = Point(problem, [ONE])
    if kind.startswith("one class"):
        train = point.rows.groups["train"]
        point.rows.groups["train"] = train._replace(targets=torch.ones_like(train.targets))
    return point


@pytest.mark.parametrize(
    "kind", ["two classes", "three classes", "but for a few rows", "one class beyond a bias"]
)
@pytest.mark.parametrize("tolerance", [1e-6, 1e-10])
def test_separable_rows_without_a_penalty_have_no_head(kind, tolerance):
    z, y, criterion, outputs, options = separable(kind)
    problem = given(z, y, criterion, outputs, **options)
    found = standing(problem, kind).solved(Newton(tolerance))
    assert found.status.tolist() == [int(Status.NO_MINIMISER)]
    assert bool(found.head.isnan().all())
    assert "Set `ridge`" in Status.NO_MINIMISER.message
    assert Status.NO_MINIMISER.failed
    if not kind.startswith("one class"):  # which is refused before
        assert bilevel.best_response(problem, ONE).status is Status.NO_MINIMISER
        with pytest.raises(bilevel.errors.AllRunsFailedError, match="separate the classes"):
            bilevel.solve(problem, bilevel.BestResponse(0.1), steps=2, seeds=2, batch_size=5)
    least = type(problem)()
    least.ridge, least.penalize_bias = 1e-8, True
    assert standing(least, kind).solved(Newton()).status.tolist() == [int(Status.CONVERGED)]


def test_features_that_do_not_determine_the_head_are_refused():
    z = normal(1, 30, 3)
    z = np.column_stack([z, z[:, 0] + z[:, 1]])
    y = labelled(1, 30, 2).targets
    with pytest.raises(SingularHeadError, match="Set `ridge`"):
        bilevel.best_response(given(z, y, LogisticLoss()), ONE)
