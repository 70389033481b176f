"""`bilevel compare`, interrupted and gone on with; and the options of long comparisons."""

import os
import shlex

import numpy as np
import pytest
from command_line import PAIR, TINY, run

from bilevel.comparison.result import Comparison
from bilevel.storage.folder import write_atomically
from bilevel.storage.reading import read_json
from bilevel.storage.results import write_results
from bilevel.training.cohort import Cohort

LONG = ["diabetes", *TINY, "--steps", "12", "--every", "3", "--strategies", "uniform slow",
        "best response"]  # fmt: skip


@pytest.fixture(autouse=True)
def _untimed(monkeypatch):
    monkeypatch.setattr(
        "bilevel.comparison.compare.seconds_per_step",
        lambda trained, *_: dict.fromkeys(trained, 1.0),
    )


@pytest.fixture(autouse=True, scope="module")
def _undrawn():
    """Results without figures, which take seconds."""

    def report(self, folder):
        with write_atomically(folder) as hidden:
            write_results(hidden, self.content())
            (hidden / "report.html").touch()
        return folder / "report.html"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Comparison, "report", report)
        yield


@pytest.fixture
def interrupt(monkeypatch):
    """Ctrl-C in the n-th step from now on."""
    true = Cohort.step

    def at(number):
        left = iter(range(number, -1, -1))

        def step(self):
            if next(left, None) == 0:
                raise KeyboardInterrupt
            true(self)

        monkeypatch.setattr(Cohort, "step", step)

    return at


def assert_same_history(folder, other):
    found, expected = Comparison.load(folder), Comparison.load(other)
    assert found.status == expected.status
    for name, table in expected.history.items():
        for metric, values in table.items():
            assert np.array_equal(found.history[name][metric], values, equal_nan=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert run("compare", *LONG, "--output", folder) == 0
    return folder


@pytest.mark.parametrize("step", [8, 19])  # in the first training, in the second
def test_an_interrupted_comparison_is_gone_on_with(
    step, whole, tmp_path, capsys, interrupt, monkeypatch
):
    folder, partial = tmp_path / "a b", tmp_path / "a b.partial"
    interrupt(step)
    monkeypatch.setattr("sys.argv", ["bilevel", "compare", "this one"])
    assert run("compare", *LONG, "--output", folder) == 130
    assert not folder.exists()
    assert (partial / "report" / "report.html").exists()
    said = capsys.readouterr().err
    command = said.partition("To go on: bilevel ")[2].strip()
    assert shlex.split(command) == ["compare", "--resume", str(partial)]
    interrupt(10**9)
    monkeypatch.setattr("sys.argv", ["bilevel", "compare", "--resume", str(partial)])
    assert run(*shlex.split(command)) == 0
    assert not partial.exists()
    assert_same_history(folder, whole)
    found, expected = (read_json(place / "config.json") for place in (folder, whole))
    # the partial folder is gone: what makes all of it again is the first command
    assert found["settings"].pop("command") == "bilevel compare 'this one'"
    expected["settings"].pop("command")
    for config in (found, expected):
        config["settings"]["arguments"].pop("output")
        config.pop("seconds_per_step")
    assert found == expected


def test_it_may_be_interrupted_again_and_written_elsewhere(whole, tmp_path, interrupt):
    partial, elsewhere = tmp_path / "run.partial", tmp_path / "elsewhere"
    interrupt(5)
    assert run("compare", *LONG, "--output", tmp_path / "run") == 130
    interrupt(3)
    assert run("compare", "--resume", partial, "--output", elsewhere) == 130
    interrupt(10**9)
    assert run("compare", "--resume", partial, "--output", elsewhere) == 0
    assert sorted(os.listdir(tmp_path)) == ["elsewhere"]
    assert_same_history(elsewhere, whole)


def test_nothing_is_left_when_nothing_was_recorded(tmp_path, monkeypatch):
    def record(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Cohort, "record", record)
    assert run("compare", *LONG, "--output", tmp_path / "run") == 130
    assert os.listdir(tmp_path) == []


def test_what_cannot_be_resumed_is_wrong_usage(tmp_path, capsys, interrupt):
    assert run("compare", "--resume", tmp_path / "absent") == 2
    assert "holds no comparison to go on from" in capsys.readouterr().err
    interrupt(5)
    run("compare", *LONG, "--output", tmp_path / "run")
    partial = tmp_path / "run.partial"
    assert run("compare", "--resume", partial, "--seeds", "3") == 2
    assert "leave out seeds" in capsys.readouterr().err
    (tmp_path / "run").mkdir()
    assert run("compare", "--resume", partial) == 2
    assert "never overwritten" in capsys.readouterr().err
    assert run("compare", *LONG, "--output", tmp_path / "run.partial") == 2
    file = partial / "training-0.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert run("compare", "--resume", partial, "--output", tmp_path / "other") == 2
    assert "training-0.safetensors is damaged" in capsys.readouterr().err
    assert file.exists()


def test_options_of_long_comparisons_reach_the_comparison(tmp_path):
    options = {
        "--budget": ["gradients"],
        "--sampling": ["epochs"],
        "--tune": ["0.5", "2"],
        "--clip": ["1.5"],
        "--max-runs-at-once": ["2"],
    }
    words = [word for option, values in options.items() for word in (option, *values)]
    assert run("compare", "diabetes", *TINY, *PAIR, *words, "--output", tmp_path / "run") == 0
    found = Comparison.load(tmp_path / "run")
    assert found.settings["budget"] == "gradients"
    assert found.settings["sampling"] == "epochs"
    assert found.settings["tuning"]["factors"] == [0.5, 2.0]
    assert "two-timescale, tuned" in found.strategies
    assert "Clipped(max_norm=1.5, optimizer=RMSProp" in found.strategies["two-timescale"]
