"""Fitted, saved, and asked by `bilevel predict`: the same numbers, in the units of the users."""

import csv

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import (
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    RidgeCV,
    SGDClassifier,
)
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeRegressor

from bilevel.commands.main import main
from bilevel.errors import ArgumentError, ResultsError, ResultsExistError, UnwritableError
from bilevel.estimators import (
    GroupLogistic,
    GroupRidge,
    StackelbergClassifier,
    StackelbergRegressor,
    save_model,
)
from bilevel.tables import Model, Predicted, model_file

RANDOM = np.random.default_rng(2)
NAMES = ["height [cm]", "mass", "age"]
X = RANDOM.normal(size=(120, 3)) * [10, 2e-3, 1e6] + [170, 0.07, 4e7]
Y = X @ [3.0, 1e5, 1e-5] + RANDOM.normal(size=120)
BOTH = np.column_stack([Y, X[:, 0] ** 2])
Z = StandardScaler().fit_transform(X)
LABELS = np.digitize(Y + 20 * RANDOM.normal(size=120), np.quantile(Y, [1 / 3, 2 / 3]))
TRAIN, NEW = slice(0, 100), slice(100, None)
SMALL = {"max_steps": 40, "random_state": 0}


def written(path, names=NAMES, rows=X[NEW]):
    """The columns in another order, behind an identifier."""
    with path.open("w", newline="") as file:
        header = ["id", *names[::-1]]
        csv.writer(file).writerows([header, *([f"N{k}", *r[::-1]] for k, r in enumerate(rows))])
    return path


def predicted(path):
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    return rows[0], rows[1:]


@pytest.mark.parametrize(
    ("estimator", "targets", "called"),
    [
        (StackelbergRegressor(8, **SMALL), Y, "price"),
        (StackelbergRegressor((8, 4), activation="tanh", **SMALL), BOTH, ["price", "area"]),
        (RidgeCV(), Y, "price"),
        (Ridge(0.1), BOTH, ["price", "area"]),
        (GroupRidge(), Y, "price"),
        (GroupRidge(), BOTH, ["price", "area"]),
    ],
    ids=["network", "two outputs", "linear", "linear, two outputs", "groups", "groups, two"],
)
@pytest.mark.filterwarnings("ignore:.* penalties ended at the lower bound")
def test_the_command_predicts_what_the_estimator_does(estimator, targets, called, tmp_path, capsys):
    fitted = estimator.fit(X[TRAIN], targets[TRAIN])
    path = save_model(fitted, tmp_path / "model.safetensors", names=NAMES, target=called)
    assert main(["predict", str(path), str(written(tmp_path / "new.csv"))]) == 0
    header, rows = predicted(tmp_path / "new-predictions.csv")
    names = [called] if isinstance(called, str) else called
    assert header == ["id", *(f"predicted {name}" for name in names)]
    assert [row[0] for row in rows] == [f"N{k}" for k in range(20)]
    expected = fitted.predict(X[NEW]).reshape(20, -1)
    found = np.array([[float(cell) for cell in row[1:]] for row in rows])
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    np.testing.assert_allclose(Model.load(path).predict(X[NEW]).reshape(20, -1), found, rtol=1e-12)
    assert f"from 3 columns, by {type(fitted).__name__}" in capsys.readouterr().out


@pytest.mark.parametrize("names", [["cheap", "dear"], ["a", "b", "c"], [0.0, 1.0], [True, False]])
def test_classes_with_their_probabilities(names, tmp_path, capsys):
    labels = np.array(names)[np.digitize(Y, np.quantile(Y, np.arange(1, len(names)) / len(names)))]
    fitted = StackelbergClassifier(8, **SMALL).fit(X[TRAIN], labels[TRAIN])
    path = save_model(fitted, tmp_path / "model.safetensors", names=NAMES, target="kind")
    new = written(tmp_path / "new.csv")
    text = [line + f",{label}" for line, label in zip(
        new.read_text().splitlines(), ["kind", *labels[NEW]], strict=True)]  # fmt: skip
    new.write_text("\n".join(text))
    assert main(["predict", str(path), str(new)]) == 0
    header, rows = predicted(tmp_path / "new-predictions.csv")
    assert header == [
        "id",
        "kind",
        "predicted kind",
        *(f"probability of {x}" for x in sorted(names)),
    ]
    found = np.array([[float(cell) for cell in row[3:]] for row in rows])
    np.testing.assert_allclose(found, fitted.predict_proba(X[NEW]), rtol=1e-12)
    assert [row[2] for row in rows] == [str(x) for x in fitted.predict(X[NEW])]
    right = (fitted.predict(X[NEW]) == labels[NEW]).mean()
    said = f"Column 'kind' is there too, in 20 of 20 rows: {right:.1%} of the predictions are right"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("estimator", [LogisticRegression(), GroupLogistic(cv=3)])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.filterwarnings("ignore:.* penalties ended at")
def test_linear_classifiers_with_their_probabilities(estimator, classes, tmp_path):
    labels = np.array(["a", "b", "c"])[LABELS % classes]
    fitted = clone(estimator).fit(Z, labels)
    model = Model.load(save_model(fitted, tmp_path / "model.safetensors"))
    np.testing.assert_allclose(model.probabilities(Z), fitted.predict_proba(Z), rtol=1e-9)
    np.testing.assert_array_equal(model.predict(Z), fitted.predict(Z))


def test_names_are_those_of_the_columns(tmp_path):
    fitted = StackelbergRegressor(4, **SMALL).fit(X, Y)
    path = save_model(fitted, tmp_path / "plain.safetensors")
    assert repr(Model.load(path)) == "Model(target from 3 columns)"
    new = written(tmp_path / "new.csv", ["x0", "x1", "x2"], X)
    np.testing.assert_array_equal(Predicted.of(Model.load(path), new).values, fitted.predict(X))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"names": ["a"]}, r"`names` must be 3 names, got \['a'\]\."),
        ({"names": 3}, "Names are a list of texts, got 3."),
        ({"names": ["a", "a", "b"]}, "`names` and `target` must all differ."),
        ({"names": ["a", "b", "target"]}, "`names` and `target` must all differ."),
        ({"target": ["a", "b"]}, r"`target` must be 1 name, got \['a', 'b'\]\."),
    ],
)
def test_names_that_do_not_fit(arguments, said, tmp_path):
    fitted = Ridge().fit(X, Y)
    with pytest.raises(ArgumentError, match=said):
        save_model(fitted, tmp_path / "model.safetensors", **arguments)


def test_what_cannot_be_saved(tmp_path):
    path = tmp_path / "model.safetensors"
    for made in (StackelbergRegressor(), Ridge(), None, Ridge):
        with pytest.raises(ArgumentError, match="`estimator` is not fitted, or no estimator"):
            save_model(made, path)
    for made in (
        RidgeClassifier().fit(X, Y.mean() < Y),  # no probabilities
        PoissonRegressor().fit(Z, np.abs(Y)),  # the exponential of something linear
        DecisionTreeRegressor().fit(X, Y),
        SGDClassifier(loss="log_loss", random_state=0).fit(Z, LABELS),  # one against the rest
        SGDClassifier(loss="log_loss", random_state=0).fit(Z + 1e6, LABELS),
    ):
        with pytest.raises(ArgumentError, match="must be a network of this package, or have `coef"):
            save_model(made, path)
    with pytest.raises(ArgumentError, match="fit one without a pipeline"):
        save_model(make_pipeline(StandardScaler(), Ridge()).fit(X, Y), path)
    with pytest.raises(ArgumentError, match="`best_estimator_`"):
        save_model(GridSearchCV(Ridge(), {"alpha": [1.0]}, cv=2).fit(X, Y), path)
    save_model(Ridge().fit(X, Y), path)
    with pytest.raises(ResultsExistError, match="Name another file"):
        save_model(Ridge().fit(X, Y), path)
    (tmp_path / "other.safetensors").write_bytes(b"other")
    with pytest.raises(ResultsError, match="damaged"):
        Model.load(tmp_path / "other.safetensors")


@pytest.mark.parametrize("unit", [1e-12, 1e12])
def test_units_do_not_decide_what_is_linear(unit, tmp_path):
    fitted = GroupRidge().fit(Z, unit * Y)
    model = Model.load(save_model(fitted, tmp_path / "linear.safetensors"))
    np.testing.assert_allclose(model.predict(Z), fitted.predict(Z), rtol=1e-9)
    # its coefficients are of columns around their means, its `intercept_` is the mean of targets
    other = PLSRegression(2).fit(X, unit * Y)
    with pytest.raises(ArgumentError, match="must be a network of this package, or have `coef"):
        save_model(other, tmp_path / "other.safetensors")


def test_a_file_of_a_newer_version(tmp_path, monkeypatch):
    monkeypatch.setattr(model_file, "KIND", "bilevel model 2")
    path = save_model(Ridge().fit(X, Y), tmp_path / "model.safetensors")
    monkeypatch.undo()
    said = "holds a bilevel model 2, and this version of bilevel reads 'bilevel model 1' only"
    with pytest.raises(ResultsError, match=said):
        Model.load(path)


@pytest.mark.parametrize(
    ("labels", "cells", "said"),
    [
        (["a", "b"], ["a", "", "?", "NA", "a"], "in 2 of 5 rows"),
        (["none", "some"], ["none", "", "none", "NA", "?"], "in 2 of 5 rows"),
        ([False, True], ["FALSE", "0", "false", "", "False"], "in 4 of 5 rows"),
    ],
)
def test_labels_that_are_not_known_are_not_wrong(labels, cells, said, tmp_path):
    fitted = LogisticRegression().fit(Z, np.array(labels)[(Z[:, 0] > 0).astype(int)])
    path = save_model(fitted, tmp_path / "model.safetensors", names=NAMES, target="kind")
    new = written(tmp_path / "new.csv", rows=np.full((5, 3), -1.0))
    lines = zip(new.read_text().splitlines(), ["kind", *cells], strict=True)
    new.write_text("\n".join(f"{line},{cell}" for line, cell in lines))
    (judged,) = Predicted.of(Model.load(path), new).judged()
    assert judged == f"Column 'kind' is there too, {said}: 100.0% of the predictions are right."


def test_predictions_are_written_whole_and_over_nothing(tmp_path, monkeypatch):
    path = save_model(Ridge().fit(X, Y), tmp_path / "model.safetensors", names=NAMES)
    new = written(tmp_path / "new.csv")
    found, before = Predicted.of(Model.load(path), new), new.read_bytes()
    with pytest.raises(ResultsExistError, match="Name another file"):
        found.write(new)
    assert new.read_bytes() == before

    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UnwritableError):
        found.write(tmp_path / "out.csv")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.safetensors", "new.csv"]
