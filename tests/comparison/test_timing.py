"""Seconds of a step: what their measurement holds, and what becomes of it where memory is short."""

import gc
import weakref

import numpy as np
import pytest
import torch
from small_problems import Smooth

import bilevel
from bilevel.comparison.side_by_side import Options, SideBySide
from bilevel.comparison.timing import seconds_per_step
from bilevel.data.training_data import TrainingData
from bilevel.errors import NotEnoughMemoryError

PAIR = {"slow": bilevel.uniform(0.01), "two": bilevel.TwoTimescale(0.01, 0.1)}
OPTIONS = {"steps": 3, "seeds": 2}


class Memory(bilevel.AbstractExperience):
    """What may be large, and tells how many there are."""

    def __init__(self, seeds, like, alive, counts):
        self.at = torch.ones(len(seeds), 4, 1).to(like)
        alive.add(self)
        gc.collect()
        counts.append(len(alive))

    def rows(self, k, body, head):
        return self.evaluated(body, head)

    def evaluated(self, body, head):
        return {"train": bilevel.Batch(self.at, self.at[:, :, 0])}

    def snapshot(self):
        return {"at": self.at.clone()}

    def go_on_from(self, snapshot):
        self.at = snapshot["at"].clone()


class Online(Smooth):
    def __init__(self):
        self.alive, self.counts = weakref.WeakSet(), []

    def data(self, seed=None):
        return {}

    def init_body(self, generator):
        return torch.rand(1, 2, generator=generator)

    def init_head(self, generator):
        return torch.zeros(2)

    def features(self, body, inputs):
        return inputs @ body

    def experience(self, seeds, body, head):
        return Memory(seeds, head, self.alive, self.counts)


def test_experiences_are_timed_one_after_the_other():
    """Beside those that were trained: together they might not fit."""
    strategies = PAIR | {"steps": bilevel.TwoTimescale(0.01, 0.1, head_steps=2)}
    problem, trainings = Online(), 2  # of equal strategies together
    found = bilevel.compare(problem, strategies, **OPTIONS)
    assert max(problem.counts) == trainings + 1
    assert all(seconds > 0 for seconds in found.seconds_per_step.values())


@pytest.mark.parametrize("said", ["DefaultCPUAllocator: can't allocate memory", "out of memory"])
def test_trainings_are_kept_where_memory_is_too_short_to_time_them(said, monkeypatch):
    def fails(*given):
        raise RuntimeError(said)

    monkeypatch.setattr("bilevel.training.cohort.Cohort.seconds_per_step", fails)
    found = bilevel.compare(Smooth(), PAIR, **OPTIONS)
    assert all(np.isnan(seconds) for seconds in found.seconds_per_step.values())
    assert list(found.history) == list(PAIR)
    data = TrainingData(Smooth(), [0, 1], torch.float32, "cpu")
    side_by_side = SideBySide(PAIR, data, Options(None, "iid", False, None, None))
    with pytest.raises(NotEnoughMemoryError):
        seconds_per_step(list(PAIR), side_by_side, data)
