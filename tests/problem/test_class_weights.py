"""Class weights: row weights by hand, scikit-learn's heads, and bounds that know of them."""

import numpy as np
import pytest
import torch
from class_heads import CLASSES, Classes, TrueClasses
from linear_heads import Given
from sklearn.linear_model import LogisticRegression
from small_problems import doubles

import bilevel
from bilevel import LogisticLoss, SoftmaxLoss, trees
from bilevel.errors import ArgumentError, ShapeError

TWO, THREE = (3.0, 0.25), (4.0, 0.2, 1.5)
LOSSES = {
    "logistic": (LogisticLoss, TWO, None),
    "softmax": (SoftmaxLoss, THREE, CLASSES),
}


def by_hand(base, weights):
    """The problem class with the weights as those of its rows."""

    class Weighed(base):
        def row_weights(self, body, batch):
            labels = batch["train"].targets
            return torch.tensor(weights, dtype=body["weight"].dtype)[labels]

    return Weighed


def pair(name, base=Classes, **options):
    """A problem with class weights, and one with row weights."""
    make, weights, outputs = LOSSES[name]
    options = {"outputs": outputs, "ridge": 0.03, **options}
    ours = base(criterion=make(class_weights=weights), **options)
    return ours, by_hand(base, weights)(criterion=make(), **options)


def same(one, other, tolerance=1e-12):
    for a, b in zip(trees.leaves(one), trees.leaves(other), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("fit_bias", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_heads_and_gradients_are_those_of_row_weights(name, fit_bias):
    problems = pair(name, fit_bias=fit_bias)
    body = problems[0].init_body(torch.Generator().manual_seed(1))
    for method in (bilevel.Envelope(), bilevel.Implicit()):
        solver = bilevel.Newton(1e-14)  # as far as rounding allows: heads of two ways to one sum
        found = [bilevel.hypergradient(one, body, method, solver=solver) for one in problems]
        assert float(found[0].bound) < 1e-9
        same(found[0].body, found[1].body)
        same(found[0].response.head, found[1].response.head)
        assert found[0].value == pytest.approx(found[1].value, rel=1e-12)
    plain = Classes(criterion=LOSSES[name][0](), outputs=LOSSES[name][2], ridge=0.03)
    assert bilevel.hypergradient(plain, body).value != pytest.approx(found[0].value, rel=0.02)


@pytest.mark.parametrize("name", LOSSES)
def test_validation_losses_are_weighted_too_where_they_use_the_criterion(name):
    problem = pair(name, TrueClasses)[0]
    body = problem.init_body(torch.Generator().manual_seed(1))
    found = bilevel.hypergradient(problem, body)
    check = bilevel.hypergradient(problem, body, bilevel.FiniteDifferences())
    for a, b in zip(trees.leaves(found.body), trees.leaves(check.body), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", LOSSES)
def test_trainings_are_those_of_row_weights(name):
    options = {"seeds": 2, "steps": 6, "every": 3, "batch_size": 7, "dtype": torch.float64}
    for strategy in (
        bilevel.TwoTimescale(0.02, 0.1),
        bilevel.BestResponse(0.02, gradient=bilevel.Envelope()),
        bilevel.BestResponse(0.02, bilevel.FastSGD(0.3, 5)),
    ):
        ours, theirs = (bilevel.solve(one, strategy, **options) for one in pair(name))
        same(ours.body, theirs.body, 1e-10)
        same(ours.head, theirs.head, 1e-10)
        for metric in ("objective", "test_accuracy", "test_cross_entropy"):
            same(ours.history[metric], theirs.history[metric], 1e-10)


@pytest.mark.parametrize("fit_bias", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_heads_are_those_of_scikit_learn(name, fit_bias):
    problem = pair(name, fit_bias=fit_bias)[0]
    body = problem.init_body(torch.Generator().manual_seed(2))
    train = problem.data()["train"]
    z, labels = problem.features(body, train.inputs).numpy(), train.targets.numpy()
    theirs = LogisticRegression(
        C=1 / (len(z) * problem.ridge), fit_intercept=fit_bias, tol=1e-12, max_iter=1000,
        solver="newton-cg", class_weight=dict(enumerate(LOSSES[name][1])),
    ).fit(z, labels)  # fmt: skip
    head = bilevel.best_response(problem, body).head.numpy()
    expected = theirs.coef_.T
    if fit_bias:  # that of scikit-learn is determined but for its sum
        expected = np.vstack([expected, theirs.intercept_ - theirs.intercept_.mean()])
        expected[-1] = theirs.intercept_ if problem.outputs is None else expected[-1]
    np.testing.assert_allclose(head.reshape(expected.shape), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("distance", [1e-6, 1e-3, 0.1])
def test_no_bound_is_below_the_error(name, distance):
    problem = pair(name)[0]
    body = problem.init_body(torch.Generator().manual_seed(3))
    exact = bilevel.hypergradient(problem, body)
    head = exact.response.head
    moved = head + distance * doubles(5, *head.shape) / head.numel() ** 0.5

    found = bilevel.hypergradient(problem, body, bilevel.Envelope(), solver=Given(moved))
    error = sum((found.body[leaf] - exact.body[leaf]).square().sum() for leaf in body) ** 0.5
    assert float(error) <= float(found.bound)
    gap = float((found.response.head - head).norm())
    assert gap <= float(found.response.bound)


def test_metrics_are_without_weights():
    u, y = doubles(1, 9, 3), torch.arange(9) % 3
    assert SoftmaxLoss(THREE).metrics(u, y) == SoftmaxLoss().metrics(u, y)
    assert LogisticLoss(TWO).metrics(u[:, 0], y % 2) == LogisticLoss().metrics(u[:, 0], y % 2)


@pytest.mark.parametrize("kind", [list, torch.tensor, np.array])
def test_weights_may_be_lists_tensors_and_arrays(kind):
    assert SoftmaxLoss(kind(THREE)).class_weights == pytest.approx(THREE, rel=1e-6)
    assert SoftmaxLoss(kind(THREE)).largest_weight == 4.0


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: SoftmaxLoss([1.0, -1.0]), ArgumentError, "A class weight must be positive"),
        (lambda: SoftmaxLoss([1.0, 0.0]), ArgumentError, "A class weight must be positive"),
        (lambda: SoftmaxLoss([1.0]), ArgumentError, "`class_weights` must be a positive number"),
        (lambda: SoftmaxLoss("balanced"), ArgumentError, r"got 'balanced'"),
        (lambda: LogisticLoss(THREE), ShapeError, "`class_weights` of LogisticLoss must be 2"),
        (
            lambda: bilevel.best_response(
                Classes(criterion=SoftmaxLoss(TWO), outputs=3),
                Classes().init_body(torch.Generator()),
            ),
            ShapeError,
            "`class_weights` of SoftmaxLoss must be 3",
        ),
    ],
)  # fmt: skip
def test_bad_weights_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
