"""Policy evaluation from the command line: strategies of the problem's own take part."""

import numpy as np
import pytest
import torch
from command_line import run

import bilevel
from bilevel.commands.compare import Compare
from bilevel.commands.first_example import filled
from bilevel.storage.folder import held
from problems.mspbe import Known, LinearEvaluation, boyan, methods

BOYAN = ["compare", "policy-evaluation", "--seeds", 2, "--steps", 4, "--set", "process=boyan"]


def compared(folder, **options):
    """What the command compares, without its report."""
    chosen = ("process=boyan", *options.pop("set"))
    with held(folder) as partial:
        command = Compare("policy-evaluation", seeds=2, steps=4, set=chosen, **options)
        return filled(command).compare(partial)


def test_compare_trains_the_problem_s_own_strategies(tmp_path):
    comparison = compared(
        tmp_path, set=["kind=expected"], batch_size=0, strategies=("LSTD", "TDRC")
    )
    final = comparison.final("test_msve")
    assert list(final) == ["LSTD", "TDRC"]
    assert final["LSTD"].max() < 1e-6 < final["TDRC"].min()
    assert "final test MSVE" in comparison.table()


def test_compare_walks_a_trajectory(tmp_path):
    walk = ["kind=markovian", "length=16"]
    comparison = compared(
        tmp_path, set=walk, sampling="sequential", batch_size=4, head_lr=0.1, strategies=("TD",)
    )
    solution = bilevel.solve(
        LinearEvaluation(Known(boyan(), "markovian", 16)),
        methods.td(0.1),
        steps=4,
        batch_size=4,
        seeds=2,
        every=4,
        sampling="sequential",
    )
    expected = solution.history["test_msve"][-1].numpy()
    np.testing.assert_allclose(comparison.final("test_msve")["TD"], expected, rtol=1e-6)


def test_names_of_other_strategies_are_refused(tmp_path, capsys):
    code = run(*BOYAN, "--strategies", "two-timescale", "--output", tmp_path / "new")
    assert code == 2
    message = capsys.readouterr().err
    assert "no strategy of policy-evaluation 'two-timescale'" in message
    assert "TDRC" in message


def test_files_of_transitions_are_problems(tmp_path, capsys):
    random = np.random.default_rng(0)
    states = random.normal(size=(40, 3))
    file = tmp_path / "rows.npz"
    np.savez(file, states=states, next_states=random.normal(size=(40, 3)), rewards=states[:, 0])
    assert run("check", "transitions", "--set", f"file={file}", "discount=0.5") == 0
    assert "40 rows in train" in capsys.readouterr().out


@pytest.mark.slow  # pytest -m slow tests/test_mspbe_command.py: compiles twice
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_compiled_methods_make_the_same_steps():
    problem = LinearEvaluation(boyan())
    for strategy in (methods.tdrc(0.05, 1.5, beta=0.5), methods.gtd2(0.1)):
        plain, compiled = (
            bilevel.solve(
                problem,
                strategy,
                steps=30,
                batch_size=None,
                seeds=3,
                every=30,
                dtype=torch.float64,
                compile=compile,
            )
            for compile in (False, True)
        )
        assert torch.allclose(plain.head, compiled.head, rtol=1e-12)
