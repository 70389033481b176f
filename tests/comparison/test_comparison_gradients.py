"""With a budget of gradient evaluations everything is counted in them, and says so."""

import csv
import re

import numpy as np
import pytest
from comparison_example import example, small
from tuned_example import tuned

from bilevel.comparison.budget import Budget
from bilevel.comparison.result import Comparison
from bilevel.comparison.statistics.costs import whole_steps
from bilevel.errors import ResultsError
from bilevel.report import html, sentences

pytestmark = pytest.mark.usefixtures("unrendered")

SETTINGS = {"seeds": [4, 5, 9], "budget": "gradients", "steps": 20, "every": 10,
            "batch_size": None, "sampling": "iid"}  # fmt: skip


def measured(**changes):
    """Steps of "fast" take 2 gradients and 0.5 s, steps of "slow" take 3 and 1 s."""
    seconds = {"fast": 0.5, "slow": 1.0}
    return small(**({"settings": SETTINGS, "seconds_per_step": seconds} | changes))


def words_of(comparison):
    content = comparison.content()
    page = html.page(content, html.draw(content))
    plain = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))
    return plain.replace("\N{NO-BREAK SPACE}", " ")


def test_whole_steps_as_many_as_the_gradients_pay_for():
    positions = measured().content()["positions"]
    assert list(positions) == ["gradients", "steps", "seconds"]
    assert positions["steps"]["fast"].tolist() == [0, 5, 10]
    assert positions["steps"]["slow"].tolist() == [0, 3, 6]
    assert positions["gradients"]["slow"].tolist() == [0.0, 9.0, 18.0]
    assert positions["seconds"]["slow"].tolist() == [0.0, 3.0, 6.0]


@pytest.mark.parametrize("gradients", [1.0, 2.0, 5.15625, 0.1, 7.3])
def test_steps_are_those_that_were_trained(gradients):
    budget = Budget("gradients", 300, None, 7.3)
    marks = np.array(budget.marks)
    made = whole_steps("gradients", marks, gradients)
    assert made.tolist() == budget.steps(gradients)
    assert whole_steps("steps", marks, gradients).tolist() == budget.marks


def test_cost_is_what_was_spent_not_what_was_granted():
    cost = measured().content()["cost"]
    assert cost["fast"] == {"steps": 10, "gradients": 20.0, "seconds": 5.0}
    assert cost["slow"] == {"steps": 6, "gradients": 18.0, "seconds": 6.0}
    in_steps = measured(settings={"seeds": [4, 5, 9]}).content()["cost"]
    assert in_steps["slow"] == {"steps": 20, "gradients": 60.0, "seconds": 20.0}


def test_plot_is_against_the_budget():
    axes = measured().plot().axes[0]
    assert axes.get_xlabel() == "gradient evaluations"
    drawn = {line.get_label(): line.get_xdata().tolist() for line in axes.lines}
    assert drawn["slow"] == [0.0, 9.0, 18.0]
    assert measured().plot(against="steps").axes[0].get_xlabel() == "step"
    assert small().plot().axes[0].get_xlabel() == "step"


def test_the_words_count_gradient_evaluations():
    text = words_of(measured())
    for expected in (
        "After 20 gradient evaluations, slow alone can be ranked, by its mean test MSE: 4.00",
        "Gradient evaluations to reach 4.00",
        "Gradient evaluations are medians over seeds",
        "20 gradient evaluations for every strategy, so that one whose steps are dearer makes",
        "A pass through all training rows, such as an exact head on all of them takes, counts as "
        "one for every batch",
        "All of them, at every step.",
        "every 10 gradient evaluations",
        "steps 20 gradient evaluations",
    ):
        assert expected in text, expected
    assert "After 20 steps" not in text
    assert "Steps to reach" not in text
    table = measured().table()
    assert "gradient evaluations to 4.00" in table
    assert repr(measured()).endswith("seeds=3, gradients=20)")


def test_the_same_level_is_reached_by_gradient_evaluations():
    assert measured().steps_to_threshold() == (4.0, {"fast": 10.0, "slow": 20.0})


def test_an_interrupted_budget():
    history = {name: dict(table) for name, table in measured().history.items()}
    history["slow"]["test_mse"] = np.array([[8.0] * 3, [6.0] * 3, [np.nan] * 3])
    status = {"fast": ["COMPLETED"] * 3, "slow": ["INTERRUPTED"] * 3}
    found = measured(history=history, status=status)
    assert found.step == 10
    assert found.content()["cost"]["slow"]["steps"] == 3
    for text in (words_of(found), " ".join(found.table().split())):
        assert "Compared after 10 of 20 gradient evaluations; training was interrupted." in text
        assert "test MSE after 10 gradient evaluations" in text
    assert "At step" not in words_of(found)


@pytest.mark.usefixtures("undrawn")
def test_failures_are_placed_by_gradient_evaluations():
    whole = example(6, 16)
    settings = whole.settings | {"budget": "gradients"}
    text = words_of(example(6, 16, settings=settings))
    assert "seed 2 by 450 gradient evaluations, seed 5 by 700 gradient evaluations" in text
    assert "seed 2 by step 450" in words_of(whole)


def test_files_name_what_they_count(tmp_path):
    comparison = measured()
    comparison.report(tmp_path / "run")
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"test_mse-gradients.svg", "validation_mse-gradients.svg"} <= files
    assert (tmp_path / "run" / "history.csv").read_text().startswith("strategy,seed,gradients,")
    with (tmp_path / "run" / "summary.csv").open(newline="") as file:
        rows = {row["strategy"]: row for row in csv.DictReader(file)}
    slow = rows["slow"]
    assert (slow["gradients"], slow["median_gradients_to_threshold"]) == ("20", "20.0")
    assert (slow["steps_per_run"], slow["gradients_per_run"]) == ("6", "18.0")
    assert "step" not in slow
    read = Comparison.load(tmp_path / "run")
    assert read.table() == comparison.table()
    read.to_csv(tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "run/history.csv").read_bytes()


def test_an_unknown_budget_is_refused():
    with pytest.raises(ResultsError, match=r"one of \['steps', 'gradients'\], got 'hours'"):
        measured(settings=SETTINGS | {"budget": "hours"})


def test_tuning_counts_in_the_same_unit():
    settings = tuned().settings | {"budget": "gradients"}
    assert "every trial with 10 gradient evaluations on 2 seeds" in words_of(
        tuned(settings=settings)
    )


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"batch_size": 64, "sampling": "iid"},
         "64 rows at every step, drawn with replacement, independently of all other steps"),
        ({"batch_size": 1, "sampling": "epochs"},
         "1 row at every step, drawn without replacement: in every epoch each row is used once"),
        ({"batch_size": {"train": 4}, "sampling": "epochs"}, "Some, drawn without replacement"),
        ({"batch_size": 2, "sampling": "sequential"}, "2 rows at every step, in the order of the"),
        ({"batch_size": None, "sampling": "iid"}, "All of them, at every step."),
    ],
)  # fmt: skip
def test_the_page_says_how_rows_were_drawn(settings, expected):
    comparison = small(settings={"seeds": [4, 5, 9]} | settings)
    assert sentences.rows(comparison.content()).startswith(expected)
    assert expected in words_of(comparison)


def test_results_of_older_versions_do_not_say_how(tmp_path):
    small().report(tmp_path / "run")
    read = Comparison.load(tmp_path / "run")
    assert "sampling" not in read.settings
    assert "Rows of a step" not in words_of(read)
