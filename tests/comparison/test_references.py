"""What needs no training, against scikit-learn, and what is said and drawn of it."""

import numpy as np
import pytest
import torch
from class_heads import Classes
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.linear_model import LinearRegression
from sklearn.metrics import accuracy_score, log_loss, mean_squared_error
from small_problems import Smooth, doubles

import bilevel
from bilevel.comparison.references import FREQUENCIES, LINE, MEAN, references
from bilevel.comparison.statistics.rules import against_references
from bilevel.data.training_data import TrainingData
from bilevel.report import first_page
from bilevel.storage.results import OWN_SETTINGS

FEW = {"width": 3, "train": 40, "validation": 11, "test": 17}


def measured(problem, seeds=(4, 0, 4)):
    return references(TrainingData(problem, list(seeds), torch.float64, "cpu"))


def test_regression_rules_are_those_of_scikit_learn_for_every_seed():
    problem = bilevel.load_problem("friedman1", **FEW)
    found = measured(problem)
    assert list(found) == [MEAN, LINE]
    for place, seed in enumerate((4, 0, 4)):
        groups = problem.data(seed)
        for name, model in ((MEAN, DummyRegressor()), (LINE, LinearRegression())):
            model.fit(*(leaf.numpy() for leaf in groups["train"]))
            for group in ("validation", "test"):
                inputs, targets = (leaf.numpy() for leaf in groups[group])
                expected = mean_squared_error(targets, model.predict(inputs))
                assert found[name][f"{group}_mse"][place] == pytest.approx(expected, rel=1e-10)
    assert found[MEAN]["test_mse"][0] != found[MEAN]["test_mse"][1]


@pytest.mark.parametrize("outputs", [None, 3])
def test_class_rules_are_those_of_scikit_learn(outputs):
    criterion = bilevel.LogisticLoss() if outputs is None else bilevel.SoftmaxLoss()
    problem = Classes(criterion=criterion, outputs=outputs)
    groups, found = problem.data(), measured(problem)
    assert list(found) == [FREQUENCIES]
    model = DummyClassifier().fit(*groups["train"])
    inputs, labels = groups["test"]
    table = {
        "test_cross_entropy": log_loss(labels, model.predict_proba(inputs)),
        "test_accuracy": accuracy_score(labels, model.predict(inputs)),
    }
    for metric, expected in table.items():
        assert found[FREQUENCIES][metric] == pytest.approx([expected] * 3, rel=1e-12)


def test_several_outputs_have_a_line_each():
    problem = Smooth(outputs=2)
    groups, found = problem.data(), measured(problem)
    model = LinearRegression().fit(*(leaf.numpy() for leaf in groups["train"]))
    inputs, targets = (leaf.numpy() for leaf in groups["test"])
    errors = problem.criterion.metrics(torch.from_numpy(model.predict(inputs)), groups["test"][1])
    assert found[LINE]["test_mse"][0] == pytest.approx(float(errors["mse"]), rel=1e-10)
    assert targets.shape[1] == 2


class Measured(Smooth):
    def metrics(self, body, head, data):
        return {"test_mse": head.sum()}


def test_other_metrics_tasks_and_wide_tables_have_none():
    assert measured(Measured()) == {}
    assert measured(bilevel.load_problem("scalar-product")) == {}
    assert measured(bilevel.load_problem("sinusoid")) == {}
    wide = {name: rows._replace(inputs=doubles(3, len(rows.inputs), 70))
            for name, rows in Smooth().data().items()}  # fmt: skip
    assert list(measured(Smooth(groups=wide))) == [MEAN]


@pytest.fixture(scope="module")
def found():
    return bilevel.compare(
        bilevel.load_problem("friedman1", **FEW, ridge=1e-2),
        {"slow": bilevel.uniform(1e-4), "fast": bilevel.BestResponse(1e-2)},
        seeds=4,
        steps=60,
        every=10,
    )


def test_a_comparison_keeps_them_says_them_and_draws_them(found, tmp_path):
    content = found.content()
    table = content["references"]
    assert "references" in OWN_SETTINGS
    text = first_page.scale(content)
    mean, line = (table["values"][name]["test_mse"] for name in (MEAN, LINE))
    assert text.startswith("For scale, the test MSE of rules that need no training: predicting the")
    assert f"predicting the mean {mean:.2f} and the least-squares line {line:.3f}." in text
    assert text in found.table()
    page = found.report(tmp_path / "report").read_text(encoding="utf-8")
    for words in ("rules that need no training", "least-squares line", "predicting the mean"):
        assert words in page
    curves = (tmp_path / "report/test_mse-steps.svg").read_text(encoding="utf-8")
    assert curves.count("least-squares line") == curves.count("predicting the mean") == 1
    again = bilevel.Comparison.load(tmp_path / "report").content()["references"]
    assert again == table


def test_who_is_better_is_a_paired_interval(found):
    sides = found.content()["references"]["sides"]
    for name, runs in found.final().items():
        changes = runs - np.array(found.settings["references"][LINE]["test_mse"])
        half = 3.182446305284263 * changes.std(ddof=1) / 2  # Student's quantile of three degrees
        low, high = changes.mean() - half, changes.mean() + half
        side = "better" if high < 0 else "worse" if low > 0 else "level"
        assert sides[LINE][name] == side


@pytest.mark.parametrize(
    ("sides", "words"),
    [
        ({"a": "better", "b": "better"}, "All strategies are better than the line."),
        ({"a": "better"}, "a is better than the line."),
        ({"a": "better", "b": "level"}, "a is better than the line, b is no different from it."),
        ({"a": "worse", "b": "worse"}, "All strategies are worse than the line."),
        ({"a": "worse", "b": "worse", "c": "level"},
         "c is no different from the line, a and b are worse than it."),
    ],
)  # fmt: skip
def test_who_is_better_in_words(sides, words):
    told = {"values": {"the line": {"test_mse": 0.5}}, "sides": {"the line": sides}}
    text = first_page.scale({"references": told, "headline": "test_mse",
                             "strategies": sides})  # fmt: skip
    assert text == (
        f"For scale, the test MSE of rules that need no training: the line 0.500. {words}"
    )


@pytest.mark.parametrize(
    ("runs", "side"),
    [([0.4], "better"), ([0.6], "worse"), ([0.4, 0.1], "better"), ([0.4, 0.6], "level"),
     ([0.4, np.nan, 0.3], "level"), ([np.nan] * 3, "worse"), ([0.4] * 3, "better")],
)  # fmt: skip
def test_few_seeds_and_runs_without_a_value(runs, side):
    settings = {"references": {"rule": {"test_mse": [0.5] * len(runs)}}}
    found = against_references({"a": np.array(runs)}, settings, "test_mse")
    assert found["sides"] == {"rule": {"a": side}}
    higher = {"references": {"rule": {"test_r2": [-0.5] * len(runs)}}}
    found = against_references({"a": -np.array(runs)}, higher, "test_r2")
    assert found["sides"] == {"rule": {"a": side}}
