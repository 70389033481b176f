"""Policy evaluation from the command line: strategies of the problem's own take part."""

import numpy as np
import pytest
import torch
from command_line import run

import bilevel
from problems.mspbe import Known, LinearEvaluation, boyan, methods

BOYAN = ["compare", "policy-evaluation", "--seeds", 2, "--steps", 4, "--set", "process=boyan"]


def test_compare_trains_the_problem_s_own_strategies(tmp_path, capsys):
    expected = ["kind=expected", "--batch-size", 0, "--strategies", "LSTD", "TDRC"]
    assert run(*BOYAN, *expected, "--output", tmp_path / "new") == 0
    printed = capsys.readouterr().out
    comparison = bilevel.Comparison.load(tmp_path / "new")
    final = comparison.final("test_msve")
    assert list(final) == ["LSTD", "TDRC"]
    assert final["LSTD"].max() < 1e-6 < final["TDRC"].min()
    assert "final test MSVE" in printed
    page = (tmp_path / "new" / "report.html").read_text()
    assert "Boyan" in page


def test_compare_walks_a_trajectory(tmp_path):
    walk = ["kind=markovian", "length=16", "--sampling", "sequential", "--batch-size", 4]
    output = ["--strategies", "TD", "--output", tmp_path / "new"]
    assert run(*BOYAN, *walk, "--head-lr", 0.1, *output) == 0
    solution = bilevel.solve(
        LinearEvaluation(Known(boyan(), "markovian", 16)),
        methods.td(0.1),
        4,
        batch_size=4,
        seeds=2,
        every=4,
        sampling="sequential",
    )
    comparison = bilevel.Comparison.load(tmp_path / "new")
    expected = solution.history["test_msve"][-1].numpy()
    np.testing.assert_allclose(comparison.final("test_msve")["TD"], expected, rtol=1e-6)


def test_names_of_other_strategies_are_refused(tmp_path, capsys):
    code = run(*BOYAN, "--strategies", "two-timescale", "--output", tmp_path / "new")
    assert code == 2
    message = capsys.readouterr().err
    assert "no strategy of policy-evaluation 'two-timescale'" in message
    assert "TDRC" in message


def test_files_of_transitions_are_compared(tmp_path):
    random = np.random.default_rng(0)
    states = random.normal(size=(40, 3))
    file = tmp_path / "rows.npz"
    np.savez(file, states=states, next_states=random.normal(size=(40, 3)), rewards=states[:, 0])
    arguments = ["--seeds", 2, "--steps", 3, "--batch-size", 8, "--set", f"file={file}"]
    output = ["--strategies", "LSTD", "TD", "--output", tmp_path / "new"]
    assert run("compare", "transitions", *arguments, *output) == 0
    final = bilevel.Comparison.load(tmp_path / "new").final("train_mspbe")
    assert list(final) == ["LSTD", "TD"]


@pytest.mark.slow  # pytest -m slow tests/test_mspbe_command.py: compiles twice
def test_compiled_methods_make_the_same_steps():
    problem = LinearEvaluation(boyan())
    for strategy in (methods.tdrc(0.05, 1.5, 0.5), methods.gtd2(0.1)):
        plain, compiled = (
            bilevel.solve(
                problem,
                strategy,
                30,
                batch_size=None,
                seeds=3,
                every=30,
                dtype=torch.float64,
                compile=compile,
            )
            for compile in (False, True)
        )
        assert torch.allclose(plain.head, compiled.head, rtol=1e-12)
