"""Tuned strategies are compared with tuned ones, and with what they were before."""

import csv
import re

import numpy as np
import pytest
from comparison_example import small
from tuned_example import CODES, FINAL, TUNING, tuned

from bilevel.comparison.result import Comparison
from bilevel.comparison.statistics.families import families
from bilevel.comparison.statistics.paired import compare_pairs
from bilevel.report import figures, html, tuning, verdicts
from bilevel.report.palette import lines
from bilevel.strategies.presets import preset_strategies

PAIRS = [
    ("two, tuned", "uniform, tuned"),
    ("fixed", "uniform, tuned"),
    ("fixed", "two, tuned"),
    ("two", "uniform"),
    ("fixed", "uniform"),
    ("fixed", "two"),
    ("uniform, tuned", "uniform"),
    ("two, tuned", "two"),
]


def words_of(comparison):
    content = comparison.content()
    page = html.page(content, html.draw(content))
    plain = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))
    return plain.replace("\N{NO-BREAK SPACE}", " ")


def test_tuned_meets_tuned_given_meets_given_and_each_its_own():
    assert sorted(tuned().pairs) == sorted(PAIRS)
    kinds = [("tuned" in first + second) for first, second in tuned().pairs]
    assert kinds[0]  # the fair comparison comes first
    assert tuned().pairs[-2:] == PAIRS[-2:]


def test_twelve_strategies_make_24_pairs():
    presets = list(preset_strategies(5e-4, 5e-3))
    names = [*presets, *(f"{name}, tuned" for name in presets)]
    others = {"two-timescale", "best response"}
    baselines = [name for name in names if name.removesuffix(", tuned") not in others]
    found = families(names, baselines, presets)
    assert [family.kind for family in found] == ["tuned", "given"]
    assert [len(family.pairs) for family in found] == [9, 9]
    assert not set(found[0].names.values()) & set(found[1].names.values())


def test_the_correction_is_over_all_pairs():
    comparison = tuned()
    expected = compare_pairs(comparison.final(), comparison.pairs, "test_mse")
    assert str(comparison.paired()) == str(expected)  # NaN differs from itself
    best = min(expected, key=lambda result: result.p_value)
    assert best.p_adjusted == min(1.0, 8 * best.p_value)


def test_without_a_search_the_name_means_nothing():
    settings = {"seeds": [0, 1, 2, 3]}
    comparison = tuned(settings=settings)
    assert ("two, tuned", "uniform") in comparison.pairs
    assert comparison.content()["tuning"] is None


@pytest.mark.usefixtures("undrawn")
def test_after_an_interruption_only_what_was_trained_counts():
    comparison = tuned(names=["uniform", "two", "fixed", "uniform, tuned"])
    assert sorted(comparison.pairs) == sorted(
        [("fixed", "uniform, tuned"), *PAIRS[3:6], ("uniform, tuned", "uniform")]
    )
    assert "What tuning changed" in words_of(comparison)
    nothing = tuned(names=["uniform", "two", "fixed"])
    assert sorted(nothing.pairs) == sorted(PAIRS[3:6])
    assert "What tuning changed" not in words_of(nothing)


@pytest.mark.usefixtures("undrawn")
def test_one_strategy_and_its_tuned_self():
    comparison = tuned(names=["two", "two, tuned"], baselines=())
    assert comparison.pairs == [("two, tuned", "two")]
    text = words_of(comparison)
    assert "After 10 steps with tuned rates, the mean test MSE of two is 3.00, 95 %" in text


@pytest.mark.usefixtures("unrendered")
def test_the_page_speaks_of_tuned_rates_first():
    text = words_of(tuned())
    first = "After 10 steps with tuned rates, uniform has the lowest mean test MSE: 2.75"
    second = "After 10 steps with the rates as given, fixed has the lowest mean test MSE: 3.00"
    assert 0 < text.index(first) < text.index(second)
    cards = verdicts.cards(tuned().content())
    assert [group["kind"] for group in cards] == ["tuned", "given"]
    questions = [card[0][0] for card in cards[0]["answers"]]
    assert questions == ["Does two beat uniform rates?", "Does fixed beat uniform rates?"]
    assert "tuned" not in cards[0]["answers"][0][0][2]  # the heading says it once
    assert "With tuned rates it is one over the best of as many trials" in text


def test_both_results_stand_side_by_side():
    rows = {row[0]: row[1:] for row in tuning.plain_rows(tuned().content())}
    assert list(rows) == ["uniform", "two"]
    given, best = np.array(FINAL["uniform"]), np.array(FINAL["uniform, tuned"])
    assert rows["uniform"][:2] == [f"{given.mean():.2f}", f"{best.mean():.2f}"]
    ratio = np.exp(np.log(best / given).mean())
    assert rows["uniform"][2].startswith(f"{ratio:.3f}")
    assert rows["uniform"][3:] == ["body_lr and head_lr × 10", "9, 2 without a score", tuning.EDGE]
    assert rows["two"][3:] == ["body_lr × 10, head_lr × 1", "9", ""]
    ratio = np.exp(np.log(np.array(FINAL["two, tuned"]) / FINAL["two"]).mean())
    assert re.match(rf"{ratio:.3f} \(0\.\d+ to \d\.\d+\)", rows["two"][2])


@pytest.mark.usefixtures("undrawn")
def test_the_words_say_how_and_where_rates_were_searched():
    for text in (words_of(tuned()), " ".join(tuned().table().split())):
        for expected in (
            "with equal effort: 9 trials each, every trial with 10 steps on 2 seeds (4, 5).",
            "The best mean validation MSE at the end won.",
            "on seeds that the search never saw",
            "fixed has no rates and takes part in both comparisons unchanged.",
            "Tuned, uniform and two are one and the same strategy.",
            tuning.EDGE,
        ):
            assert expected in text, expected


def changed(**changes):
    searched = {**TUNING["strategies"], "two": {**TUNING["strategies"]["two"], **changes}}
    settings = tuned().settings | {"tuning": TUNING | {"strategies": searched}}
    return tuned(settings=settings)


@pytest.mark.usefixtures("undrawn")
def test_unequal_grids_and_failed_searches_are_said_so():
    expected = "as equal an effort as grids of different numbers of rates allow: 8 to 9 trials"
    assert expected in words_of(changed(trials=8))
    assert "no trial has a score: this is the first of them" in words_of(changed(failed=9))


@pytest.mark.usefixtures("undrawn")
def test_different_rates_are_not_called_the_same():
    codes = CODES | {"two, tuned": "TwoTimescale(0.1, 0.2)"}
    assert "one and the same" not in words_of(tuned(strategies=codes))


def test_a_tuned_strategy_has_the_colour_of_its_own_dashed():
    names = list(preset_strategies(5e-4, 5e-3)) + [f"own {i}" for i in range(4)]
    tuned = {name: f"{name}, tuned" for name in names}
    every = lines([*names, *tuned.values()], tuned)
    assert len(set(every.values())) == 2 * len(names)
    for name in names:
        assert every[name].colour == every[f"{name}, tuned"].colour
        assert every[f"{name}, tuned"].dashes
    assert every["uniform slow"].dashes == ()
    assert lines(["a", "a, tuned"])["a, tuned"].dashes == ()  # a name says nothing


def test_twelve_names_fit_below_a_figure():
    names = list(preset_strategies(5e-4, 5e-3))
    names += [f"{name}, tuned" for name in names]
    series = {name: (np.arange(3), np.ones((3, 2))) for name in names}
    figure = figures.curves(series, lines(names), xlabel="step", title="loss")
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert [text.get_text() for text in legend.texts] == names
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
    assert box.y1 <= figure.axes[0].get_window_extent().y0


def test_figures_and_tables_of_a_tuned_comparison(tmp_path):
    page = tuned().report(tmp_path / "run")
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"paired-tuned.svg", "paired-given.svg", "tuning.csv"} <= files
    assert "paired.svg" not in files
    with (tmp_path / "run" / "tuning.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["strategy"], first["trials"], first["failed"]) == ("uniform", "9", "2")
    assert (first["edge"], second["edge"]) == ("True", "False")
    change = {(r.strategy, r.baseline): r for r in tuned().paired()}[PAIRS[-1]]
    assert float(second["change_effect"]) == change.effect
    assert int(second["wins"]) == change.wins
    assert "<h2>What tuning changed</h2>" in page.read_text()
    read = Comparison.load(tmp_path / "run")
    assert read.table() == tuned().table()
    read.report(tmp_path / "again")
    for name in files:
        again = (tmp_path / "again" / name).read_bytes()
        assert (tmp_path / "run" / name).read_bytes() == again, name


@pytest.mark.usefixtures("unrendered")
def test_a_plain_comparison_has_no_trace_of_tuning(tmp_path):
    page = small().report(tmp_path / "run").read_text()
    assert "tuned" not in page
    assert "tuning" not in page
    assert not (tmp_path / "run" / "tuning.csv").exists()
    assert (tmp_path / "run" / "paired.svg").exists()


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("order", [["uniform", "two", "fixed"], ["fixed", "two", "uniform"]])
def test_parts_may_come_in_any_order(tmp_path, order):
    whole = tuned(names=["uniform", "two", "fixed"])
    history = {name: whole.history[name] for name in order}
    comparison = tuned(names=["uniform", "two", "fixed"], history=history)
    comparison.report(tmp_path / "run")
    assert list(Comparison.load(tmp_path / "run").history) == ["uniform", "two", "fixed"]
