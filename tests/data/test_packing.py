"""Rows of many small leaves, looked up at once, and rows in their order."""

import pytest
import torch
from small_problems import General, doubles

from bilevel import trees
from bilevel.data import sampler
from bilevel.data.draws import BLOCK, sequential_rows
from bilevel.data.training_data import TrainingData

N, BATCH = 7, 3


class Leaves(General):
    """Four small leaves a row, shared or drawn anew; `wide` makes a row too long to be packed."""

    def __init__(self, redraws=False, wide=False, **attributes):
        super().__init__(**attributes)
        self.redraws_data, self.wide = redraws, wide

    def data(self, seed=None):
        draw = 10 * (seed or 0)
        return {
            "train": {
                "scalar": doubles(draw, N),
                "nested": (doubles(draw + 1, N, 2, 2), doubles(draw + 2, N, 1)),
                "long": doubles(draw + 3, N, 300 if self.wide else 3),
            }
        }


def batches(problem, seeds, sampling_mode="iid"):
    data = TrainingData(problem, seeds, torch.float64, "cpu")
    return data, sampler.Sampler(data, BATCH, ("train",), sampling_mode)


@pytest.mark.parametrize("redraws", [False, True])
@pytest.mark.parametrize("wide", [False, True])
def test_rows_are_those_of_the_data(redraws, wide):
    problem = Leaves(redraws, wide)
    data, source = batches(problem, [4, 0, 4])
    assert data._packed("train") is None if wide else data._packed("train") is not None
    for k in (0, 5):
        found = source.rows(k).groups["train"]
        index = source.draw(k).indices["train"]
        for run, seed in enumerate((4, 0, 4)):
            group = problem.data(seed if redraws else None)["train"]
            expected = trees.tree_map(lambda leaf, run=run: leaf[index[run]], group)  # noqa: B023
            assert trees.equal(trees.take(found, run), expected)


def test_parts_of_the_runs_see_their_own_rows():
    data, source = batches(Leaves(redraws=True), [1, 2, 3])
    whole = source.rows(2).groups["train"]
    part = data.part(slice(1, 3))
    some = sampler.Sampler(part, BATCH, ("train",)).rows(2).groups["train"]
    assert trees.equal(trees.part(whole, slice(1, 3)), some)
    assert trees.equal(whole, source.rows(2).groups["train"])


def test_compiled_code_looks_up_whole_rows_too(monkeypatch):
    data, source = batches(Leaves(), [1, 2])
    index = source.draw(3).indices
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    leaves = trees.leaves(data.gather(index))
    assert len({leaf.untyped_storage().data_ptr() for leaf in leaves}) == len(leaves)  # not made
    monkeypatch.undo()
    source.rows(0)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    packed = trees.leaves(data.gather(index))
    assert len({leaf.untyped_storage().data_ptr() for leaf in packed}) == 1
    assert trees.equal(packed, leaves)


@pytest.mark.parametrize("block", [0, 1, 3])
def test_rows_in_their_order(block):
    found = sequential_rows(N, BATCH, block).flatten().tolist()
    start = block * BLOCK * BATCH
    assert found == [i % N for i in range(start, start + BLOCK * BATCH)]


def test_sequential_steps_walk_through_the_data_of_a_seed():
    source = batches(Leaves(redraws=True), [5, 2], "sequential")[1]
    for k in range(4):
        rows = source.rows(k).groups["train"]["scalar"]
        for run, seed in enumerate((5, 2)):
            own = Leaves(redraws=True).data(seed)["train"]["scalar"]
            assert torch.equal(rows[run], own[[(BATCH * k + i) % N for i in range(BATCH)]])
