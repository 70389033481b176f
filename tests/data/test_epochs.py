"""Epochs without replacement: every row once per epoch; the rows of step k depend on (seed, k)."""

import itertools

import pytest
import torch
from small_problems import VALIDATION, D, General, N, Smooth, sampler, supervised

from bilevel import BestResponse, FastSGD
from bilevel.core.generators import generator
from bilevel.data import sampler as sampler_module
from bilevel.data.draws import BLOCK
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import ArgumentError

BATCH = 5
STEPS = [1000, 0, 255, 256, 3, 257, 511, 512, 1]


def source(seeds=(0,), rows=N, size=BATCH, sampling_mode="epochs"):
    problem = General()
    problem.groups = {"train": supervised(0, rows), "validation": supervised(1, VALIDATION)}
    data = TrainingData(problem, list(seeds), torch.float64, "cpu")
    return sampler_module.Sampler(data, size, ("train", "validation"), sampling_mode)


def drawn(sampler, steps, group="train", size=BATCH, stream="rows"):
    """(steps, R, size)."""
    return torch.stack([sampler.indices(group, size, k, stream) for k in steps])


@pytest.mark.parametrize(
    ("rows", "size"),  # divides or not; more rows than there are
    [*itertools.product([20, 23], [1, 5, 23, 49, 60]), (1, 1), (1, 5)],
)
def test_an_epoch_visits_every_row_once(rows, size):
    steps = 600  # across the blocks of 256 steps
    found = drawn(source([0, 4], rows, size), range(steps), size=size)
    for run in range(2):
        visits = found[:, run].flatten()
        whole = len(visits) // rows * rows
        epochs = visits[:whole].reshape(-1, rows)
        assert torch.equal(epochs.sort(1).values, torch.arange(rows).expand_as(epochs))
        for first in (0, 7):  # any n steps that begin with an epoch: every row `size` times
            counts = torch.bincount(found[first * rows : (first + 1) * rows, run].flatten())
            assert counts.tolist() == [size] * rows


def test_epochs_are_different_permutations():
    visits = drawn(source(), range(N * 40))[:, 0].flatten().reshape(-1, N)
    assert len(visits) == 40 * BATCH
    assert len({tuple(epoch.tolist()) for epoch in visits}) == len(visits)
    # every row comes first about equally often: chi-squared with 22 degrees of freedom
    counts = torch.bincount(visits[:, 0], minlength=N).double()
    expected = len(visits) / N
    assert float(((counts - expected) ** 2 / expected).sum()) < 61  # the 0.99999 quantile


def test_the_permutation_of_an_epoch_is_the_draw_of_its_stream():
    visits = drawn(source([6]), range(300))[:, 0].flatten()
    for epoch in (0, 1, 57, 64):
        stream = generator(6, "epochs", "rows", "train", epoch)
        expected = torch.randperm(N, generator=stream)
        assert torch.equal(visits[epoch * N : (epoch + 1) * N], expected)


def test_rows_do_not_depend_on_the_runs_beside_them():
    together = drawn(source([8, 3, 0, 11]), STEPS)
    for run, seed in enumerate([8, 3, 0, 11]):
        assert torch.equal(together[:, run : run + 1], drawn(source([seed]), STEPS))


@pytest.mark.parametrize("size", [BATCH, N, 3 * N + 1])
def test_rows_do_not_depend_on_the_steps_computed_before(size):
    in_order = drawn(source([3, 4], size=size), range(1001), size=size)
    jumping = source([3, 4], size=size)
    for k in STEPS:
        fresh = source([3, 4], size=size)
        assert torch.equal(fresh.indices("train", size, k), in_order[k])
        assert torch.equal(jumping.indices("train", size, k), in_order[k])


def test_only_the_epochs_of_the_block_are_drawn(monkeypatch):
    asked, permutation = [], torch.randperm
    late = source(rows=1000)

    def counted(*args, **kwargs):
        asked.append(args)
        return permutation(*args, **kwargs)

    monkeypatch.setattr(torch, "randperm", counted)
    late.indices("train", BATCH, 10**9)
    assert 1 <= len(asked) <= BLOCK * BATCH // 1000 + 2


def test_seeds_groups_and_streams_differ():
    both = source([3, 4], rows=VALIDATION)  # groups of one size
    rows = drawn(both, range(200))
    assert not torch.equal(rows[:, 0], rows[:, 1])
    assert not torch.equal(rows, drawn(both, range(200), "validation"))
    assert not torch.equal(rows, drawn(both, range(200), stream="head"))


def test_the_inner_steps_of_a_head_solver_go_through_epochs():
    problem = Smooth()
    data = TrainingData(problem, [2, 5], torch.float64, "cpu")
    epochs = sampler_module.Sampler(data, None, ("train",), "epochs")
    seen, draw = [], epochs.indices

    def watched(group, size, k, stream="rows"):
        found = draw(group, size, k, stream)
        seen.append(found)
        assert (group, stream) == ("train", "head")
        return found

    epochs.indices = watched
    strategy = BestResponse(0.1, FastSGD(0.1, N, batch_size=BATCH)).fitted(problem)
    oracles = Oracles(problem)
    body, head = data.initial(problem.init_body, "body"), data.initial(problem.init_head, "head")
    state = strategy.init(oracles, body, head, epochs.rows(0))
    strategy.step(oracles, state, epochs.rows(0), 0)
    assert len(seen) == 2 * N
    for inner in (seen[:N], seen[N:]):  # N steps of 5 rows: every row 5 times
        for run in range(2):
            visits = torch.stack(inner)[:, run].flatten()
            assert torch.bincount(visits).tolist() == [BATCH] * N


def test_the_gathered_rows_are_the_drawn_rows():
    epochs = source([3, 0])
    batch, index = epochs.rows(300), epochs.indices("train", BATCH, 300)
    assert batch.groups["train"].inputs.shape == (2, BATCH, D)
    for run in range(2):
        expected = epochs.data.groups["train"].targets[index[run]]
        assert torch.equal(batch.groups["train"].targets[run], expected)


def test_independent_draws_are_the_default_and_stay_as_they_were():
    default = sampler(General(), [3, 0, 8], BATCH)
    assert default.sampling == "iid"
    train = [[4, 6, 19, 12, 8], [14, 22, 21, 13, 18], [20, 6, 8, 6, 15]]
    validation = [[6, 3, 2, 4, 0], [0, 1, 1, 4, 3], [1, 4, 6, 1, 0]]
    for independent in (default, source([3, 0, 8], sampling_mode="iid")):
        assert independent.indices("train", BATCH, 300).tolist() == train
        assert independent.indices("validation", BATCH, 300, "head").tolist() == validation


@pytest.mark.parametrize("mode", ["epoch", "IID", None, 1, ["iid"], True], ids=repr)
def test_other_ways_to_draw_are_refused(mode):
    with pytest.raises(ArgumentError, match=r'`sampling` must be "iid", .* or "sequential"'):
        source(sampling_mode=mode)
