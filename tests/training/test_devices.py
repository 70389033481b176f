"""Trainings, heads and gradients on another device: the numbers of the CPU, in float64.

`pytest -m gpu` where there is one; without, the table is run on the CPU alone.
"""

import pytest
import torch

import bilevel
from bilevel import trees
from bilevel.data.sampler import moved
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.assembly import Assembly
from bilevel.training.cohort import Cohort
from problems.analytic import analytic
from problems.classification import digits
from problems.mspbe.catalogue import neural_policy_evaluation
from problems.regression import friedman1

CUDA = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    ],
)
DEVICES = pytest.mark.parametrize("device", ["cpu", CUDA])


def network():
    return friedman1(width=3, train=20, validation=5, test=5, ridge=1e-2)


def neural():
    return neural_policy_evaluation(length=50)


TRAININGS = {
    "simultaneous": (network, bilevel.TwoTimescale(1e-3, 1e-2, order="simultaneous"), 7),
    "alternating": (network, bilevel.TwoTimescale(1e-3, 1e-2, bilevel.Adam()), 7),
    "exact": (network, bilevel.BestResponse(1e-3), 7),
    "inner steps": (network, bilevel.BestResponse(1e-3, bilevel.FastSGD(0.1, 3)), 7),
    "neural TDC": (neural, bilevel.SingleLoop(0.01, 0.05, 0.1), 3),
    "newton": (lambda: digits(width=4), bilevel.BestResponse(1e-3), 20),
    "implicit": (lambda: analytic("A5"), bilevel.BestResponse(1e-3), None),
}


def same(here, there):
    for one, other in zip(trees.leaves(here), trees.leaves(there), strict=True):
        torch.testing.assert_close(one.cpu(), other.cpu(), rtol=1e-8, atol=1e-10)


@DEVICES
@pytest.mark.parametrize("name", TRAININGS)
def test_trainings(name, device):
    make, strategy, batch = TRAININGS[name]
    options = {"steps": 4, "every": 2, "seeds": 2, "batch_size": batch, "dtype": torch.float64}
    there = bilevel.solve(make(), strategy, device=device, **options)
    assert {leaf.device.type for leaf in trees.leaves((there.body, there.head))} == {device}
    if device != "cpu":
        here = bilevel.solve(make(), strategy, **options)
        same((here.body, here.head), (there.body, there.head))
        for name, values in here.history.items():
            torch.testing.assert_close(values, there.history[name], rtol=1e-6, atol=1e-8)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("name", ["simultaneous", "neural TDC", "exact"])
def test_compiled_trainings(name):
    make, strategy, batch = TRAININGS[name]
    options = {"steps": 20, "seeds": 2, "batch_size": batch, "dtype": torch.float64}
    here = bilevel.solve(make(), strategy, **options)
    there = bilevel.solve(make(), strategy, device="cuda", compile=True, **options)
    same((here.body, here.head), (there.body, there.head))


@DEVICES
@pytest.mark.parametrize("make", [network, lambda: digits(width=4), lambda: analytic("A5")])
def test_heads_and_gradients(make, device):
    problem = make()
    body = trees.cast(problem.init_body(torch.Generator().manual_seed(0)), torch.float64)
    there = trees.cast(body, torch.float64, device)
    found = bilevel.best_response(problem, there), bilevel.hypergradient(problem, there)
    made = (found[0].head, found[1].body)
    assert {leaf.device.type for leaf in trees.leaves(made)} == {device}
    if device != "cpu":
        same((bilevel.best_response(problem, body).head,
              bilevel.hypergradient(problem, body).body), made)  # fmt: skip


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("name", ["simultaneous", "alternating", "neural TDC"])
def test_no_step_waits_for_the_device(name):
    make, strategy, batch = TRAININGS[name]
    problem = make()
    data = TrainingData(problem, [0, 1], torch.float64, "cuda")
    cohort = Cohort(Assembly.of(data, batch), strategy.fitted(problem))
    cohort.advance(2)
    torch.cuda.set_sync_debug_mode("error")
    try:
        cohort.advance(2)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@DEVICES
def test_blocks_of_draws_are_moved(device):
    block = torch.arange(6).reshape(2, 3)
    found = moved(block, torch.device(device))
    assert found.device.type == device
    assert torch.equal(found.cpu(), block)
