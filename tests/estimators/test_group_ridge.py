"""GroupRidge: penalties by group, coefficients and deviations."""

import pickle
import warnings

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn.base import clone
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.model_selection import GridSearchCV, KFold, LeaveOneOut
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from sklearn.utils import validation
from sklearn.utils.estimator_checks import parametrize_with_checks

from bilevel.errors import ArgumentError, BilevelError, DataError
from bilevel.estimators import GroupRidge, PenaltyBoundWarning, ridge_rows

GROUPS = [0, 0, 0, 1, 1, 1]
KINDS = [
    {},
    {"criterion": "evidence"},
    {"per_target": True},
    {"criterion": "evidence", "per_target": True},
]


def rows(n=60, outputs=3, seed=0):
    """Two groups of three columns; the second one is noise."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 6)) * [1, 10, 0.1, 1, 2, 3] + [0, 5, 0, 1, 0, 0]
    w = rng.standard_normal((3, outputs)) / np.array([[1], [10], [0.1]])
    y = x[:, :3] @ w + rng.standard_normal((n, outputs))
    return x, y


@pytest.mark.filterwarnings("ignore::bilevel.estimators.PenaltyBoundWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([GroupRidge(), GroupRidge(criterion="evidence", per_target=True)])
def test_it_is_an_estimator(estimator, check):
    check(estimator)


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("scale", [True, False])
def test_coefficients_are_those_of_ridge_at_the_penalties(options, scale):
    x, y = rows()
    model = GroupRidge(GROUPS, scale=scale, **options).fit(x, y)
    per_target = options.get("per_target", False)
    assert model.alphas_.shape == ((3, 2) if per_target else (2,))
    assert model.coef_.shape == (3, 6)
    assert model.intercept_.shape == (3,)
    alphas = np.broadcast_to(model.alphas_, (3, 2))[:, GROUPS]
    for t in range(3):
        columns = 1 / (np.sqrt(alphas[t]) * (x.std(0) if scale else 1))
        ridge = Ridge(alpha=1.0, solver="cholesky").fit(x * columns, y[:, t])
        np.testing.assert_allclose(model.coef_[t], ridge.coef_ * columns, rtol=1e-8)
        assert model.intercept_[t] == pytest.approx(ridge.intercept_, rel=1e-8)
        np.testing.assert_allclose(model.predict(x)[:, t], ridge.predict(x * columns), rtol=1e-8)


@pytest.mark.parametrize("options", KINDS)
def test_noise_is_penalised_more_than_signal(options):
    x, y = rows(200, outputs=5, seed=1)
    signal, noise = np.log(np.atleast_2d(GroupRidge(GROUPS, **options).fit(x, y).alphas_)).mean(0)
    assert noise > signal + np.log(5)


def test_one_group_has_the_best_common_penalty():
    x, y = rows(outputs=1)
    y = y[:, 0]
    folds = list(KFold(5, shuffle=True, random_state=0).split(x))

    def error(alpha):
        total = 0.0
        for train, left_out in folds:
            ridge = make_pipeline(StandardScaler(), Ridge(alpha * len(train) / len(x)))
            predicted = ridge.fit(x[train], y[train]).predict(x[left_out])
            total += np.square(predicted - y[left_out]).sum()
        return total / len(x) / y.var()

    model = GroupRidge([0] * 6).fit(x, y)
    best = minimize_scalar(lambda u: error(np.exp(u)), bounds=(-5, 5), options={"xatol": 1e-8})
    assert model.alphas_[0] == pytest.approx(np.exp(best.x), rel=1e-3)
    assert model.path_[-1] == pytest.approx(best.fun, rel=1e-9)
    scaled = StandardScaler().fit_transform(x)
    ridge = RidgeCV(np.logspace(-2, 3, 30)).fit(scaled, y)
    np.testing.assert_allclose(model.predict(x), ridge.predict(scaled), atol=0.1 * y.std())


@pytest.mark.parametrize("options", KINDS)
def test_the_path_falls_to_what_folds_say(options):
    x, y = rows()
    model = GroupRidge(None, **options).fit(x, y)
    paths = model.path_ if options.get("per_target") else [model.path_]
    for path in paths:
        assert len(path) > 1
        assert (np.diff(path) <= 1e-12).all()
    assert max(map(len, paths)) == model.n_iter_ + 1


@pytest.mark.parametrize("options", KINDS)
def test_units_do_not_matter(options):
    x, y = rows()
    model = GroupRidge(GROUPS, **options).fit(x, y)
    units, shift = np.array([1e3, 1e-3, 1, 10, 1, 7]), np.arange(6.0)
    of_y = np.array([100.0, 1, 0.01])
    other = GroupRidge(GROUPS, **options).fit(x * units + shift, y * of_y + 3)
    np.testing.assert_allclose(other.alphas_, model.alphas_, rtol=1e-4)
    np.testing.assert_allclose(other.coef_ * units / of_y[:, None], model.coef_, rtol=1e-4)
    expected = model.predict(x) * of_y + 3
    np.testing.assert_allclose(other.predict(x * units + shift), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", KINDS)
def test_the_order_of_columns_does_not_matter(options):
    x, y = rows()
    order = np.random.default_rng(1).permutation(6)
    model = GroupRidge(**options).fit(x, y)
    other = GroupRidge(**options).fit(x[:, order], y)
    np.testing.assert_allclose(other.predict(x[:, order]), model.predict(x), atol=1e-4)
    np.testing.assert_allclose(other.coef_, model.coef_[:, order], rtol=1e-2, atol=1e-3)


def test_per_target_is_a_model_for_each():
    x, y = rows()
    model = GroupRidge(GROUPS, per_target=True).fit(x, y)
    for t in range(3):
        one = GroupRidge(GROUPS).fit(x, y[:, t])
        np.testing.assert_allclose(model.alphas_[t], one.alphas_, rtol=1e-5)
        np.testing.assert_allclose(model.coef_[t], one.coef_, rtol=1e-5)
        assert model.noise_variance_[t] == pytest.approx(one.noise_variance_, rel=1e-5)


def test_shrinking_draws_penalties_together():
    x, y = rows()
    spread = [np.log(GroupRidge(shrink=c).fit(x, y).alphas_).std() for c in (0.02, 0.1, 1.0, 1e4)]
    assert spread == sorted(spread, reverse=True)
    assert spread[-1] < 1e-2


@pytest.mark.parametrize(
    "groups",
    [
        ["a"] * 3 + ["b"] * 3,
        np.array(GROUPS),
        [[0, 1, 2], [3, 4, 5]],
        [slice(3), slice(3, None)],
        {"a": range(3), "b": [-3, -2, -1]},
        [np.arange(3), np.arange(3, 6)],
    ],
)
def test_groups_can_be_said_in_many_ways(groups):
    x, y = rows()
    model = GroupRidge(groups).fit(x, y)
    np.testing.assert_array_equal(model.alphas_, GroupRidge(GROUPS).fit(x, y).alphas_)
    assert model.groups_ in (["a", "b"], [0, 1])


def test_columns_can_be_named(monkeypatch):
    # as scikit-learn finds them in tables of pandas or polars, which tests do not need
    names = np.array(list("abcdef"), dtype=object)
    monkeypatch.setattr(validation, "_get_feature_names", lambda X: names)
    x, y = rows()
    model = GroupRidge({"first": list("abc"), "last": list("fed")}).fit(x, y)
    assert list(model.feature_names_in_) == list(names)
    assert model.groups_ == ["first", "last"]
    np.testing.assert_array_equal(model.alphas_, GroupRidge(GROUPS).fit(x, y).alphas_)
    assert GroupRidge().fit(x, y).groups_ == list(names)
    with pytest.raises(ArgumentError, match="`groups` names a column 'z'"):
        GroupRidge([["z"], slice(0, 6)]).fit(x, y)
    with pytest.raises(ArgumentError, match='`criterion` must be "cv" or "evidence"'):
        GroupRidge(criterion="loo").fit(x, y)


def test_penalties_at_a_bound_are_told():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 3))
    y = x[:, 0] + 1e-6 * rng.standard_normal(200)
    with pytest.warns(PenaltyBoundWarning, match="of 3 penalties ended at the lower bound"):
        model = GroupRidge(shrink=0.0).fit(x, y)
    assert model.at_bound_[0]
    assert model.at_bound_.shape == (3,)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not GroupRidge(GROUPS).fit(*rows()).at_bound_.any()


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.filterwarnings("ignore::bilevel.estimators.PenaltyBoundWarning")
def test_few_rows_and_constant_columns_are_no_trouble(options):
    rng = np.random.default_rng(0)
    for n, d in ((2, 1), (3, 4), (4, 2), (12, 40)):
        x = np.c_[rng.standard_normal((n, d)), np.full(n, 1e9 / 3)]
        y = np.c_[x[:, 0] + rng.standard_normal(n), np.full(n, 0.1)]
        model = GroupRidge(**options).fit(x, y)
        mean, deviation = model.predict(x, return_std=True)
        assert np.isfinite(mean).all()
        assert np.isfinite(deviation).all()
        assert (model.coef_[:, -1] == 0).all()
        np.testing.assert_allclose(mean[:, 1], 0.1)


@pytest.mark.parametrize("n", [30, 4])
def test_deviations_are_those_of_the_posterior(n):
    x, y = rows(n)
    model = GroupRidge(GROUPS).fit(x, y)
    z, new = (x - x.mean(0)) / x.std(0), (x[:5] - x.mean(0)) / x.std(0)
    alphas = model.alphas_[GROUPS]
    inverse = np.linalg.inv(z.T @ z + np.diag(alphas))
    centred = y - y.mean(0)
    w = inverse @ z.T @ centred
    left = np.square(centred - z @ w).sum(0) + (alphas[:, None] * w**2).sum(0)
    variance = left / (n - 1)
    np.testing.assert_allclose(model.noise_variance_, variance, rtol=1e-9)
    expected = variance * (1 + 1 / n + ((new @ inverse) * new).sum(1))[:, None]
    mean, deviation = model.predict(x[:5], return_std=True)
    np.testing.assert_allclose(deviation**2, expected, rtol=1e-9)
    np.testing.assert_array_equal(mean, model.predict(x[:5]))


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.filterwarnings("ignore::bilevel.estimators.PenaltyBoundWarning")
def test_intervals_cover_what_they_promise(options):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1080, 10))
    w = rng.standard_normal((10, 40)) * np.repeat([1.0, 0.1], 5)[:, None]
    y = x @ w + rng.standard_normal((1080, 40))
    model = GroupRidge([0] * 5 + [1] * 5, **options).fit(x[:80], y[:80])
    mean, deviation = model.predict(x[80:], return_std=True)
    assert deviation.shape == mean.shape
    covered = (np.abs(y[80:] - mean) < 1.645 * deviation).mean()
    assert covered == pytest.approx(0.9, abs=0.02)


def test_it_goes_where_estimators_go():
    x, y = rows(outputs=1)
    y = y[:, 0]
    model = GroupRidge(GROUPS).fit(x, y)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(x), model.predict(x))
    np.testing.assert_array_equal(clone(model).fit(x, y).coef_, model.coef_)
    line = make_pipeline(PolynomialFeatures(include_bias=False), GroupRidge(criterion="evidence"))
    search = GridSearchCV(line, {"groupridge__shrink": [0.1, 1.0]}, cv=3).fit(x, y)
    assert search.best_score_ > 0.3
    assert np.ndim(model.intercept_) == 0
    assert np.ndim(model.noise_variance_) == 0
    assert model.predict(x, return_std=True)[1].shape == (60,)


def test_folds_can_be_given():
    x, y = rows(20)
    same = list(KFold(5, shuffle=True, random_state=0).split(x))
    expected = GroupRidge(GROUPS).fit(x, y).alphas_
    np.testing.assert_array_equal(GroupRidge(GROUPS, cv=same).fit(x, y).alphas_, expected)
    alone = GroupRidge(GROUPS, cv=LeaveOneOut()).fit(x, y).alphas_
    many = GroupRidge(GROUPS, cv=100).fit(x, y).alphas_  # at most as many as rows
    np.testing.assert_allclose(alone, many, rtol=1e-6)


WRONG = [
    ({"criterion": "aic"}, "`criterion`"),
    ({"shrink": -1.0}, "`shrink`"),
    ({"shrink": None}, "`shrink`"),
    ({"per_target": "yes"}, "`per_target`"),
    ({"scale": 1}, "`scale`"),
    ({"max_iter": 0}, "`max_iter`"),
    ({"cv": 1}, "`cv`"),
    ({"cv": None}, "`cv`"),
    ({"cv": "five"}, "`cv`"),
    ({"cv": [([0, 1], [])]}, "`cv`"),
    ({"cv": [([0, 1], [99])]}, "`cv`"),
    ({"random_state": "zero"}, "`random_state`"),
    ({"groups": 3}, "`groups`"),
    ({"groups": "ab"}, "`groups`"),
    ({"groups": [0, 1]}, "`groups` has 2 labels, but there are 6 columns"),
    ({"groups": [0, 0, 0, "a", "a", "a"]}, "`groups` must be all integers or all strings"),
    ({"groups": [[0, 1, 2], [2, 3, 4, 5]]}, "`groups` names column 2 twice"),
    ({"groups": [[0, 1, 2], [3, 4]]}, "`groups` leaves out 1 of 6 columns, the first is 5"),
    ({"groups": [[0, 1, 2, 3, 4, 5], []]}, "`groups` has a group without columns: 1"),
    ({"groups": [[0, 1, 2], [3, 4, 6]]}, "`groups` must name columns from 0 to 5"),
    ({"groups": [[0, 1, 2], 3.5]}, "`groups` must have lists of columns"),
    ({"groups": {"a": ["x"]}}, "`groups` names a column 'x'"),
    ({"groups": [slice("a", 3), slice(3, 6)]}, "`groups` has a slice"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(BilevelError, match=message):
        GroupRidge(**options).fit(*rows(20))


def test_a_search_is_a_few_factorisations(monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 150))
    w = rng.standard_normal((150, 20)) * np.repeat([1, 0.5, 0.1, 0, 0], 30)[:, None]
    y = x @ w
    y += rng.standard_normal(y.shape) * y.std(0)
    sizes, factor = [], ridge_rows.dpotrf
    monkeypatch.setattr(ridge_rows, "dpotrf", lambda a, **k: sizes.append(len(a)) or factor(a, **k))
    model = GroupRidge(np.repeat(range(5), 30)).fit(x, y)
    assert len(sizes) <= 5 * (24 + 40) + 1
    assert set(sizes) == {150}
    sizes.clear()
    GroupRidge(np.repeat(range(5), 30), criterion="evidence").fit(x, y)
    assert len(sizes) <= 24 + 40 + 1
    common = RidgeCV(np.logspace(-2, 5, 20)).fit(x, y)
    new = rng.standard_normal((500, 150))
    errors = [np.square(m.predict(new) - new @ w).mean() for m in (model, common)]
    assert errors[0] < 0.8 * errors[1]


@pytest.mark.parametrize("criterion", ["cv", "evidence"])
@pytest.mark.parametrize("unit", [2.0**-600, 2.0**600])
def test_units_whose_squares_are_no_numbers(criterion, unit):
    x, y = rows()
    same = GroupRidge(GROUPS, criterion=criterion).fit(x, y)
    other = GroupRidge(GROUPS, criterion=criterion).fit(unit * x, y)
    np.testing.assert_array_equal(other.alphas_, same.alphas_)
    np.testing.assert_allclose(other.predict(unit * x), same.predict(x), rtol=1e-12)
    with pytest.raises(DataError, match="too large or too small for their squares"):
        GroupRidge(GROUPS, criterion=criterion, scale=False).fit(unit * x, y)
