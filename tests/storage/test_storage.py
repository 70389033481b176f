"""Results folders appear whole or not at all; files say what is wrong with them."""

import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from bilevel.errors import ResultsError, ResultsExistError, UnwritableError
from bilevel.storage import environment as environment_module
from bilevel.storage.environment import environment
from bilevel.storage.folder import (
    reserve,
    write_atomically,
    write_csv,
    write_json,
)
from bilevel.storage.history import read_history, write_history
from bilevel.storage.reading import read_csv, read_json
from bilevel.storage.tensors import read_tensors, write_tensors


def test_reserve_creates_nothing(tmp_path):
    assert reserve(tmp_path / "new" / "run") == tmp_path / "new" / "run"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_reserve_refuses_what_exists(tmp_path, kind):
    path = tmp_path / "run"
    if kind == "folder":
        path.mkdir()
    elif kind == "file":
        path.write_text("")
    else:
        path.symlink_to(tmp_path / "nowhere")
    (tmp_path / "run-2").mkdir()
    with pytest.raises(ResultsExistError, match=r"never overwritten.*run-3"):
        reserve(path)
    with pytest.raises(FileExistsError):
        reserve(path)


def test_reserve_refuses_a_place_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match="not a folder"):
        reserve(tmp_path / "file" / "run")


def test_a_folder_appears_only_when_it_is_complete(tmp_path):
    with write_atomically(tmp_path / "deep" / "run") as hidden:
        (hidden / "a.txt").write_text("a")
        assert not (tmp_path / "deep" / "run").exists()
    assert (tmp_path / "deep" / "run" / "a.txt").read_text() == "a"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["run"]


def fill(folder, then):
    with write_atomically(folder) as hidden:
        (hidden / "a.txt").write_text("a")
        then()


def test_nothing_stays_after_an_error(tmp_path):
    def fail():
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fill(tmp_path / "run", fail)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_made_meanwhile_is_kept(tmp_path):
    with pytest.raises(ResultsExistError):
        fill(tmp_path / "run", (tmp_path / "run").mkdir)
    assert [path.name for path in tmp_path.rglob("*")] == ["run"]


def test_json_is_strict_and_sorted(tmp_path):
    path = tmp_path / "a.json"
    content = {"b": np.float64(0.1), "a": [float("nan"), np.int64(3)], "c": np.array([1.5, np.inf])}
    write_json(path, content)
    assert list(json.loads(path.read_text())) == ["a", "b", "c"]
    assert read_json(path) == {"a": [None, 3], "b": 0.1, "c": [1.5, None]}
    assert "NaN" not in path.read_text()


def test_json_refuses_objects(tmp_path):
    with pytest.raises(ResultsError, match=r"a\.json.*not JSON serializable"):
        write_json(tmp_path / "a.json", {"a": object()})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["{", "[1]", "\udcff"])
def test_malformed_json_is_named(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ResultsError, match=r"a\.json"):
        read_json(tmp_path / "a.json")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ResultsError, match=r"b\.json is missing"):
        read_json(tmp_path / "b.json")


def test_csv_keeps_every_digit_and_every_text(tmp_path):
    path = tmp_path / "a.csv"
    values = [
        0.1 + 0.2,
        np.float64(1 / 3),
        float("nan"),
        -np.inf,
        None,
        'a, "b"',
        np.int64(7),
        True,
    ]
    write_csv(path, list("abcdefgh"), [values])
    columns, (row,) = read_csv(path)
    assert columns == list("abcdefgh")
    assert [float(cell) for cell in row[:2]] == [0.1 + 0.2, 1 / 3]
    assert row[2:] == ["nan", "-inf", "", 'a, "b"', "7", "True"]


def test_a_cut_off_csv_is_named_with_its_line(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n1,2\n3\n")
    with pytest.raises(ResultsError, match=r"a\.csv line 3 has 1 cells, expected 2"):
        read_csv(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(ResultsError, match="empty"):
        read_csv(tmp_path / "a.csv")


SEEDS, STEPS = [3, 7], np.array([0, 5, 6])
HISTORY = {
    "slow, really": {"loss": np.arange(6.0).reshape(3, 2) / 7, "gap": np.full((3, 2), np.nan)},
    "fast": {"loss": np.array([[1e300, -0.0], [np.inf, 5e-324], [np.nan, 2.0]])},
}


@pytest.mark.parametrize("steps", [STEPS, STEPS.astype(float)])
def test_history_comes_back_bit_for_bit(tmp_path, steps):
    write_history(tmp_path / "h.csv", HISTORY, SEEDS, steps)
    steps, history = read_history(tmp_path / "h.csv", list(HISTORY), SEEDS)
    assert steps.tolist() == STEPS.tolist()
    assert {name: list(table) for name, table in history.items()} == {
        "slow, really": ["loss", "gap"],
        "fast": ["loss"],
    }
    for name, table in HISTORY.items():
        for metric, values in table.items():
            assert history[name][metric].tobytes() == values.tobytes()


@pytest.mark.parametrize(
    ("pattern", "replacement", "message"),
    [
        (r"strategy,seed", "name,seed", "must begin with the columns"),
        (r"fast,7,6.*\n", "", "cut off or edited"),
        (r"fast,3,5", "fast,3,4", r"line 9 is for \['fast', '3', '4'\]"),
        (r"fast,3,0,1e\+300", "fast,3,0,many", r"column 'loss'.*many"),
        (r"really\",3,5", 'really",3,x', "'x' is not a step"),
    ],
)
def test_a_damaged_history_is_named(tmp_path, pattern, replacement, message):
    path = tmp_path / "h.csv"
    write_history(path, HISTORY, SEEDS, STEPS)
    text, count = re.subn(pattern, replacement, path.read_text())
    assert count == 1
    path.write_text(text)
    with pytest.raises(ResultsError, match=rf"h\.csv.*{message}"):
        read_history(path, list(HISTORY), SEEDS)


def test_environment_has_versions_and_no_private_names():
    found = environment(dtype="float32", device="cpu", threads=1)
    assert found["packages"]["numpy"] == np.__version__
    assert (found["dtype"], found["device"], found["threads"]) == ("float32", "cpu", 1)
    assert set(found["packages"]) == {"bilevel", "torch", "numpy", "scipy", "scikit-learn"}
    json.dumps(found, allow_nan=False)


def test_commit_of_a_checkout_and_of_none(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert environment_module._commit(tmp_path) is None
    git("init")
    assert environment_module._commit(tmp_path) is None
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "first")
    head = git("rev-parse", "HEAD")
    assert environment_module._commit(tmp_path) == head
    (tmp_path / "a").write_text("2")
    assert environment_module._commit(tmp_path) == f"{head} with local changes"


def test_commit_is_unknown_without_git(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment_module._commit(tmp_path) is None
    assert environment_module.version("no-such-package-anywhere") is None


def test_tensors_are_on_the_disk_before_they_take_the_place_of_others(tmp_path, monkeypatch):
    path, seen = tmp_path / "a.safetensors", []
    write_tensors(path, {"x": torch.zeros(3)}, {"step": 1})
    before, sync, replace = path.read_bytes(), os.fsync, Path.replace

    def synced(descriptor):
        seen.append(("synced", path.read_bytes() == before))
        sync(descriptor)

    def replaced(hidden, target):
        seen.append(("replaced", path.read_bytes() == before))
        return replace(hidden, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    write_tensors(path, {"x": torch.ones(3)}, {"step": 2})
    assert seen == [("synced", True), ("replaced", True)]
    assert read_tensors(path)[1] == {"step": 2}
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("write", [write_json, lambda path, content: write_csv(path, content, [])])
def test_files_that_cannot_be_written_are_named(tmp_path, write):
    with pytest.raises(
        UnwritableError, match=r"a\.txt cannot be written: .*No such file"
    ) as caught:
        write(tmp_path / "missing" / "a.txt", {})
    assert isinstance(caught.value, OSError)
    assert isinstance(caught.value, ResultsError)
