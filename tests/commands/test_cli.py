"""The command line, in process: exit codes, messages, and what is (not) written."""

import os
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import comparison_example
import pytest
from command_line import PAIR, TINY, run

import bilevel
from bilevel.commands.compare import Compare
from bilevel.commands.first_example import filled, numbers, spelled
from bilevel.commands.options import parse_option
from bilevel.comparison.result import Comparison
from problems.reproduce import STRATEGIES


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare") / "run"
    code = run("compare", "diabetes", *TINY, *PAIR, "--order", "simultaneous", "--output", folder)
    assert code == 0
    return folder


@pytest.fixture
def untrained(monkeypatch):
    """Fail if a training starts."""

    def train(*arguments, **options):
        raise AssertionError("a training was started")

    monkeypatch.setattr("bilevel.training.training.Training.run", train)


def test_compare_writes_what_it_was_asked(results):
    assert {"report.html", "config.json", "history.csv", "summary.csv", "paired.csv"} <= set(
        os.listdir(results)
    )
    found = Comparison.load(results)
    assert found.problem == "diabetes"
    assert list(found.strategies) == ["uniform slow", "two-timescale"]
    assert "simultaneous" in found.strategies["two-timescale"]
    assert found.settings["seeds"] == [0, 1]
    assert found.settings["options"] == {"width": 4}
    assert found.settings["batch_size"] == 64
    assert found.steps.tolist() == [0, 1, 2, 3, 4]
    assert found.headline == "test_mse"


def test_without_a_problem_it_is_the_first_example():
    command = filled(Compare(seeds=3))
    assert numbers(command) == (5e-3, 1e-2, 3, 600)
    assert (command.name, command.options()) == ("friedman1", {"ridge": 0.01})
    assert shlex.join(spelled(command)) == (
        "bilevel compare friedman1 --body-lr 0.005 --head-lr 0.01 --seeds 3 --steps 600 "
        "--set ridge=1e-2"
    )
    assert spelled(filled(Compare(seeds=3, compile=True)))[-3:] == [
        "--set",
        "ridge=1e-2",
        "--compile",
    ]
    assert filled(Compare(set=("ridge=0.5",))).options() == {"ridge": 0.5}
    named = filled(Compare("friedman1", body_lr=0.0))
    assert numbers(named) == (0.0, 5e-3, 20, 1500)
    assert named.options() == {}
    assert numbers(filled(Compare(csv=Path("a.csv"))))[2:] == (20, 1500)


@pytest.mark.usefixtures("untimed")
def test_compare_prints_the_table_and_the_page(tmp_path, capsys, reports):
    folder = tmp_path / "deep" / "run"
    options = ["--batch-size", "0", "--optimizer", "adam", "--dtype", "float64"]
    assert run("compare", "scalar-product", *TINY[:4], *PAIR, *options, "--output", folder) == 0
    printed = capsys.readouterr()
    found = reports[folder]
    assert found.table() in printed.out
    assert f"Report: {folder / 'report.html'}" in printed.out
    assert "trained uniform slow, two-timescale: 4 steps" in printed.err
    assert found.settings["batch_size"] is None
    assert found.settings["dtype"] == "float64"
    assert "Adam" in found.strategies["uniform slow"]


def test_an_existing_folder_is_left_alone(tmp_path, capsys, untrained):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "precious.txt").write_text("kept")
    assert run("compare", "diabetes", *TINY, "--output", folder) == 2
    assert "exists already" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["mine"]
    assert os.listdir(folder) == ["precious.txt"]
    assert run("reproduce", "friedman1", "--output", folder) == 2
    assert os.listdir(folder) == ["precious.txt"]


BAD = [
    (["compare", "diabets"], "no problem 'diabets'. Did you mean 'diabetes'"),
    (["compar"], "no command 'compar'. Did you mean 'compare'"),
    (["reprodce"], "Did you mean 'reproduce'"),
    (["compare", "--strategies", "two-timescal"], "Did you mean 'two-timescale'"),
    (["compare", "--set", "widht=4"], "Did you mean 'width'"),
    (["compare", "--set", "activation=tan"], "Did you mean 'tanh'"),
    (["compare", "--set", "width"], "key=value"),
    (["compare", "--set", "=4"], "key=value"),
    (["compare", "--set", "width=4.5"], "`width` must be a positive integer"),
    (["compare", "--set", "width=wide"], "`width` must be a positive integer"),
    (["compare", "--set", "ridge=-1"], "at least 0"),
    (["compare", "diabetes", "--set", "test=0.0001"], "2 rows each"),
    (["compare", "--body-lr", "-1"], "`body_lr` must be positive"),
    (["compare", "--head-lr", "-1"], "`head_lr` must be positive"),
    (["compare", "--head-lr", "0"], "`head_lr` must be positive"),
    (["compare", "--body-lr", "nan"], "`body_lr` must be positive"),
    (["compare", "--head-lr", "inf"], "`head_lr` must be positive"),
    (["compare", "--body-lr", "0.1", "--head-lr", "0.01"], "must be below `head_lr`"),
    (["strategies", "--body-lr", "0.1", "--head-lr", "0.1"], "build the strategies yourself"),
    (["compare", "--seeds", "0"], "`seeds`"),
    (["compare", "--batch-size", "-3"], "`batch_size`"),
    (["compare", "--threads", "0"], "`threads` must be from 1 to"),
    (["compare", "--device", "abacus"], "abacus"),
    (["compare", "diabetes", "--set", "ridge=0", "width=500"], "no unique minimiser"),
    (["strategies", "--head-lr", "-1"], "`head_lr` must be positive"),
    (["reproduce", "friedman4"], "no reference experiment 'friedman4'"),
    (["reproduce", "--seeds", "0"], "`seeds`"),
    (["reproduce", "--threads", "0"], "`threads` must be from 1 to"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_wrong_usage_is_exit_code_2(arguments, message, tmp_path, capsys, untrained):
    if arguments[0] in ("compare", "reproduce"):
        arguments = [*arguments, "--output", tmp_path / "new"]
    assert run(*arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith("bilevel: ")
    assert printed.err.count("\n") == 1  # one line, no traceback
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "arguments", [["--steps", "0"], ["--every", "0"], ["--every", "-2"], ["--steps", "-5"]]
)
def test_wrong_counts_are_refused_before_the_first_step(arguments, tmp_path, capsys, monkeypatch):
    def step(self):
        raise AssertionError("a step was made")

    monkeypatch.setattr("bilevel.training.cohort.Cohort.step", step)
    assert run("compare", "diabetes", *TINY, *arguments, "--output", tmp_path / "new") == 2
    assert "must be a positive integer" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["compare", "--dtype", "float16"],
        ["compare", "--order", "sideways"],
        ["compare", "--optimizer", "lion"],
        ["compare", "--seeds", "many"],
        ["compare", "--no-such-option", "1"],
        ["report"],
    ],
    ids=" ".join,
)
def test_what_the_parser_refuses_is_exit_code_2(arguments, capsys, untrained):
    assert run(*arguments) == 2
    assert capsys.readouterr().err


def test_help_is_exit_code_0(capsys):
    assert run("--help") == 0
    assert "reproduce" in capsys.readouterr().out  # commands of installed packages are named


def test_version(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out == f"bilevel {metadata.version('bilevel')}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("width=128", ("width", 128)),
        ("ridge=1e-3", ("ridge", 1e-3)),
        ("activation=tanh", ("activation", "tanh")),
        ("activation='tanh'", ("activation", "tanh")),
        ("flag=True", ("flag", True)),
        ("sizes=(1, 2)", ("sizes", (1, 2))),
        ("path=a=b", ("path", "a=b")),
        ("empty=", ("empty", "")),
    ],
)
def test_options_are_literals_or_words(text, expected):
    found = parse_option(text)
    assert found == expected
    assert type(found[1]) is type(expected[1])


@pytest.mark.usefixtures("untimed", "undrawn")
def test_a_diverging_run_is_exit_code_1_and_is_reported(tmp_path, capsys):
    folder = tmp_path / "run"
    assert run("compare", "diabetes", *TINY, "--strategies", "uniform slow", "uniform fast",
               "--optimizer", "sgd", "--head-lr", "1e30", "--output", folder) == 1  # fmt: skip
    found = Comparison.load(folder)
    assert found.status == {"uniform slow": ["COMPLETED"] * 2, "uniform fast": ["DIVERGED"] * 2}
    assert (folder / "report.html").exists()
    assert "DIVERGED" in capsys.readouterr().out.upper()


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("code", "exit_code"), [("NO_MINIMISER", 1), ("JITTERED", 0)])
def test_every_kind_of_failure_is_exit_code_1(code, exit_code, tmp_path, monkeypatch):
    status = {name: ["COMPLETED", code] for name in comparison_example.STRATEGIES}
    made = comparison_example.example(2, 3, status=status)
    monkeypatch.setattr(Compare, "compare", lambda self, partial: made)
    (tmp_path / "run.partial").mkdir()
    command = Compare(output=tmp_path / "run")
    assert command.run_in(tmp_path / "run.partial") == exit_code


def test_nothing_but_diverging_runs_is_exit_code_1(tmp_path, capsys):
    rates = ["--body-lr", "1e30", "--head-lr", "2e30"]
    assert run("compare", "diabetes", *TINY, *PAIR, "--optimizer", "sgd", *rates, "--output",
               tmp_path / "run") == 1  # fmt: skip
    assert "smaller step size" in capsys.readouterr().err


def test_an_interrupt_before_anything_was_recorded(tmp_path, capsys, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(bilevel, "compare", interrupt, raising=False)
    assert run("compare", "diabetes", *TINY, "--output", tmp_path / "run") == 130
    assert "interrupted" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_problems_lists_names_summaries_and_options(capsys):
    assert run("problems") == 0
    printed = capsys.readouterr().out
    for expected in ("diabetes ", "friedman1 ", "scalar-product ", "width=64", "Friedman 1:"):
        assert expected in printed


def test_strategies_lists_the_presets_with_their_rates(capsys):
    assert run("strategies", "--body-lr", "0.25", "--head-lr", "4") == 0
    printed = capsys.readouterr().out
    lines = {line[:22].strip(): line for line in printed.splitlines()}
    assert {*STRATEGIES, "best response running", "balanced"} == set(lines)
    assert lines["two-timescale"].index("0.25") < lines["two-timescale"].index("4.0")
    assert lines["swapped"].index("4.0") < lines["swapped"].index("0.25")
    assert lines["uniform sqrt"].count("1.0") >= 2


def test_report_prints_again_and_writes_only_where_asked(results, tmp_path, capsys, reports):
    before = sorted(os.listdir(results))
    assert run("report", results) == 0
    assert Comparison.load(results).table() in capsys.readouterr().out
    assert sorted(os.listdir(results)) == before
    assert reports == {}
    assert run("report", results, "--output", tmp_path / "again") == 0
    assert list(reports) == [tmp_path / "again"]


def test_report_does_not_overwrite(results, capsys):
    before = (results / "report.html").stat().st_mtime_ns
    assert run("report", results, "--output", results) == 2
    assert "exists already" in capsys.readouterr().err
    assert (results / "report.html").stat().st_mtime_ns == before


def test_report_of_a_folder_that_is_none(tmp_path, capsys):
    assert run("report", tmp_path / "missing") == 2
    assert "missing" in capsys.readouterr().err
    assert run("report", tmp_path) == 2
    assert "config.json is missing" in capsys.readouterr().err


def test_doctor(capsys, monkeypatch):
    assert run("doctor") == 0
    printed = capsys.readouterr().out
    assert "All is well." in printed
    assert "diabetes         ok" in printed
    assert f"python           {sys.version.split()[0]}" in printed
    real = bilevel.hypergradient
    monkeypatch.setattr(bilevel, "hypergradient", lambda problem, w: real(problem, 1.01 * w))
    assert run("doctor") == 1  # a wrong gradient is found
    assert "Something is wrong" in capsys.readouterr().out


def test_a_shadowing_problems_module_is_named(tmp_path):
    """A file of the user's own that is imported in place of the package."""
    (tmp_path / "problems.py").write_text("mine = 1\n")
    found = subprocess.run(
        [sys.executable, "-m", "bilevel", "problems"], cwd=tmp_path, capture_output=True, text=True
    )
    assert found.returncode == 2
    assert str(tmp_path / "problems.py") in found.stderr
    assert "rename it" in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.usefixtures("untimed", "undrawn")
def test_a_closed_pipe_does_not_cost_the_report(tmp_path, monkeypatch):
    monkeypatch.delattr(Comparison, "table")  # printing fails, as into `| head`
    with pytest.raises(AttributeError, match="table"):
        run("compare", "diabetes", *TINY, *PAIR, "--output", tmp_path / "kept")
    assert (tmp_path / "kept" / "report.html").exists()
