"""How commands end: by signals, without readers, in folders of others, and twice."""

import os
import shlex
import shutil
import signal
import subprocess
import sys

import comparison_example
import pytest
from command_line import run
from streams import deaf

from bilevel.commands.compare import Compare
from bilevel.comparison import checkpoint
from bilevel.comparison import compare as compare_module
from bilevel.comparison.result import Comparison
from bilevel.core.status import Status
from bilevel.report import html
from bilevel.storage.folder import held
from bilevel.storage.lock import LOCK
from bilevel.training.cohort import Cohort

COMMAND = ["compare", "scalar-product", "--seeds", "2", "--steps", "2", "--every", "1",
           "--strategies", "uniform slow", "best response"]  # fmt: skip
CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}


@pytest.fixture(autouse=True, scope="module")
def _quick():
    """Nothing is timed, nothing is drawn, and Ctrl-C interrupts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare_module, "seconds_per_step", lambda names, *_: dict.fromkeys(names, 1))
        patch.setattr(html, "draw", lambda content: {"final": ("a figure", "<svg></svg>")})
        patch.setattr(html, "page", lambda content, drawn: content["problem"])
        # a shell has told what it runs in the background to ignore it
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
        signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The history of the comparison that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert run(*COMMAND, "--output", folder) == 0
    return (folder / "history.csv").read_text()


@pytest.fixture
def untrained(monkeypatch):
    """No step may be made."""
    monkeypatch.delattr(Cohort, "step")


def before(monkeypatch, owner, name, act, number=0):
    """Do something before the `number`-th call of a function."""
    true, calls = getattr(owner, name), []

    def called(*arguments, **options):
        calls.append(name)
        if len(calls) == number + 1:
            act()
        return true(*arguments, **options)

    monkeypatch.setattr(owner, name, called)


def tell(name):
    return lambda: os.kill(os.getpid(), getattr(signal, name))


def pressed():
    raise KeyboardInterrupt


def goes_on(root, said, expected):
    """The line that was printed finishes the comparison."""
    command = said.partition("To go on: bilevel ")[2].splitlines()[0]
    assert shlex.split(command) == ["compare", "--resume", str(root / "run.partial")]
    assert run(*shlex.split(command)) == 0
    assert os.listdir(root) == ["run"]
    assert (root / "run" / "history.csv").read_text() == expected


PLACES = {
    "a step": (Cohort, "step", 2),
    "a record": (Cohort, "record", 1),
    "keeping": (checkpoint, "write_tensors", 1),
    "the report": (html, "page", 0),
    "the table": (Comparison, "table", 0),
}
CELLS = [
    ("SIGINT", "a step"),
    ("SIGINT", "keeping"),
    ("SIGTERM", "the report"),
    ("SIGHUP", "the table"),
    *(
        pytest.param(name, place, marks=pytest.mark.slow)
        for name, place in [("SIGINT", "a record"), ("SIGINT", "the report"), ("SIGHUP", "a step")]
    ),
]


@pytest.mark.skipif(os.name != "posix", reason="signals are sent")
@pytest.mark.parametrize(("name", "place"), CELLS)
def test_a_signal_ends_with_how_to_go_on(name, place, tmp_path, capsys, monkeypatch, expected):
    with monkeypatch.context() as patch:
        before(patch, *PLACES[place][:2], tell(name), PLACES[place][2])
        handlers = [signal.getsignal(getattr(signal, each)) for each in CODES]
        assert run(*COMMAND, "--output", tmp_path / "run") == CODES[name]
        assert handlers == [signal.getsignal(getattr(signal, each)) for each in CODES]
    goes_on(tmp_path, capsys.readouterr().err, expected)


def test_a_second_ctrl_c_ends_the_report_of_the_first(tmp_path, capsys, monkeypatch, expected):
    with monkeypatch.context() as patch:
        before(patch, Cohort, "step", pressed, 1)
        before(patch, html, "page", pressed)
        assert run(*COMMAND, "--output", tmp_path / "run") == 130
    assert not (tmp_path / "run.partial" / "report").exists()
    goes_on(tmp_path, capsys.readouterr().err, expected)


@pytest.mark.skipif(os.name != "posix", reason="signals are sent")
def test_a_signal_that_was_ignored_still_is(tmp_path, monkeypatch):
    """As after `nohup`."""
    handler = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        before(monkeypatch, Cohort, "step", tell("SIGHUP"))
        assert run(*COMMAND, "--output", tmp_path / "run") == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, handler)


# files of others


def test_nothing_of_the_user_is_removed(tmp_path, capsys, monkeypatch, expected):
    folder, partial = tmp_path / "run", tmp_path / "run.partial"
    notes = [partial / "notes.txt", partial / "mine.safetensors", partial / "report" / "notes.txt"]
    for number in (0, 1):  # of the step before which Ctrl-C is pressed
        with monkeypatch.context() as patch:
            before(patch, Cohort, "step", pressed, number)
            asked = ["--output", folder] if number == 0 else ["--resume", partial]
            assert run(*(COMMAND if number == 0 else ["compare"]), *asked) == 130
        for note in notes:
            if number == 0:
                note.write_text("mine")
            assert note.read_text() == "mine"
    old = (partial / "report" / "history.csv").read_text()
    assert old.count("\n") == 1 + 2 * 2  # the second report took the place of the first
    capsys.readouterr()
    assert run("compare", "--resume", partial) == 0
    said = capsys.readouterr().err
    assert "run.partial stays, for it holds mine.safetensors, notes.txt, report." in said
    assert sorted(path for path in partial.rglob("*") if path.is_file()) == sorted(notes)
    assert (folder / "history.csv").read_text() == expected


@pytest.mark.parametrize("file", ["training-0.safetensors", "comparison.json", ""])
def test_a_link_to_nothing_is_damage(file, tmp_path, capsys, monkeypatch):
    folder, partial = tmp_path / "run", tmp_path / "run.partial"
    with monkeypatch.context() as patch:
        before(patch, Cohort, "step", pressed, 3)
        assert run(*COMMAND, "--output", folder) == 130
    elsewhere = tmp_path / "elsewhere"
    (partial / file).rename(elsewhere)
    (partial / file).symlink_to(elsewhere)
    moved = tmp_path / "unplugged"
    elsewhere.rename(moved)
    with monkeypatch.context() as patch:
        patch.delattr(Cohort, "step")
        assert run("compare", "--resume", partial) == 2
        assert f"is damaged: it links to {elsewhere}" in capsys.readouterr().err
    moved.rename(elsewhere)
    assert run("compare", "--resume", partial) == 0


# a comparison that is finished


def test_a_finished_comparison_is_said_to_be_finished(tmp_path, capsys, monkeypatch):
    folder, partial = tmp_path / "run", tmp_path / "run.partial"
    with monkeypatch.context() as patch:
        patch.setattr("bilevel.comparison.kept.clear", lambda *_: [])  # killed before
        assert run(*COMMAND, "--output", folder) == 0
    assert (partial / "comparison.json").exists()
    shutil.copytree(partial, tmp_path / "other.partial")
    (folder / "notes.txt").write_text("mine")
    monkeypatch.delattr(Cohort, "step")
    for _ in range(2):  # the second time nothing is left of it
        capsys.readouterr()
        assert run("compare", "--resume", partial) == 0
        printed = capsys.readouterr()
        assert "run.partial is finished: nothing is left to train" in printed.err
        assert Comparison.load(folder).table() in printed.out
        assert f"Report: {folder / 'report.html'}" in printed.out
        assert not partial.exists()
    assert (folder / "notes.txt").read_text() == "mine"
    (folder / "history.csv").write_text(
        (folder / "history.csv").read_text().replace(",1", ",2")
    )  # results of something else
    other = ["compare", "--resume", tmp_path / "other.partial"]
    assert run(*other, "--output", folder) == 2
    assert "never overwritten" in capsys.readouterr().err
    assert (tmp_path / "other.partial" / "training-0.safetensors").exists()
    assert run(*other) == 0  # beside it, wherever it was moved
    assert (tmp_path / "other" / "history.csv").exists()


def test_a_folder_may_be_resumed_from_inside(tmp_path, monkeypatch, expected):
    with monkeypatch.context() as patch:
        before(patch, *PLACES["a step"][:2], tell("SIGINT"), PLACES["a step"][2])
        assert run(*COMMAND, "--output", tmp_path / "run") == 130
    monkeypatch.chdir(tmp_path / "run.partial")
    assert run("compare", "--resume", ".") == 0
    assert (tmp_path / "run" / "history.csv").read_text() == expected


def test_results_that_appear_meanwhile_stay(tmp_path, capsys, monkeypatch, expected):
    def make():
        (tmp_path / "run").mkdir()

    with monkeypatch.context() as patch:
        before(patch, *PLACES["a step"][:2], make, PLACES["a step"][2])
        assert run(*COMMAND, "--output", tmp_path / "run") == 1
    said = capsys.readouterr().err
    assert "run exists already" in said
    assert f"To go on: bilevel compare --resume {tmp_path / 'run.partial'}" in said
    partial, other = tmp_path / "run.partial", tmp_path / "other"
    assert run("compare", "--resume", partial, "--output", other) == 0
    assert (other / "history.csv").read_text() == expected


# a folder in use


def test_a_folder_in_use_is_refused_with_the_process(tmp_path, capsys, untrained):
    partial = tmp_path / "run.partial"
    with held(partial):
        (partial / "comparison.json").write_text("{}")
        for command in ([*COMMAND, "--output", tmp_path / "run"], ["compare", "--resume", partial]):
            assert run(*command) == 2
            assert f"run.partial is in use by process {os.getpid()}" in capsys.readouterr().err
        assert sorted(os.listdir(partial)) == [LOCK, "comparison.json"]
    assert run(*COMMAND, "--output", tmp_path / "run") == 2  # it is no longer in use
    assert f"To go on: bilevel compare --resume {partial}" in capsys.readouterr().err


def test_who_is_refused_does_not_wait_for_torch(tmp_path):
    code = """
import sys
from bilevel.commands.main import main
print(main(sys.argv[1:]), "torch" in sys.modules)
"""
    with held(tmp_path / "run.partial"):
        command = [sys.executable, "-c", code, "compare", "--output", tmp_path / "run"]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout == "2 False\n"
    assert f"in use by process {os.getpid()}" in done.stderr


@pytest.mark.parametrize("place", [".", "..", "/", "~", ""])
def test_results_do_not_go_where_other_things_are(place, tmp_path, capsys, untrained, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "thesis.tex").write_text("mine")
    assert run(*COMMAND, "--output", place) == 2
    said = capsys.readouterr().err
    assert "exists already, and results are never overwritten. Name another folder (such" in said
    assert os.listdir(tmp_path) == ["thesis.tex"]


# nobody reads


@pytest.mark.parametrize("names", [("stdout",), ("stdout", "stderr")])
def test_a_comparison_that_nobody_reads_is_written(names, tmp_path, monkeypatch, expected):
    with monkeypatch.context() as patch:
        deaf(patch, BrokenPipeError(32, "Broken pipe"), *names)
        run(*COMMAND, "--output", tmp_path / "run")
    assert os.listdir(tmp_path) == ["run"]
    assert (tmp_path / "run" / "history.csv").read_text() == expected


def test_a_comparison_without_any_output_is_written(tmp_path, monkeypatch, expected):
    """As after `>&- 2>&-`."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", None)
        patch.setattr(sys, "stderr", None)
        assert run(*COMMAND, "--output", tmp_path / "run") == 0
    assert (tmp_path / "run" / "history.csv").read_text() == expected


# exit codes


def test_every_status_that_counts_as_failed_is_exit_code_1(tmp_path, monkeypatch):
    for code in Status:
        if code is Status.INTERRUPTED:
            continue
        status = {name: ["COMPLETED", code.name] for name in comparison_example.STRATEGIES}
        made = comparison_example.example(2, 3, status=status)
        monkeypatch.setattr(Compare, "compare", lambda self, partial, made=made: made)
        command = Compare(output=tmp_path / code.name)
        assert command.run_in(tmp_path / f"{code.name}.partial") == int(code.failed)
