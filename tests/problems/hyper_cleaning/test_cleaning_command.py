"""The command: tables, what may be said, and that no test row chooses anything."""

import csv
import dataclasses
import math

import cleaning
import numpy as np
import pytest

from bilevel.errors import ArgumentError, ResultsError, ResultsExistError
from problems.hyper_cleaning import command
from problems.hyper_cleaning.command import main
from problems.hyper_cleaning.experiment import FILTER, METHODS, ORACLE, TIED, Result, experiment
from problems.hyper_cleaning.table import lines_of, printed, told, verdicts

ARGUMENTS = ["digits", "--rows", "150", "--clean", "30", "--seeds", "2", "--noise", "0.4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("cleaning") / "new"
    assert main([*ARGUMENTS, "--output", str(made)]) == 0
    return made


def test_the_command_writes_runs_table_and_picture(folder, capsys):
    assert {path.name for path in folder.iterdir()} == {"runs.csv", "table.csv", "accuracy.svg"}
    with (folder / "table.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert [row["method"] for row in table] == list(METHODS)
    by_method = {row["method"]: row for row in table}
    assert float(by_method[ORACLE]["way"]) == 1.0
    assert float(by_method[FILTER]["above_filter"]) == 0.0
    assert float(by_method[ORACLE]["accuracy"]) > float(by_method[METHODS[0]]["accuracy"])
    assert (folder / "accuracy.svg").read_text().startswith("<?xml")


def test_the_same_command_goes_on(folder, capsys, monkeypatch):
    file = folder / "runs.csv"
    before, runs = file.read_text(), command.read(file)
    last, asked = runs[len(METHODS) :], []
    file.write_text("".join(before.splitlines(keepends=True)[: -len(METHODS)]))  # after seed 0
    monkeypatch.setattr(command, "experiment", lambda *at: asked.append(at[1:]) or last)
    assert main([*ARGUMENTS, "--output", str(folder)]) == 0
    assert asked == [("digits", 1)]
    assert "30 clean rows, 2 seeds" in capsys.readouterr().out
    assert file.read_text() == before
    assert [run.seed for run in runs] == [0] * len(METHODS) + [1] * len(METHODS)


def test_other_settings_and_other_folders_are_refused(folder, tmp_path):
    with pytest.raises(ResultsError, match="other settings"):
        main([*ARGUMENTS[:-1], "0.3", "--output", str(folder)])
    (tmp_path / "mine").mkdir()
    with pytest.raises(ResultsExistError):
        main([*ARGUMENTS, "--output", str(tmp_path / "mine")])
    with pytest.raises(ArgumentError, match="seeds"):
        main(["digits", "--seeds", "1", "--output", str(tmp_path / "new")])


def test_no_test_row_and_no_truth_chooses_anything(folder):
    """Other test rows, and other right labels, leave all but what they measure."""
    rows = cleaning.rows()
    other = dataclasses.replace(
        rows, test=rows.test.flip(0), truth=(rows.truth + 1) % 10, right=~rows.right
    )
    one, two = command.read(folder / "runs.csv"), experiment(other, "digits", 0)
    for a, b in zip(one[: len(METHODS)], two, strict=True):
        if a.method != ORACLE:
            assert a.ridge == b.ridge
        if a.method == TIED:
            assert a.auc == pytest.approx(100 - b.auc)  # the same weights, the other truth


def runs(method, values):
    return [
        Result("digits", 10, seed, method, value, math.nan, math.nan, 0.1, 1.0)
        for seed, value in enumerate(values)
    ]


def test_lines_are_means_with_paired_differences():
    rng = np.random.default_rng(0)
    values = {method: 80 + rng.standard_normal(5) for method in METHODS}
    lines = {x.method: x for x in lines_of([r for m, v in values.items() for r in runs(m, v)])}
    pairs = values[TIED] - values[FILTER]
    assert lines[TIED].above_filter == pytest.approx(pairs.mean())
    assert lines[TIED].filter_error == pytest.approx(pairs.std(ddof=1) / math.sqrt(5))
    low, high = values["both"].mean(), values[ORACLE].mean()
    assert lines[TIED].way == pytest.approx((values[TIED].mean() - low) / (high - low))
    assert len(printed(list(lines.values()))) == len(METHODS) + 1
    assert len(verdicts(list(lines.values()))) == 4


def test_more_is_said_only_beyond_two_standard_errors():
    assert told(0.5, 0.26) == told(-0.5, 0.26) == "not told apart from"
    assert told(0.5, 0.24) == "more accurate than"
    assert told(-0.5, 0.24) == "less accurate than"
