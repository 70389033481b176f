"""Heads of tasks never make an array of (T M)^2 numbers."""

import pytest
import torch
from linear_heads import normal

import bilevel
from bilevel.core.live_bytes import LiveBytes
from bilevel.data.training_data import TrainingData
from bilevel.training.training import Training

T, N, M, D = 50, 30, 20, 3
WHOLE = 8 * (T * M) ** 2
"""Bytes of one matrix over all heads, 16 times as many as those of a block for each."""


class Wide(bilevel.LinearHeadProblem):
    """Query losses of T tasks."""

    tasks, ridge, fit_bias = True, 0.1, False

    def data(self, seed=None):
        groups = {}
        for number, name in enumerate(("train", "validation")):
            inputs = torch.as_tensor(normal([number, 1], T, N, D))
            targets = torch.as_tensor(normal([number, 2], T, N))
            groups[name] = bilevel.Batch(inputs, (targets > 0).long() if self.labels else targets)
        return groups

    def __init__(self, labels):
        self.labels = labels
        if labels:
            self.criterion = bilevel.LogisticLoss()

    def init_body(self, generator):
        return torch.randn(D, M, generator=generator, dtype=torch.float64)

    def init_head(self, generator):
        return torch.zeros(M, dtype=torch.float64)

    def features(self, body, inputs):
        return torch.tanh(inputs @ body)

    def body_objective(self, body, head, batch):
        query = batch["validation"]
        return self.criterion.rows(self.predict(body, head, query.inputs), query.targets).mean()


@pytest.mark.parametrize("labels", [False, True], ids=["ridge", "logistic"])
@pytest.mark.parametrize("batch_size", [None, T])
def test_steps_and_records_hold_blocks_only(labels, batch_size):
    problem = Wide(labels)
    data = TrainingData(problem, [0], torch.float64, torch.device("cpu"))
    training = Training(bilevel.BestResponse(0.1).fitted(problem), data, batch_size)
    cohort = training.cohorts[0]
    for part in (cohort.step, cohort.record):
        with LiveBytes() as live:
            part()
        assert live.peak < WHOLE


@pytest.mark.parametrize("labels", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_single_points_hold_blocks_only(labels):
    problem = Wide(labels)
    body = problem.init_body(torch.Generator().manual_seed(0))
    for find in (bilevel.best_response, bilevel.hypergradient):
        with LiveBytes() as live:
            find(problem, body)
        assert live.peak < WHOLE, find
