"""`bilevel reproduce`: its table, and the rule of its verdict."""

import csv
import os

import pytest
from command_line import run

from bilevel.training import best_responses
from problems import reproduce
from problems.reproduce import REFERENCE, STRATEGIES, Row


@pytest.mark.usefixtures("untimed")
def test_reproduce_writes_its_table(tmp_path, capsys, monkeypatch, reports):
    small = reproduce.registry.load_problem
    monkeypatch.setattr(
        reproduce.registry,
        "load_problem",
        lambda name: small(name, train=40, test=20, validation=5),
    )
    folder = tmp_path / "run"
    code = run("reproduce", "friedman3", "friedman3", "--seeds", "2", "--steps", "2", "--output",
               folder)  # fmt: skip
    assert sorted(os.listdir(folder)) == ["friedman3", "reproduction.csv"]
    with (folder / "reproduction.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["strategy"] for row in rows] == list(STRATEGIES)  # once, though named twice
    comparison = reports[folder / "friedman3"]
    finals = comparison.final("test_mse")
    verdicts = []
    for row, reference in zip(rows, REFERENCE["friedman3"], strict=True):
        mean, low, high = (float(row[name]) for name in ("mean", "low", "high"))
        assert float(row["reference"]) == reference
        assert mean == pytest.approx(finals[row["strategy"]].mean())
        assert low <= mean <= high
        verdicts.append(abs(mean / reference - 1) <= 0.15 or low <= reference <= high)
        assert row["reproduced"] == str(verdicts[-1])
    assert code == (0 if all(verdicts) else 1)
    printed = capsys.readouterr().out
    assert printed.count("NO") == verdicts.count(False)
    settings = comparison.settings
    assert (settings["batch_size"], settings["steps"], settings["seeds"]) == (64, 2, [0, 1])


@pytest.mark.parametrize(
    ("mean", "low", "high", "reproduced"),
    [
        (1.0, 0.99, 1.01, True),
        (1.149, 1.14, 1.16, True),  # within 15 %, whatever the interval
        (0.851, 0.85, 0.86, True),
        (1.16, 1.10, 1.22, False),  # beyond 15 %, the reference outside of the interval
        (0.84, 0.80, 0.88, False),
        (1.40, 0.95, 1.85, True),  # far off, but so uncertain that it says nothing
        (0.60, 0.10, 1.00, True),
        (float("nan"), float("nan"), float("nan"), False),
    ],
)
def test_the_verdict_follows_the_stated_rule(mean, low, high, reproduced):
    row = Row("friedman1", "swapped", 0.074, 0.074 * mean, 0.074 * low, 0.074 * high)
    assert row.reproduced is reproduced
    assert row.ratio == pytest.approx(mean, nan_ok=True)


@pytest.mark.usefixtures("untimed")
def test_digits_are_trained_in_the_published_setting(tmp_path, capsys, monkeypatch, reports):
    monkeypatch.setattr(best_responses, "TOO_DEAR", 0.0)  # none is recorded
    folder = tmp_path / "run"
    run("reproduce", "digits", "--seeds", "2", "--steps", "2", "--output", folder)
    with (folder / "reproduction.csv").open() as file:
        rows = list(csv.DictReader(file))
    # the best response was not part of it
    assert [row["strategy"] for row in rows] == list(STRATEGIES[:5])
    comparison = reports[folder / "digits"]
    finals = comparison.final("test_cross_entropy")
    for row, reference in zip(rows, REFERENCE["digits"], strict=True):
        assert float(row["reference"]) == reference
        assert float(row["mean"]) == pytest.approx(finals[row["strategy"]].mean())
    assert "test cross-entropy" in capsys.readouterr().out
    assert comparison.headline == "test_cross_entropy"
    assert (comparison.settings["batch_size"], comparison.settings["sampling"]) == (64, "iid")
    note = comparison.settings["data_note"]
    assert "One split (number 0) for all, 0% validation" in note
    assert "divided by 16" in note
    problem = reproduce.Reproduce().problem("digits")
    assert problem.ridge == 0
    assert problem.network.widths == (64, 32)
    assert [len(rows.targets) for rows in problem.data().values()] == [1437, 360]
    assert "simultaneous" in comparison.strategies["two-timescale"]


def test_a_folder_of_data_is_for_images(tmp_path, capsys, monkeypatch):
    asked = {}
    monkeypatch.setattr(
        reproduce.registry, "load_problem", lambda name, **options: asked.update({name: options})
    )
    reproduce.Reproduce(data_dir=tmp_path).problem("fashion-mnist")
    assert asked["fashion-mnist"]["data_dir"] == str(tmp_path)
    assert [asked["fashion-mnist"][name] for name in ("train", "validation", "ridge")] == [0, 0, 0]
    command = ["reproduce", "digits", "--data-dir", tmp_path, "--output", tmp_path / "new"]
    assert run(*command) == 2
    assert "name it among the data" in capsys.readouterr().err


@pytest.mark.slow
def test_the_digits_of_the_reference_are_reproduced(tmp_path, reports):
    """Half a minute: 10 seeds of five strategies; the same as `bilevel reproduce digits`."""
    assert run("reproduce", "digits", "--output", tmp_path / "run") == 0
