"""GroupLogistic: penalties by group for classes."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import bilevel
from bilevel.errors import ArgumentError, BilevelError, SingularHeadError
from bilevel.estimators import GroupLogistic, PenaltyBoundWarning
from bilevel.estimators.fold_classes import FoldClasses, FoldLosses
from bilevel.estimators.folds import class_folds
from bilevel.point.walk import Step

GROUPS = [0, 0, 1, 1, 1]


def rows(classes=2, n=60, seed=0):
    """Two columns that matter and three that do not."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 5)) * [1, 10, 1, 0.1, 2] + [0, 5, 0, 1, 0]
    scores = x[:, :2] @ (3 * rng.standard_normal((2, classes)) / [[1], [10]])
    scores += rng.gumbel(size=scores.shape) + [0, 1, 0][:classes]
    return x, scores.argmax(1)


def problem(classes, scale=True, n=58):
    x, labels = rows(classes, n)  # folds of unequal lengths
    folds = class_folds(4, 0, x, labels)
    assert len({len(train) for train, _ in folds}) > 1
    return x, labels, folds, FoldClasses(x, labels, classes, folds, np.array(GROUPS), scale=scale)


@pytest.mark.filterwarnings("ignore::bilevel.estimators.PenaltyBoundWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([GroupLogistic(cv=2, max_iter=2)])
def test_it_is_an_estimator(estimator, check):
    check(estimator)


@pytest.mark.parametrize("classes", [2, 3])
def test_gradients_are_those_of_finite_differences(classes):
    *_, made = problem(classes)
    losses = FoldLosses(made, np.array([-1.0, 0.5]))
    u = np.array([-2.0, -1.0])
    value, slope = losses(u)
    central = [(losses(u + 1e-4 * e)[0] - losses(u - 1e-4 * e)[0]) / 2e-4 for e in np.eye(2)]
    assert np.abs(slope).max() > 1e-3
    np.testing.assert_allclose(slope, central, atol=1e-8)
    found = bilevel.hypergradient(made, torch.tensor(u))
    assert float(found.value) == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(slope, found.body.numpy(), atol=1e-10)


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_value_is_the_mean_loss_of_rows_left_out(classes, scale):
    x, labels, folds, made = problem(classes, scale)
    u = np.array([-3.0, 0.0])
    total = 0.0
    for train, left_out in folds:
        deviation = x[train].std(0) if scale else 1.0
        units = 1 / (deviation * np.sqrt(len(train) * np.exp(u)[GROUPS]))
        model = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000, solver="newton-cholesky")
        model.fit((x[train] - x[train].mean(0)) * units, labels[train])
        probable = model.predict_proba((x[left_out] - x[train].mean(0)) * units)
        total += log_loss(labels[left_out], probable, normalize=False, labels=range(classes))
    assert FoldLosses(made, u)(u)[0] == pytest.approx(total / len(x), rel=1e-6)


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("classes", [2, 3])
def test_coefficients_are_those_of_logistic_regression_at_the_penalties(classes, scale):
    x, labels = rows(classes, 90)
    model = GroupLogistic(GROUPS, scale=scale).fit(x, labels)
    units = 1 / ((x.std(0) if scale else 1.0) * np.sqrt(model.alphas_[GROUPS]))
    other = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000, solver="newton-cholesky")
    other.fit((x - x.mean(0)) * units, labels)
    assert model.coef_.shape == other.coef_.shape
    assert model.intercept_.shape == other.intercept_.shape
    np.testing.assert_allclose(model.coef_, other.coef_ * units, rtol=1e-5, atol=1e-7)
    probable = other.predict_proba((x - x.mean(0)) * units)
    np.testing.assert_allclose(model.predict_proba(x), probable, atol=1e-6)
    np.testing.assert_allclose(model.predict_proba(x).sum(1), 1)
    np.testing.assert_allclose(np.exp(model.predict_log_proba(x)), probable, atol=1e-6)
    np.testing.assert_array_equal(model.predict(x), probable.argmax(1))


@pytest.mark.parametrize("classes", [2, 3])
def test_noise_is_penalised_more_than_signal(classes):
    x, labels = rows(classes, 300)
    model = GroupLogistic(GROUPS, shrink=0.1).fit(x, labels)
    assert model.alphas_[1] > 3 * model.alphas_[0]
    assert (np.diff(model.path_) <= 1e-12).all()
    assert len(model.path_) == model.n_iter_ + 1


def test_names_of_classes_come_back():
    x, labels = rows(3)
    names = np.array(["pear", "apple", "plum"])[labels]
    model = GroupLogistic(GROUPS, max_iter=3).fit(x, names)
    assert list(model.classes_) == ["apple", "pear", "plum"]
    assert set(model.predict(x)) <= set(names)
    assert model.score(x, names) > 0.5


@pytest.mark.parametrize("classes", [2, 3])
def test_small_probabilities_have_logarithms(classes):
    x, labels = rows(classes)
    model = GroupLogistic(GROUPS, max_iter=3).fit(x, labels)
    far = model.predict_log_proba(1e6 * x)
    assert np.isfinite(far).all()
    assert far.min() < -1000


def test_units_and_the_order_of_columns_do_not_matter():
    x, labels = rows()
    model = GroupLogistic(GROUPS).fit(x, labels)
    units, order = np.array([1e3, 1e-3, 1, 10, 7]), np.array([4, 2, 0, 1, 3])
    other = GroupLogistic(np.array(GROUPS)[order]).fit((x * units + 5)[:, order], labels)
    np.testing.assert_allclose(other.alphas_, model.alphas_, rtol=1e-2)
    found = other.predict_proba((x * units + 5)[:, order])
    np.testing.assert_allclose(found, model.predict_proba(x), atol=1e-4)


@pytest.mark.filterwarnings("ignore::bilevel.estimators.PenaltyBoundWarning")
def test_rare_classes_are_always_trained_on():
    x, labels = rows(3, 40)
    labels[labels == 2] = 0
    labels[7] = 2  # alone: in the training rows of each fold
    folds = class_folds(5, 0, x, labels)
    assert all(set(labels[train]) == {0, 1, 2} for train, _ in folds)
    left_out = np.sort(np.concatenate([rows for _, rows in folds]))
    np.testing.assert_array_equal(left_out, np.delete(np.arange(40), 7))
    model = GroupLogistic(GROUPS, max_iter=5).fit(x, labels)
    assert np.isfinite(model.predict_proba(x)).all()
    few = GroupLogistic(max_iter=3).fit(x[:4], [0, 0, 1, 1])  # fewer rows than folds
    assert np.isfinite(few.coef_).all()


def test_folds_are_balanced():
    x, labels = rows(3, 100)
    for train, left_out in class_folds(5, 0, x, labels):
        assert len(left_out) == 20
        counts = np.bincount(labels[left_out]) - np.bincount(labels) / 5
        assert np.abs(counts).max() <= 1
        np.testing.assert_array_equal(np.sort(np.r_[train, left_out]), np.arange(100))


@pytest.mark.filterwarnings("ignore::bilevel.estimators.PenaltyBoundWarning")
def test_constant_columns_have_no_coefficient():
    x, labels = rows()
    model = GroupLogistic(max_iter=3).fit(np.c_[x, np.full(len(x), 1e9 / 3)], labels)
    assert (model.coef_[:, -1] == 0).all()
    assert np.isfinite(model.intercept_).all()


def test_penalties_at_a_bound_are_told():
    x = np.linspace(-1, 1, 40).reshape(-1, 1)
    with pytest.warns(PenaltyBoundWarning, match="lower bound"):
        model = GroupLogistic().fit(x, x[:, 0] > 0)  # separated: the less penalty, the better
    assert model.at_bound_.all()


@pytest.mark.filterwarnings("ignore::bilevel.estimators.PenaltyBoundWarning")
def test_it_goes_where_estimators_go():
    x, labels = load_iris(return_X_y=True)
    line = make_pipeline(StandardScaler(), GroupLogistic([0, 0, 1, 1], cv=3, max_iter=3))
    search = GridSearchCV(line, {"grouplogistic__shrink": [1.0, 10.0]}, cv=2).fit(x, labels)
    assert search.best_score_ > 0.9
    model = search.best_estimator_
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(x), model.predict_proba(x))
    np.testing.assert_array_equal(clone(model).fit(x, labels)[-1].coef_, model[-1].coef_)


def test_folds_can_be_given():
    x, labels = rows()
    given = GroupLogistic(GROUPS, cv=StratifiedKFold(4), max_iter=3).fit(x, labels)
    pairs = GroupLogistic(GROUPS, cv=list(StratifiedKFold(4).split(x, labels)), max_iter=3)
    np.testing.assert_array_equal(pairs.fit(x, labels).coef_, given.coef_)


WRONG = [
    ({"cv": 1}, "`cv`"),
    ({"cv": [(range(10), range(10, 60))]}, "`cv` has a fold whose training rows lack a class"),
    ({"shrink": -1}, "`shrink`"),
    ({"scale": None}, "`scale`"),
    ({"max_iter": 0.5}, "`max_iter`"),
    ({"groups": [0]}, "`groups`"),
    ({"random_state": "x"}, "`random_state`"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_bad_arguments_are_named(options, message):
    x, labels = rows()
    order = np.argsort(labels, kind="stable")
    with pytest.raises(BilevelError, match=message):
        GroupLogistic(**options).fit(x[order], labels[order])


def test_labels_must_be_learnable():
    x, labels = rows()
    with pytest.raises(ArgumentError, match="`y` has one class only"):
        GroupLogistic().fit(x, np.zeros(len(x)))
    with pytest.raises(ArgumentError, match="`y` has no class with two rows"):
        GroupLogistic().fit(x[:3], [0, 1, 2])
    with pytest.raises(ValueError, match="Unknown label type"):
        GroupLogistic().fit(x, labels + 0.5 * np.linspace(0, 1, len(x)))


def test_heads_that_are_not_found_are_an_error(monkeypatch):
    *_, made = problem(2)
    losses = FoldLosses(made, np.zeros(2))
    lost = Step(float("nan"), torch.full((2,), torch.nan), bilevel.Status.DIVERGED)
    monkeypatch.setattr(losses, "_walk", lambda body: lost)
    with pytest.raises(SingularHeadError, match="of a fold was not found"):
        losses(np.zeros(2))


def test_a_search_is_a_few_evaluations(monkeypatch):
    seen = []
    whole = FoldLosses.__call__
    monkeypatch.setattr(FoldLosses, "__call__", lambda self, u: seen.append(u) or whole(self, u))
    GroupLogistic().fit(*rows(3, 120))
    assert len(seen) <= 12 + 30
