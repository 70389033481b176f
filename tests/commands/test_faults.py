"""Everything that is done to a file fails once, or is the last thing that a process does.

Afterwards there is the whole result, or a folder that `--resume` finishes with the numbers, names
and order of a comparison that nothing interrupted; or, before anything was kept, nothing. All
places and ways, with their counts:

    python -m pytest -m slow tests/commands/test_faults.py
"""

import os
import shutil
import signal
import sys
from collections import Counter

import numpy as np
import pytest
from command_line import run
from faults import KilledError, faulty, hidden

from bilevel.commands.exit_codes import FAILED, OK
from bilevel.comparison import checkpoint
from bilevel.comparison import compare as compare_module
from bilevel.report import html
from bilevel.training.cohort import Cohort

COMMAND = ["compare", "scalar-product", "--seeds", "2", "--steps", "2", "--every", "1",
           "--strategies", "uniform slow", "best response"]  # fmt: skip
FAILING, KILLED = ("full", "denied"), ("before", "torn", "after")
TIMES = {"uniform slow": 0.25, "best response": 0.5}


@pytest.fixture(autouse=True, scope="module")
def _quick():
    """Every record is kept, nothing is timed, and nothing is drawn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "SECONDS", -1.0)
        patch.setattr(compare_module, "seconds_per_step", lambda trained, *_: dict(TIMES))
        patch.setattr(html, "draw", lambda content: {"final": ("a figure", "<svg></svg>")})
        patch.setattr(html, "page", lambda content, drawn: content["problem"])
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What is done to files, and the files of the result."""
    root = tmp_path_factory.mktemp("whole")
    with faulty(root) as faults:
        assert run(*COMMAND, "--output", root / "run") == OK
    assert sorted(os.listdir(root)) == ["run"]
    return faults.seen, contents(root / "run")


def contents(folder):
    """The files of a result; where it is and how it was asked for differ."""
    found = {path.name: path.read_text() for path in folder.iterdir()}
    here = str(folder.parent)
    return {name: text.replace(here, "") for name, text in found.items()}


def fails(root, number, way, capsys):
    """What is left when the `number`-th of all that is done to files fails or is the last."""
    folder, partial = root / "run", root / "run.partial"
    if way in FAILING:
        with faulty(root, number, way) as faults:
            code = run(*COMMAND, "--output", folder)
        said = capsys.readouterr().err
        assert faults.number < len(faults.seen)
        assert code in (OK, FAILED)
        assert "Traceback" not in said
        assert folder.exists() or not partial.exists() or "To go on: " in said
        assert code == FAILED or folder.exists()
    else:
        with faulty(root, number, way), pytest.raises(KilledError):
            run(*COMMAND, "--output", folder)
    return finished(root, capsys)


def finished(root, capsys):
    """Finish what is left, and say what it was."""
    folder, partial = root / "run", root / "run.partial"
    left = "result" if folder.exists() else "nothing"
    if (partial / "comparison.json").exists() or (folder.exists() and partial.exists()):
        left = "result, to be cleared" if folder.exists() else "folder to go on from"
        with pytest.MonkeyPatch.context() as patch:
            if folder.exists():  # it is known to be finished
                patch.delattr(Cohort, "step")
            capsys.readouterr()
            assert run("compare", "--resume", partial) == OK
        printed = capsys.readouterr()
        assert str(folder / "report.html") in printed.out
        assert ("is finished" in printed.err) == ("cleared" in left)
    elif not folder.exists():
        assert run(*COMMAND, "--output", folder) == OK
    return left


def assert_whole(root, expected):
    assert sorted(os.listdir(root)) == ["run"]
    assert hidden(root) == []
    found = contents(root / "run")
    assert list(found["history.csv"]) == list(expected["history.csv"])
    told = {"config.json": "", "environment.json": ""}  # with the command, and the commit
    assert {**found, **told} == {**expected, **told}


def assert_survives(places, ways, whole, tmp_path, capsys):
    """All the cells; the counts of what they left."""
    counts = {}
    for number in places:
        for way in ways:
            root = tmp_path / f"{number}-{way}"
            root.mkdir()
            left = fails(root, number, way, capsys)
            try:
                assert_whole(root, whole[1])
            except AssertionError as error:
                raise AssertionError(f"{way} {number}: {whole[0][number]}, left {left}") from error
            counts[way, left] = counts.get((way, left), 0) + 1
            shutil.rmtree(root)
    return counts


def test_everything_that_is_done_to_files_is_seen(whole):
    assert {*whole[0]} == {"open", "write", "fsync", "rename", "mkdir", "rmdir", "unlink"}
    assert {"config.json", "history.csv", "report.html", "final.svg"} <= {*whole[1]}
    assert np.isfinite(float(whole[1]["history.csv"].splitlines()[-1].split(",")[3]))


def test_a_sample_of_faults_leaves_what_can_be_finished(whole, tmp_path, capsys):
    places = range(len(whole[0]))
    found = {}
    for i, way in enumerate((*FAILING, *KILLED)):
        found |= assert_survives(places[5 * i :: 25], (way,), whole, tmp_path, capsys)
    assert sum(found.values()) >= 15
    assert {left for _, left in found} >= {"folder to go on from", "result, to be cleared"}


@pytest.mark.slow
def test_all_faults_leave_what_can_be_finished(whole, tmp_path, capsys):
    found = assert_survives(range(len(whole[0])), (*FAILING, *KILLED), whole, tmp_path, capsys)
    assert sum(found.values()) == 5 * len(whole[0])
    show(capsys, whole[0], found)


def show(capsys, seen, found):
    """Print the counts, for who asked for them."""
    with capsys.disabled():
        sys.stdout.write(f"\n{len(seen)} places: {dict(Counter(seen))}\n")
        for (way, left), count in sorted(found.items()):
            sys.stdout.write(f"{way:8} {left:22} {count:4}\n")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_processes_that_are_killed_anywhere_leave_what_can_be_finished(whole, tmp_path, capsys):
    """The same in processes of their own, which really end."""
    found = {}
    for number in range(len(whole[0])):
        for way in KILLED:
            root = tmp_path / f"{number}-{way}"
            root.mkdir()
            child = os.fork()
            if child == 0:
                with faulty(root, number, way, kill=True):
                    run(*COMMAND, "--output", root / "run")
                os._exit(9)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
            left = finished(root, capsys)
            assert_whole(root, whole[1])
            found[way, left] = found.get((way, left), 0) + 1
    show(capsys, whole[0], found)
