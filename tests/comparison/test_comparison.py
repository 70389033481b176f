"""A comparison computes, prints, writes and reads back what its numbers say."""

import csv
import json
import shutil
import xml.etree.ElementTree

import numpy as np
import pytest
from comparison_example import BASELINES, STRATEGIES, example, same, small

from bilevel.comparison.result import Comparison
from bilevel.comparison.statistics.paired import compare_pairs
from bilevel.core.status import Status
from bilevel.errors import ArgumentError, ResultsError, ResultsExistError, UnknownNameError

NAN = float("nan")


def test_final_values():
    found = small().final()
    assert same(found["slow"], [4.0, 4.0, 4.0])
    assert found["fast"] == pytest.approx([2.0, 3.0, NAN], nan_ok=True)
    assert list(small().final("validation_mse")) == ["fast"]


def test_a_failed_run_has_no_value_even_if_its_numbers_look_fine():
    status = {"fast": ["COMPLETED"] * 3, "slow": ["COMPLETED", "DIVERGED", "INTERRUPTED"]}
    assert small(status=status).final()["slow"] == pytest.approx([4.0, NAN, 4.0], nan_ok=True)


def test_a_run_that_stopped_early_keeps_its_last_record():
    status = {"fast": ["COMPLETED", "COMPLETED", "CONVERGED"], "slow": ["COMPLETED"] * 3}
    assert same(small(status=status).final()["fast"], [2.0, 3.0, 4.0])


def test_validation_best_values():
    found = small().validation_best()
    assert list(found) == ["fast"]
    assert found["fast"] == pytest.approx([1.0, 3.0, NAN], nan_ok=True)
    assert small(headline="validation_mse").validation_best() == {}


def test_pairs():
    others = ["two-timescale", "swapped", "best response"]
    expected = [(name, baseline) for name in others for baseline in BASELINES]
    expected += [("swapped", "two-timescale"), ("best response", "two-timescale"),
                 ("best response", "swapped")]  # fmt: skip
    assert example(2, 3).pairs == expected


def test_pairs_when_all_are_baselines():
    assert small(baselines=("slow", "fast")).pairs == [("slow", "fast")]
    assert small(baselines=()).pairs == [("slow", "fast")]


def test_paired_results_are_those_of_the_final_values():
    comparison = small()
    (result,) = comparison.paired()
    (expected,) = compare_pairs(comparison.final(), [("fast", "slow")], "test_mse")
    assert str(result) == str(expected)  # NaN differs from itself
    assert (result.wins, result.losses, result.pairs, result.lost) == (2, 1, 2, 1)
    assert result.effect == pytest.approx(np.sqrt(2 / 4 * 3 / 4))
    assert comparison.paired(which="validation") == []


def test_unknown_names():
    with pytest.raises(UnknownNameError, match=r"'test_mes'.*test_mse"):
        small().final("test_mes")
    with pytest.raises(ArgumentError, match="seconds were not measured"):
        small().plot(against="seconds")
    with pytest.raises(ArgumentError, match="'hours'"):
        small().plot(against="hours")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baselines": ("slower",)}, "slower"),
        ({"settings": {"seeds": [4, 5]}}, "2 entries"),
        ({"steps": np.array([0, 10])}, r"values\.shape=\(3, 3\)"),
        ({"status": {"fast": ["COMPLETED"] * 3}}, "`status` must have the strategies"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ResultsError, match=message):
        small(**changes)


def test_the_table_lines_up_and_says_it_in_words():
    lines = small().table().splitlines()
    assert lines[0].split() == ["strategy", "final", "test", "MSE", "validation-best", "steps",
                                "to", "4.00", "runs"]  # fmt: skip
    assert lines[2].endswith("2 completed, 1 diverged")
    assert lines[3].index("3 completed") == lines[2].index("2 completed")
    assert lines[6].startswith("fast is 39 % below slow on test MSE")
    assert "better on 2 of 3 seeds (1 run of fast failed and counts as a loss)" in lines[6]
    assert "(2 of 3 runs)" in lines[2]
    assert "runs)" not in lines[3]
    assert "at least 6 seeds" in lines[5]


def test_it_shows_itself_on_one_line_and_prints_as_its_table():
    comparison = small()
    expected = "Comparison(problem='toy', strategies=['fast', 'slow'], seeds=3, steps=20)"
    assert repr(comparison) == expected
    assert str(comparison) == comparison.table()


@pytest.mark.usefixtures("unrendered")
def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert small().report("~/run") == tmp_path / "home" / "run" / "report.html"
    Comparison.load("~/run").to_csv("~/run/again.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    with pytest.raises(ResultsError, match="names no place"):
        Comparison.load("~nobody-of-this-name/run")


def test_seconds_are_shown_when_measured():
    table = example().table()
    assert "seconds/run" in table
    assert "0.0945" in table  # 1,500 steps of best response at 63 microseconds


@pytest.mark.parametrize("against", ["steps", "gradients", "seconds"])
def test_plot_places_the_records(against):
    comparison = example(2, 3)
    axes = comparison.plot("train_mse", against).axes[0]
    cost = {"steps": 1.0, "gradients": 2.0, "seconds": 6.3e-5}[against]
    drawn = {line.get_label(): line.get_xdata() for line in axes.lines}
    assert list(drawn) == list(STRATEGIES)
    assert drawn["best response"] == pytest.approx(comparison.steps * cost)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("results") / "run"
    assert example(6, 16).report(path) == path / "report.html"
    return path


def test_a_report_reads_back_bit_for_bit(folder):
    written, read = example(6, 16), Comparison.load(folder)
    for name in ("problem", "settings", "strategies", "status", "gradients_per_step",
                 "seconds_per_step", "baselines", "headline", "environment",
                 "bound_kind"):  # fmt: skip
        assert getattr(read, name) == getattr(written, name), name
    assert list(read.strategies) == list(STRATEGIES)
    assert read.steps.tolist() == written.steps.tolist()
    for name, table in written.history.items():
        assert list(read.history[name]) == list(table)
        for metric, values in table.items():
            assert same(read.history[name][metric], values), (name, metric)
    assert read.table() == written.table()


def test_a_report_of_what_was_read_is_the_same(folder, tmp_path):
    Comparison.load(folder).report(tmp_path / "again")
    files = sorted(path.name for path in folder.iterdir())
    assert files == sorted(path.name for path in (tmp_path / "again").iterdir())
    for name in files:
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


@pytest.mark.usefixtures("unrendered")
def test_what_was_not_measured_reads_back_as_nan(tmp_path):
    small().report(tmp_path / "run")
    read = Comparison.load(tmp_path / "run")
    assert np.isnan(list(read.seconds_per_step.values())).all()
    assert list(read.history["slow"]) == ["test_mse"]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["format"] == 1


def test_summary_and_paired_hold_the_numbers(folder):
    comparison = example(6, 16)
    with (folder / "summary.csv").open(newline="") as file:
        rows = {row["strategy"]: row for row in csv.DictReader(file)}
    assert list(rows) == list(STRATEGIES)
    runs = comparison.final()["uniform fast"]
    assert float(rows["uniform fast"]["final_value"]) == runs[np.isfinite(runs)].mean()
    assert rows["uniform fast"]["runs_with_value"] == "4"
    with (folder / "paired.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["values"] == "final"]
    results = comparison.paired()
    assert [float(row["effect"]) for row in rows] == [result.effect for result in results]
    assert [row["significant"] for row in rows] == [str(result.significant) for result in results]


def test_figures_are_svg_files(folder):
    found = sorted(folder.glob("*.svg"))
    assert len(found) >= 14
    for path in found:
        assert xml.etree.ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_a_results_folder_is_never_overwritten(folder):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ResultsExistError, match="never overwritten"):
        example(2, 3).report(folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_to_csv_is_the_history_of_the_report(folder, tmp_path):
    example(6, 16).to_csv(tmp_path / "history.csv")
    assert (tmp_path / "history.csv").read_bytes() == (folder / "history.csv").read_bytes()


@pytest.mark.parametrize("name", ["config.json", "environment.json", "history.csv"])
@pytest.mark.parametrize("damage", ["missing", "empty"])
def test_a_damaged_folder_names_the_file(folder, tmp_path, name, damage):
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run" / name).unlink()
    if damage == "empty":
        (tmp_path / "run" / name).write_text("")
    with pytest.raises(ResultsError, match=name):
        Comparison.load(tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "has format 2, expected 1"),
        ({"headline": None}, "`headline` is missing"),
        ({"strategies": [{"name": "a"}]}, r"`strategies\[0\]\.code` is missing"),
        ({"settings": {}}, r"`settings\.seeds` is missing"),
        ({"status": 3}, r"`status` is 3 \(a whole number\), expected an object"),
    ],
)
def test_a_malformed_config_is_named(folder, tmp_path, change, message):
    shutil.copytree(folder, tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    content = json.loads(path.read_text()) | change
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    with pytest.raises(ResultsError, match=rf"config\.json.*{message}"):
        Comparison.load(tmp_path / "run")


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": np.array([0]), "history": {"fast": {"loss": np.full((1, 3), NAN)}, "slow": {}},
         "headline": "loss"},
        {"status": {"fast": ["DIVERGED"] * 3, "slow": ["DIVERGED"] * 3}},
        {"status": {"fast": [status.name for status in Status][1:4], "slow": ["COMPLETED"] * 3}},
        {"baselines": ("slow", "fast"), "bound_kind": "proven"},
    ],
    ids=["nothing recorded", "all diverged", "every status", "only baselines"],
)  # fmt: skip
def test_poor_results_are_reported_all_the_same(tmp_path, changes):
    comparison = small(**changes)
    assert comparison.table()
    assert "</html>" in comparison.report(tmp_path / "run").read_text()
    assert Comparison.load(tmp_path / "run").table() == comparison.table()


@pytest.mark.usefixtures("unrendered")
def test_one_strategy_alone(tmp_path):
    alone = {part: {"slow": getattr(small(), part)["slow"]} for part in
             ("strategies", "history", "status", "gradients_per_step",
              "seconds_per_step")}  # fmt: skip
    for baselines in ((), ("slow",)):
        comparison = small(**alone, baselines=baselines)
        assert comparison.pairs == []
        assert comparison.paired() == []
        assert "4.00" in comparison.table()
    assert comparison.report(tmp_path / "run").exists()
