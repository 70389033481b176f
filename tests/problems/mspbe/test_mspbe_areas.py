"""The sampled areas: the rule they are judged by, a short run, and the whole of it."""

import dataclasses
import math

import numpy as np
import pytest
import torch

import bilevel
from bilevel.data.training_data import TrainingData
from bilevel.errors import ArgumentError, ResultsExistError, UnknownNameError
from problems.mspbe import Known, LinearEvaluation, areas, methods, random_walk


def test_the_rule_of_a_ratio():
    row = areas.Ratio("tabular", "TD", 1.0, 1.1, 1.05, 1.15, 0.2)
    assert row.reproduced  # within 15 %
    assert not dataclasses.replace(row, ratio=1.2, low=1.1, high=1.3).reproduced
    assert dataclasses.replace(row, ratio=1.2, low=0.9, high=1.5).reproduced
    assert dataclasses.replace(row, ratio=1.2, low=1.1, high=1.3, order_only=True).reproduced


def test_orders_are_judged_by_intervals():
    random = np.random.default_rng(0)
    noise = 0.01 * random.normal(size=30)
    found = {"TDRC": 1 + noise, "TD": 0.96 + noise, "TDC": 1.18 + noise, "GTD2": 1.46 + noise}
    assert areas.misplaced("tabular", found) == ([], [])
    swapped = found | {"TD": 1.06 + noise}
    assert areas.misplaced("tabular", swapped) == (["TD and TDRC"], [])
    wide = found | {"TD": 1.01 + 0.5 * random.normal(size=30)}
    wide["TD"] += 1.01 - wide["TD"].mean()
    assert areas.misplaced("tabular", wide) == ([], ["TD and TDRC"])
    star = {"TDRC": 1 + noise, "TD": 1e9 + noise, "TDC": 1.7 + noise, "GTD2": 2 + noise}
    assert areas.misplaced("baird", star) == ([], [])
    assert areas.misplaced("baird", star | {"TD": 3 + noise})[0] == ["TD does not diverge"]
    star["TD"][0] = math.inf
    assert areas.misplaced("baird", star) == ([], [])


def test_ratios_are_of_means_with_intervals_around_them():
    random = np.random.default_rng(1)
    base = random.uniform(1, 2, size=200)
    low, ratio, high = areas.relative(3 * base, base)
    assert abs(ratio - 3) < 1e-12
    assert high - low < 1e-12  # paired: what seeds share cancels
    low, ratio, high = areas.relative(random.uniform(1, 2, size=200), base)
    assert low < ratio < high
    assert 0.02 < high - low < 0.3


def test_curves_are_those_of_solve():
    """The loop without records makes the steps of `solve`."""
    problem = LinearEvaluation(Known(random_walk(), "markovian", 202))
    strategy = methods.tdrc(1 / 16)
    data = TrainingData(problem, [0, 1, 2], torch.float64, "cpu")
    curve = areas.learning_curve(problem, strategy, data, 202)
    state, expected = None, []
    for steps in (1, 100, 100):
        solution = bilevel.solve(
            problem,
            strategy,
            steps=steps,
            batch_size=1,
            seeds=3,
            every=1000,
            sampling="sequential",
            dtype=torch.float64,
            state=state,
        )
        state = solution.state
        expected.append(solution.history["test_rmspbe"][-1])
    assert curve.shape == (3, 3)
    assert torch.allclose(curve, torch.stack(expected), rtol=1e-9)


def test_the_command_writes_a_table(tmp_path, monkeypatch, capsys):
    short = dataclasses.replace(areas.SETTINGS["tabular"], steps=300)
    monkeypatch.setitem(areas.SETTINGS, "tabular", short)
    code = areas.main(["tabular", "--seeds", "3", "--output", str(tmp_path / "new")])
    printed = capsys.readouterr().out
    assert code in (0, 1)  # so few steps need not reproduce anything
    assert printed.count("tabular") == 3
    assert "order of the methods" in printed
    lines = (tmp_path / "new" / "areas.csv").read_text().splitlines()
    assert lines[0].startswith("problem,method,reference,ratio,low,high,area")
    assert len(lines) == 4
    with pytest.raises(ResultsExistError):
        areas.main(["tabular", "--output", str(tmp_path / "new")])


def test_mistakes_are_named(tmp_path):
    with pytest.raises(UnknownNameError, match="Did you mean 'boyan'"):
        areas.main(["boyans", "--output", str(tmp_path / "a")])
    with pytest.raises(ArgumentError, match="--seeds must be at least 2"):
        areas.main(["boyan", "--seeds", "1", "--output", str(tmp_path / "a")])


@pytest.mark.slow  # bilevel td-areas: two minutes
def test_the_reference_is_reproduced(tmp_path):
    assert areas.main(["--output", str(tmp_path / "areas")]) == 0
