"""What is shown and what selects: never g where F is another function, never the test rows."""

import numpy as np
import pytest
import torch

import bilevel
from bilevel import SGD, BestResponse, Comparison, compare
from bilevel.comparison import compare as compare_module
from bilevel.comparison.statistics import judging
from bilevel.comparison.statistics.values import best_values

OPTIONS = {"seeds": 3, "steps": 40, "every": 10, "dtype": torch.float64}
PAIR = {
    "moves": BestResponse(0.2, optimizer=SGD()),
    "stands still": BestResponse(1e-12, optimizer=SGD()),
}


@pytest.fixture(autouse=True)
def untimed(monkeypatch):
    """No timing pass."""
    monkeypatch.setattr(
        compare_module,
        "seconds_per_step",
        lambda strategies, *_, **__: dict.fromkeys(strategies, np.nan),
    )


WISHES = {"test": 0.0, "validation": 1.0}
"""The body that each group of rows would choose."""


class Moved(bilevel.StackelbergProblem):
    """g = 1/2 |theta - w|^2 + w^2, F = 1/2 |theta - 2|^2: theta* = w, so that F falls to 0 where w
    goes to 2, and g rises from about 0 to 4.

    The named metrics are there; a test metric would choose w = 0, a validation metric w = 1.
    """

    def __init__(self, *metrics):
        self.metric_names = metrics

    def data(self, seed=None):
        return {}

    def init_body(self, generator):
        return 0.3 + 0.1 * torch.rand((), generator=generator, dtype=torch.float64)

    def init_head(self, generator):
        return torch.zeros((), dtype=torch.float64)

    def head_objective(self, body, head, batch):
        return 0.5 * (head - body) ** 2 + body**2

    def body_objective(self, body, head, batch):
        return 0.5 * (head - 2.0) ** 2

    def metrics(self, body, head, data):
        found = {}
        for name in self.metric_names:
            distance = (head - WISHES.get(name.partition("_")[0], 0.5)) ** 2
            found[name] = -distance if name.endswith("r2") else distance
        return found


class Same(Moved):
    """F is g: w goes to 0."""

    body_objective = bilevel.StackelbergProblem.body_objective


# what is shown

SHOWN = [
    (Moved(), "body_objective", "moves"),
    (Moved("train_mse"), "body_objective", "moves"),
    (Moved("zeal_mse", "validation_mae", "validation_r2"), "validation_mae", "stands still"),
    (Moved("validation_mse", "test_r2", "test_mse"), "test_r2", "stands still"),
    (Same(), "objective", "moves"),
    (Same("validation_mse"), "validation_mse", "stands still"),
]


@pytest.mark.parametrize(("problem", "headline", "best"), SHOWN)
def test_what_is_shown_and_who_wins(problem, headline, best):
    found = compare(problem, PAIR, **OPTIONS)
    assert found.headline == headline
    final = {name: float(values.mean()) for name, values in found.final().items()}
    winner = max(final, key=final.get) if headline.endswith("r2") else min(final, key=final.get)
    assert winner == best
    if not problem.is_stackelberg:  # by g the one that does not move would win
        g = {name: float(values.mean()) for name, values in found.final("objective").items()}
        assert g["stands still"] < g["moves"]


def test_f_at_the_recorded_point_is_recorded_where_it_is_not_g():
    found = compare(Moved(), PAIR, **OPTIONS)
    for table in found.history.values():
        w = np.sqrt(table["objective"])  # theta = w up to rounding at an exact head
        np.testing.assert_allclose(table["body_objective"], 0.5 * (w - 2.0) ** 2, rtol=1e-9)
    assert "body_objective" not in compare(Same(), PAIR, **OPTIONS).metrics


def test_a_headline_of_ones_own_is_kept():
    problem = Moved("validation_mse", "test_mse")
    for headline in ("objective", "body_objective", "validation_mse", "phi"):
        assert compare(problem, PAIR, headline=headline, **OPTIONS).headline == headline


# what selects

SELECTED = [
    (("test_mse",), None, "body_objective", 2.0),
    (("test_mse", "train_mse"), None, "body_objective", 2.0),
    (("test_mse", "validation_mse"), None, "validation_mse", 1.0),
    (("test_r2", "validation_mse", "validation_r2"), None, "validation_r2", 1.0),
    (("test_mae", "validation_mse", "validation_r2"), None, "validation_mse", 1.0),
    (("train_mse", "validation_mse"), "train_mse", "validation_mse", 1.0),
    (("validation_mse",), "objective", "validation_mse", 1.0),
    (("test_mse", "validation_mse"), "body_objective", "body_objective", 2.0),
    ((), "objective", "body_objective", 2.0),
    ((), None, "body_objective", 2.0),
]


@pytest.mark.parametrize(("metrics", "headline", "metric", "aim"), SELECTED)
def test_rates_are_searched_by_validation_metrics_or_f(metrics, headline, metric, aim):
    """One step from w near 0.35: a factor for every place that something could wish for."""
    exact = {"exact": BestResponse(1.0, optimizer=SGD())}
    factors = (0.01, 0.4, 1.0)  # dF/dw = w - 2: to 0.37, 1.0 and 2.0
    found = compare(
        Moved(*metrics), exact, headline=headline, tune=factors, **(OPTIONS | {"steps": 1})
    )
    assert found.settings["tuning"]["metric"] == metric
    w = found.final("objective")["exact, tuned"] ** 0.5
    assert w == pytest.approx([aim] * 3, abs=0.1)


@pytest.mark.parametrize(
    ("metrics", "score", "column"),
    [
        (("test_mse", "validation_mse"), "validation_mse", "validation-best"),
        (("test_mse",), "body_objective", "F-best"),
        (("validation_mse",), None, None),
        ((), None, None),
    ],
)
def test_records_are_chosen_by_the_same(metrics, score, column):
    found = compare(Moved(*metrics), PAIR, **OPTIONS)
    assert found.score() == score
    best = found.validation_best()
    assert (column in found.table()) if column else (best == {})
    for name, values in best.items():
        table = found.history[name]
        expected = best_values(table["test_mse"], table[score], higher=False)
        assert np.array_equal(values, expected)


def test_training_rows_choose_no_record():
    assert compare(Same("test_mse"), PAIR, **OPTIONS).validation_best() == {}


@pytest.mark.parametrize(
    ("names", "headline", "selects"),
    [
        (["objective", "test_a", "validation_b", "validation_a"], "test_a", "validation_a"),
        (["objective", "test_a", "validation_b", "validation_c"], "test_a", "validation_b"),
        (["objective", "test_validation_a", "validation_b"], "test_validation_a", "validation_b"),
        (["objective", "latest_a", "validation_a"], "latest_a", "validation_a"),
        (["objective", "phi"], "phi", "objective"),
        (["objective", "body_objective"], "objective", "body_objective"),
    ],
)
def test_twins_and_others(names, headline, selects):
    assert judging.selecting(names, headline) == selects


# what is said


@pytest.mark.usefixtures("undrawn")
def test_the_report_shows_f_first_and_says_what_g_is(tmp_path):
    found = compare(Moved(), PAIR, **OPTIONS)
    page = found.report(tmp_path / "kept").read_text(encoding="utf-8")
    assert "moves has the lowest mean objective F of the body" in page
    assert "The objective F of the body, since there is no test metric." in page
    assert "a larger g, which is shown but says nothing about who is better" in page
    assert "body_objective-steps.svg" in {path.name for path in (tmp_path / "kept").iterdir()}
    more = page.partition("More curves:")[2]
    assert "training objective g" in more.partition("</summary>")[0]
    assert Comparison.load(tmp_path / "kept").headline == "body_objective"


@pytest.mark.usefixtures("undrawn")
def test_the_report_says_what_stopped_the_runs(tmp_path):
    found = compare(Moved("test_mse"), PAIR, **OPTIONS)
    page = found.report(tmp_path / "kept").read_text(encoding="utf-8")
    assert "With every run stopped where its objective F was best" in page
    assert "at the recorded step where the objective F was best" in page
    assert "alidation" not in page
    summary = (tmp_path / "kept" / "summary.csv").read_text(encoding="utf-8")
    assert ",body_objective," in summary
