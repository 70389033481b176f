"""`bilevel degeneracy`, and learned features on the command line."""

import csv

import pytest
import torch

from bilevel.errors import UnknownNameError
from problems.mspbe import LSTDValues, NeuralMSPBE
from problems.mspbe.catalogue import neural_policy_evaluation
from problems.mspbe.degeneracy import Degeneracy, main
from problems.mspbe.values import LeastSquaresValues


def table(folder):
    with (folder / "degeneracy.csv").open() as file:
        return {row["training"]: row for row in csv.DictReader(file)}


def test_the_command_writes_table_and_figure(tmp_path, capsys):
    folder = tmp_path / "out"
    code = main(["--seeds", "2", "--steps", "5", "--output", str(folder)])
    assert code == 1  # five steps are not enough for a factor of ten
    rows = table(folder)
    assert list(rows) == list(Degeneracy().trainings())
    # the exact best response of MSPBE is 0 from the start, and stays there whatever moves the body
    assert all(float(row["mspbe"]) < 1e-20 for name, row in rows.items() if name[:2] == "MS")
    assert float(rows["frozen body"]["lstd_factor"]) == pytest.approx(1, abs=1e-12)
    printed = capsys.readouterr().out
    for upper in ("MSVE", "MSBE"):
        for judge in ("MSVE", "MSBE"):
            assert f"{upper} on top: the implicit term wins" in printed
            assert f"of 2 by {judge}" in printed
    assert (folder / "degeneracy.svg").read_text().count("<path") > 8


@pytest.mark.slow  # a minute
def test_what_the_page_says(tmp_path):
    folder = tmp_path / "out"
    assert main(["--seeds", "3", "--steps", "2000", "--output", str(folder)]) == 0
    factors = {name: float(row["msve_factor"]) for name, row in table(folder).items()}
    assert abs(factors["Algorithm 1"] - 1) < 0.05
    assert factors["least squares"] > 10
    assert factors["MSVE, implicit"] > 10 > factors["MSVE, direct"]
    bellman = {name: float(row["msbe_factor"]) for name, row in table(folder).items()}
    assert bellman["MSBE, implicit"] > 2 * bellman["MSBE, direct"]


@pytest.mark.parametrize(
    ("objective", "kind", "strategies"),
    [
        ("mspbe", NeuralMSPBE, ["Algorithm 1", "uniform", "swapped", "frozen body"]),
        ("msve", LSTDValues, ["best response", "SOBA"]),
        ("msbe", LSTDValues, ["best response", "SOBA"]),
    ],
)
def test_problems_by_name_have_strategies_of_their_own(objective, kind, strategies):
    problem = neural_policy_evaluation(objective=objective, kind="expected", width=3, depth=2)
    assert isinstance(problem, kind)
    assert list(problem.strategies(0.01, 0.1))[: len(strategies)] == strategies
    body = problem.init_body(torch.Generator().manual_seed(0))
    assert [tuple(leaf.shape) for leaf in body.values()] == [(8, 3), (3, 3)]


def test_other_objectives_are_refused():
    least = neural_policy_evaluation(objective="least squares", kind="expected")
    assert isinstance(least, LeastSquaresValues)
    with pytest.raises(UnknownNameError, match="mspbe"):
        neural_policy_evaluation(objective="mspb")
