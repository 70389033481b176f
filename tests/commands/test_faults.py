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


def whole(root):
    """From the first step to the last one."""
    return run(*COMMAND, "--output", root / "run")


def interrupted(root):
    """Ctrl-C in the second training."""
    true, left = Cohort.step, iter("123")

    def step(cohort):
        if next(left) == "3":
            raise KeyboardInterrupt
        true(cohort)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cohort, "step", step)
        return run(*COMMAND, "--output", root / "run")


def resumed(root):
    """What `interrupted` left."""
    return run("compare", "--resume", root / "run.partial")


SCENARIOS = {whole: [], interrupted: [], resumed: [interrupted]}
"""With what was done before."""
STRIDES = {whole: 100, interrupted: 100, resumed: 100}
"""From one place of the sample to the next, for each way."""


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What is done to files in each scenario."""
    found = {}
    for scenario, before in SCENARIOS.items():
        root = tmp_path_factory.mktemp("seen")
        for earlier in before:
            earlier(root)
        with faulty(root) as faults:
            scenario(root)
        found[scenario] = faults.seen
    return found


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The files of the result."""
    root = tmp_path_factory.mktemp("expected")
    assert whole(root) == OK
    assert sorted(os.listdir(root)) == ["run"]
    return contents(root / "run")


def contents(folder):
    """The files of a result; where it is and how it was asked for differ."""
    found = {path.name: path.read_text() for path in folder.iterdir()}
    here = str(folder.parent)
    return {name: text.replace(here, "") for name, text in found.items()}


def fails(scenario, root, number, way, capsys):
    """What is left when the `number`-th of all that is done to files fails or is the last."""
    folder, partial = root / "run", root / "run.partial"
    for earlier in SCENARIOS[scenario]:
        earlier(root)
    if way in FAILING:
        with faulty(root, number, way) as faults:
            code = scenario(root)
        said = capsys.readouterr().err
        assert number < len(faults.seen)
        assert code in ((FAILED, 130) if scenario is interrupted else (FAILED, OK))
        assert folder.exists() or not partial.exists() or "To go on: " in said
        assert code != OK or folder.exists()
    else:
        with faulty(root, number, way), pytest.raises(KilledError):
            scenario(root)
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


def assert_survives(scenario, seen, ways, expected, root, capsys, stride=1):
    """All the cells, or those some way from each other; the counts of what they left."""
    counts = Counter()
    for i, way in enumerate(ways):
        for number in range(i * stride // len(ways), len(seen[scenario]), stride):
            place = root / f"{scenario.__name__}-{number}-{way}"
            place.mkdir()
            try:
                left = fails(scenario, place, number, way, capsys)
                assert_whole(place, expected)
            except AssertionError as error:
                raise AssertionError(f"{place.name}: {seen[scenario][number]}") from error
            counts[way, left] += 1
            shutil.rmtree(place)
    return counts


def test_everything_that_is_done_to_files_is_seen(seen, expected):
    kinds = {"open", "write", "fsync", "rename", "mkdir", "rmdir", "unlink"}
    assert [set(found) for found in seen.values()] == [kinds] * 3
    assert {"config.json", "history.csv", "report.html", "final.svg"} <= {*expected}
    assert np.isfinite(float(expected["history.csv"].splitlines()[-1].split(",")[3]))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_sample_of_faults_leaves_what_can_be_finished(scenario, seen, expected, tmp_path, capsys):
    ways = (*FAILING, *KILLED)
    found = assert_survives(scenario, seen, ways, expected, tmp_path, capsys, STRIDES[scenario])
    assert {way for way, _ in found} == {*ways}


def test_what_cannot_be_removed_leaves_a_comparison_that_is_finished(
    seen, expected, tmp_path, capsys
):
    last = [i for i, name in enumerate(seen[whole]) if name == "unlink"][-4:]
    for number in last:
        root = tmp_path / str(number)
        root.mkdir()
        fails(whole, root, number, "denied", capsys)
        assert_whole(root, expected)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_all_faults_leave_what_can_be_finished(scenario, seen, expected, tmp_path, capsys):
    ways = (*FAILING, *KILLED)
    found = assert_survives(scenario, seen, ways, expected, tmp_path, capsys)
    show(capsys, scenario, seen, found)


def show(capsys, scenario, seen, found):
    """Print the counts, for who asked for them."""
    with capsys.disabled():
        total = f"{sum(found.values())} faults at {len(seen[scenario])} places"
        sys.stdout.write(f"\n{scenario.__name__}: {total}, {dict(Counter(seen[scenario]))}\n")
        for (way, left), count in sorted(found.items()):
            sys.stdout.write(f"{way:8} {left:22} {count:4}\n")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_processes_that_are_killed_anywhere_leave_what_can_be_finished(
    seen, expected, tmp_path, capsys
):
    """In processes of their own, which really end."""
    found = Counter()
    for number in range(len(seen[whole])):
        for way in KILLED:
            root = tmp_path / f"{number}-{way}"
            root.mkdir()
            child = os.fork()
            if child == 0:
                with faulty(root, number, way, kill=True):
                    whole(root)
                os._exit(9)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
            found[way, finished(root, capsys)] += 1
            assert_whole(root, expected)
    show(capsys, whole, seen, found)
