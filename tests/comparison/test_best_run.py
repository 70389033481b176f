"""The run that validation rows like best: chosen by them alone, and trained once more as it was."""

import dataclasses

import numpy as np
import pytest
import torch

import bilevel
from bilevel.comparison.best_run import best_run, trained_again
from problems.table import from_arrays

RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.normal(size=(60, 3))
PROBLEM = from_arrays(INPUTS, np.sin(2 * INPUTS[:, 0]) + INPUTS[:, 1], width=4)
STRATEGIES = {"two": bilevel.TwoTimescale(1e-3, 1e-2), "exact": bilevel.BestResponse(1e-3)}


@pytest.fixture(scope="module", params=["steps", "gradients"])
def compared(request):
    return bilevel.compare(
        PROBLEM, STRATEGIES, seeds=3, steps=60, every=20, budget=request.param, tune=(1, 10),
        dtype=torch.float64, batch_size=9,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["two", "exact", "two, tuned", "exact, tuned"])
def test_a_run_is_trained_again_as_it_was(compared, name):
    values = compared.history[name]["validation_mse"]
    run = best_run(compared)
    costs = compared.gradients_per_step
    record, place = 2, 1
    step = compared.steps[record]
    if compared.settings["budget"] == "gradients":
        step = int(step / costs[name] + 1e-9)
    seed = compared.settings["seeds"][place]
    run = run._replace(strategy=name, seed=seed, step=int(step))
    body, head = trained_again(compared, run, PROBLEM, STRATEGIES)
    inputs, targets = PROBLEM.data(seed)["validation"]
    error = ((PROBLEM.predict(body, head, inputs) - targets) ** 2).mean()
    np.testing.assert_allclose(error, values[record, place], rtol=1e-9)


def test_the_steps_are_those_of_the_record(compared):
    run = best_run(compared)
    values = compared.history[run.strategy]["validation_mse"][1:]
    record, place = np.unravel_index(values.argmin(), values.shape)
    assert (run.value, run.seed) == (values.min(), compared.settings["seeds"][place])
    marks = compared.steps[1 + record]
    if compared.settings["budget"] == "gradients":
        marks = int(marks / compared.gradients_per_step[run.strategy] + 1e-9)
    assert run.step == marks


def test_strategies_of_which_a_run_failed_come_last(compared):
    best = best_run(compared).strategy
    status = {**compared.status, best: ["DIVERGED", *compared.status[best][1:]]}
    assert best_run(dataclasses.replace(compared, status=status)).strategy != best
    values = {name: dict(table) for name, table in compared.history.items()}
    for table in values.values():
        table["validation_mse"] = np.full_like(table["validation_mse"], np.nan)
    assert best_run(dataclasses.replace(compared, history=values)) is None
