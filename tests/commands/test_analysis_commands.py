"""`bilevel landscape` and `bilevel curvature`: what they print and write."""

import csv
import json

import pytest
from command_line import run
from matplotlib.figure import Figure

from bilevel.analysis import files

SMALL = ["--seeds", "2", "--at", "0", "2", "--set", "width=3", "train=20", "validation=5", "test=5"]


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def drawn(monkeypatch):
    """Figures are made, but not turned into lines, which takes seconds; their names."""
    found = []
    monkeypatch.setattr(files, "write_figure", lambda path, figure: found.append(path.name))
    return found


def test_a_figure_has_three_endings(tmp_path):
    figure = Figure(figsize=(1, 1))
    files.write_figure(tmp_path / "name", figure)
    assert "<svg" in (tmp_path / "name.svg").read_text()
    assert (tmp_path / "name.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "name.png").read_bytes().startswith(b"\x89PNG")


def test_a_landscape_has_figures_and_numbers(tmp_path, capsys, drawn):
    folder = tmp_path / "deep" / "found"
    assert run("landscape", "friedman1", *SMALL, "--size", "3", "--output", folder) == 0
    printed = capsys.readouterr().out
    assert "medians over 2 seeds" in printed
    assert str(folder) in printed
    assert {path.name for path in folder.iterdir()} == {"landscape.csv", "curvature.csv"}
    assert drawn == ["landscape", "curvature"]
    points = table(folder / "landscape.csv")
    assert len(points) == 2 * 9
    assert [point["step"] for point in points[8:10]] == ["0", "2"]
    assert [points[5][name] for name in "ab"] == ["0.0", "1.0"]
    assert all(float(point["phi"]) <= float(point["joint"]) for point in points)


def test_curvatures_have_figures_and_numbers(tmp_path, capsys, drawn):
    folder = tmp_path / "found"
    options = ["--strategy", "best response", "--batch-size", "0", "--probes", "2"]
    assert run("curvature", "friedman1", *SMALL, *options, "--output", folder) == 0
    assert "reduced" in capsys.readouterr().out
    assert [path.name for path in folder.iterdir()] == ["curvature.csv"]
    assert drawn == ["curvature"]
    rows = table(folder / "curvature.csv")
    gaps = [float(row["value"]) for row in rows if row["name"] == "head_gap" and row["step"] == "2"]
    assert len(gaps) == 2
    assert max(gaps) < 1e-5  # of the exact head, in float32


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["landscape", "friedmann1"], "friedman1"),
        (["curvature", "friedman1", "--at", "1", "1"], "distinct"),
        (["landscape", "friedman1", "--strategy", "best respons"], "best response"),
        (["landscape", "friedman1", "--threads", "0"], "threads"),
    ],
)
def test_wrong_usage_is_said_and_nothing_is_left(arguments, words, tmp_path, capsys):
    folder = tmp_path / "found"
    assert run(*arguments, "--output", folder) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_results_are_not_overwritten(tmp_path, capsys):
    (tmp_path / "found").mkdir()
    (tmp_path / "found" / "mine.json").write_text(json.dumps([]))
    assert run("landscape", "friedman1", "--output", tmp_path / "found") == 2
    assert "found" in capsys.readouterr().err


@pytest.mark.usefixtures("untimed")
def test_a_comparison_says_why_where_it_is_asked(tmp_path, reports):
    options = ["--seeds", "2", "--steps", "4", "--set", "width=3", "train=20"]
    options += ["--strategies", "swapped", "best response"]
    assert run("compare", "friedman1", *options, "--explain", "--output", tmp_path / "found") == 0
    found = reports[tmp_path / "found"].settings["why"]
    assert set(found["values"]) == set(reports[tmp_path / "found"].strategies)
    assert found["steps"]["swapped"] == [0, 1, 2, 4]


def test_what_cannot_be_explained_is_said_before_the_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("bilevel.training.training.Training.run", None)
    assert run("compare", "sinusoid", "--explain", "--output", tmp_path / "found") == 2
    assert "a head for each task" in capsys.readouterr().err
