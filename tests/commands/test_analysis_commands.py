"""`bilevel landscape` and `bilevel curvature`: what they print and write."""

import csv
import json

import pytest
from command_line import run

from bilevel.analysis import files

FILES = {
    f"{name}.{end}" for name in ("landscape", "curvature") for end in ("svg", "pdf", "png", "csv")
}
SMALL = ["--seeds", "2", "--at", "0", "2", "--set", "width=3", "train=20", "validation=5", "test=5"]


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_landscape_has_figures_and_numbers(tmp_path, capsys):
    folder = tmp_path / "deep" / "found"
    assert run("landscape", "friedman1", *SMALL, "--size", "3", "--output", folder) == 0
    printed = capsys.readouterr().out
    assert "medians over 2 seeds" in printed
    assert str(folder) in printed
    assert {path.name for path in folder.iterdir()} == FILES
    points = table(folder / "landscape.csv")
    assert len(points) == 2 * 9
    assert [point["step"] for point in points[8:10]] == ["0", "2"]
    assert [points[5][name] for name in "ab"] == ["0.0", "1.0"]
    assert all(float(point["phi"]) <= float(point["joint"]) for point in points)
    assert "<svg" in (folder / "landscape.svg").read_text()
    assert (folder / "landscape.pdf").read_bytes().startswith(b"%PDF")


def test_curvatures_have_figures_and_numbers(tmp_path, capsys, monkeypatch):
    folder, drawn = tmp_path / "found", []
    monkeypatch.setattr(files, "write_figure", lambda path, figure: drawn.append(path.name))
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
