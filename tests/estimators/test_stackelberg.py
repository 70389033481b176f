"""Networks as estimators of scikit-learn: its checks, and what they say nothing of."""

import pickle
import re

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import make_friedman1, make_moons
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import bilevel
from bilevel.errors import AllRunsFailedError, ArgumentError, DataError, UnknownNameError
from bilevel.estimators import StackelbergClassifier, StackelbergRegressor

SMALL = {"max_steps": 60, "random_state": 0}
CHECKED = [
    StackelbergRegressor(8, max_steps=300),
    StackelbergClassifier(8, max_steps=300, body_lr=5e-3),
]
CHECKED_TOO = [StackelbergRegressor(8, max_steps=300, strategy="two-timescale")]
X, Y = make_friedman1(200, noise=0.5, random_state=0)
PLANE, MOONS = make_moons(200, noise=0.1, random_state=0)


@parametrize_with_checks(CHECKED)
def test_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(CHECKED_TOO)
def test_the_checks_with_another_strategy(estimator, check):
    check(estimator)


def test_a_network_finds_what_a_line_does_not():
    train, test = slice(0, 150), slice(150, None)
    line = Ridge().fit(X[train], Y[train]).score(X[test], Y[test])
    network = StackelbergRegressor(random_state=0).fit(X[train], Y[train])
    assert network.score(X[test], Y[test]) > line + 0.05
    curve = StackelbergClassifier(16, body_lr=1e-2, random_state=0)
    assert curve.fit(PLANE[train], MOONS[train]).score(PLANE[test], MOONS[test]) > 0.97


def test_units_do_not_matter():
    """Inputs and targets are standardised inside, and predictions come back in their units."""
    first = StackelbergRegressor(8, **SMALL).fit(X, Y)
    other = StackelbergRegressor(8, **SMALL).fit(1e6 * X + 1e7, 1e-3 * Y - 4)
    expected = 1e-3 * first.predict(X) - 4
    np.testing.assert_allclose(other.predict(1e6 * X + 1e7), expected, rtol=1e-6)


def test_the_head_is_the_ridge_regression_on_the_features():
    """By scikit-learn, on the standardised training rows and the hidden layers of the model."""
    fitted = StackelbergRegressor(8, early_stopping=False, ridge=0.05, **SMALL).fit(X, Y)
    model = fitted.model_
    z = np.maximum(
        StandardScaler().fit_transform(X) @ model.body["weight1"].numpy()
        + model.body["bias1"].numpy(),
        0,
    )
    head = Ridge(alpha=0.05 * len(X)).fit(z, (Y - Y.mean()) / Y.std())
    np.testing.assert_allclose(model.head[:-1, 0], head.coef_, atol=1e-5)
    np.testing.assert_allclose(fitted.predict(X), Y.mean() + Y.std() * head.predict(z), rtol=1e-5)


def test_the_step_with_the_best_validation_is_kept_and_the_training_stops_after_it():
    fitted = StackelbergRegressor(32, ridge=1e-4, random_state=1, n_iter_no_change=3).fit(X, Y)
    steps, scores = fitted.history_["step"], fitted.history_["validation_mse"]
    best = 1 + scores[1:].argmin()
    assert (fitted.n_iter_, fitted.best_validation_) == (steps[best], scores[best])
    assert len(scores) == best + 4
    assert steps[-1] < 5000
    assert fitted.loss_curve_ == fitted.history_["objective"].tolist()
    patient = clone(fitted).set_params(n_iter_no_change=30).fit(X, Y)
    assert patient.best_validation_ <= fitted.best_validation_


def test_without_early_stopping_all_steps_are_made_on_all_rows():
    fitted = StackelbergRegressor(8, early_stopping=False, **SMALL).fit(X, Y)
    assert fitted.n_iter_ == 60
    assert fitted.best_validation_ is None
    np.testing.assert_allclose(fitted.model_.inputs.mean + fitted.model_.inputs.origin,
                               fitted.model_.inputs.mean + X[0])  # fmt: skip
    np.testing.assert_array_equal(fitted.model_.spans[:2], [X.min(0), X.max(0)])


def test_held_out_rows_have_no_part_in_the_scaling():
    """A row that is far away would be seen in it."""
    far = X.copy()
    for row in range(0, 200, 20):
        far[row] = 1e3
    spans = [StackelbergRegressor(4, max_steps=10, random_state=seed, validation_fraction=0.5)
             .fit(far[:40], Y[:40]).model_.spans[1].max() for seed in range(12)]  # fmt: skip
    assert {1e3} < {*spans}  # where both far rows are held out


@pytest.mark.parametrize(("rows", "held"), [(19, 0), (20, 5), (49, 5), (200, 20)])
def test_how_many_rows_are_held_out(rows, held):
    fitted = StackelbergRegressor(2, max_steps=5, random_state=0)
    # one row differs, so that its share in the mean tells how many rows there are
    column = np.zeros((rows, 1))
    column[0] = 1.0
    fitted.fit(np.hstack([X[:rows], column]), Y[:rows])
    share = fitted.model_.inputs.inverse(np.zeros(11))[-1]
    assert (fitted.best_validation_ is None) == (held == 0)
    assert share in (0, pytest.approx(1 / (rows - held)))
    assert share > 0 or held


def test_every_class_keeps_rows_to_train_on():
    labels = np.array([0] * 30 + [1] * 30 + [2])
    fitted = StackelbergClassifier(4, validation_fraction=0.5, **SMALL).fit(X[:61], labels)
    assert fitted.predict_proba(X).shape == (200, 3)


@pytest.mark.parametrize("names", [["no", "yes"], ["a", "b", "c"], [3, 7, 1], [True, False]])
def test_labels_of_any_kind(names):
    labels = np.array(names)[np.arange(200) % len(names)]
    fitted = StackelbergClassifier(4, **SMALL).fit(X, labels)
    assert fitted.classes_.tolist() == sorted(names)
    sure = fitted.predict_proba(X)
    np.testing.assert_allclose(sure.sum(1), 1, atol=1e-12)
    np.testing.assert_array_equal(fitted.predict(X), fitted.classes_[sure.argmax(1)])
    np.testing.assert_array_equal(fitted.model_.predict(X), fitted.predict(X))


def test_several_outputs_one_of_which_is_constant():
    targets = np.column_stack([Y, np.full(200, 7.0), -3 * Y + X[:, 5]])
    fitted = StackelbergRegressor(16, random_state=0).fit(X, targets)
    found = fitted.predict(X)
    assert found.shape == (200, 3)
    np.testing.assert_allclose(found[:, 1], 7, rtol=1e-12)
    assert fitted.best_validation_ is not None
    assert min(np.corrcoef(found[:, k], targets[:, k])[0, 1] for k in (0, 2)) > 0.9
    constant = StackelbergRegressor(4, random_state=0).fit(X, np.full((200, 1), 3.0))
    np.testing.assert_array_equal(constant.predict(X), np.full((200, 1), 3.0))


def test_pipelines_searches_clones_and_pickles():
    made = make_pipeline(PolynomialFeatures(2), StackelbergRegressor(4, **SMALL))
    grid = {"stackelbergregressor__ridge": [1e-3, 0.1],
            "stackelbergregressor__hidden_layer_sizes": [4, (8, 4)]}  # fmt: skip
    search = GridSearchCV(made, grid, cv=2).fit(X, Y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    best = search.best_estimator_
    again = clone(best).fit(X, Y)
    np.testing.assert_array_equal(again.predict(X), best.predict(X))
    stored = pickle.loads(pickle.dumps(best))
    np.testing.assert_array_equal(stored.predict(X), best.predict(X))


def test_strategies_by_name_and_as_objects():
    named = StackelbergRegressor(4, strategy="two-timescale", body_lr=2e-3, head_lr=8e-3, **SMALL)
    strategy = bilevel.TwoTimescale(2e-3, 8e-3, bilevel.Adam())
    given = StackelbergRegressor(4, strategy=strategy, **SMALL)
    usual = StackelbergRegressor(4, head_lr=8e-3, body_lr=2e-3, **SMALL)
    found = [made.fit(X, Y).predict(X) for made in (named, given, usual)]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    exact = StackelbergRegressor(4, strategy="best response", body_lr=1e-2, **SMALL).fit(X, Y)
    np.testing.assert_array_equal(
        exact.predict(X), StackelbergRegressor(4, **SMALL).fit(X, Y).predict(X)
    )


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    StackelbergRegressor(4, **SMALL).fit(X, Y)
    assert (torch.get_rng_state() == before[0]).all()
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002


def test_progress_is_shown_where_it_is_asked_for(capsys):
    StackelbergRegressor(4, verbose=True, **SMALL).fit(X, Y)
    assert "BestResponse" in capsys.readouterr().err
    StackelbergRegressor(4, **SMALL).fit(X, Y)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"hidden_layer_sizes": 0}, ArgumentError, "`width` must be a positive integer"),
        ({"activation": "logistic"}, UnknownNameError, "There is no activation 'logistic'"),
        ({"strategy": "best"}, UnknownNameError, "no strategy 'best'. Did you mean 'best resp"),
        ({"strategy": 3}, ArgumentError, "`strategy` must be an object such as TwoTimescale"),
        (
            {"strategy": bilevel.uniform(0.1), "body_lr": 0.1},
            ArgumentError,
            "`strategy` has rates of its own: leave out `body_lr` and `head_lr`.",
        ),
        ({"body_lr": -1.0}, ArgumentError, "must be positive"),
        ({"ridge": -1.0}, ArgumentError, "`ridge`"),
        ({"batch_size": 0}, ArgumentError, "`batch_size` must be a positive integer or None"),
        ({"max_steps": 0}, ArgumentError, "`max_steps` must be a positive integer"),
        ({"validation_fraction": 1.0}, ArgumentError, "must lie between 0 and 1, got 1.0."),
        ({"n_iter_no_change": 0}, ArgumentError, "`n_iter_no_change` must be a positive"),
        ({"early_stopping": 1}, ArgumentError, "`early_stopping` must be True or False"),
        ({"verbose": 2}, ArgumentError, "`verbose` must be True or False"),
    ],
)
def test_wrong_parameters(arguments, error, said):
    for estimator in (StackelbergRegressor, StackelbergClassifier):
        with pytest.raises(error, match=re.escape(said)):
            estimator(**arguments).fit(PLANE, MOONS)


def test_one_class_and_a_training_that_diverges():
    with pytest.raises(DataError, match="`y` holds one class, "):
        StackelbergClassifier().fit(X, np.zeros(200))
    wild = StackelbergRegressor(4, strategy=bilevel.uniform(1e30, bilevel.SGD()), **SMALL)
    with pytest.raises(AllRunsFailedError, match="Lower `body_lr` and `head_lr`"):
        wild.fit(X, Y)
    assert LinearRegression().fit(X, Y).score(X, Y) > 0.5  # the data are in order
