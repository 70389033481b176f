"""The rows of step k depend on (seed, group, k) only; bad data are named before training."""

import numpy as np
import pytest
import torch
from small_problems import VALIDATION, D, General, N, Noisy, Scalar, Smooth, grouped, sampler

from bilevel import Batch, trees
from bilevel.core.generators import generator
from bilevel.data import sampler as sampler_module
from bilevel.data.groups import check_groups
from bilevel.data.training_data import TrainingData
from bilevel.errors import ArgumentError, BilevelError, DataError, ProblemError, ShapeError

BATCH = 5
STEPS = [0, 1, 7, 255, 256, 257, 511, 512, 1000]  # across the blocks of 256 steps


def indices(source, steps=STEPS, group="train", size=BATCH):
    return torch.stack([source.indices(group, size, k) for k in steps])


def test_rows_do_not_depend_on_the_runs_beside_them():
    together = indices(sampler(General(), [8, 3, 0, 11], BATCH))
    for run, seed in enumerate([8, 3, 0, 11]):
        alone = indices(sampler(General(), [seed], BATCH))
        assert torch.equal(together[:, run : run + 1], alone)
    assert torch.equal(indices(sampler(General(), range(5), BATCH))[:, 3], together[:, 1])


def test_rows_do_not_depend_on_the_steps_computed_before():
    one_by_one = sampler(General(), [3, 4], BATCH)
    expected = {k: one_by_one.indices("train", BATCH, k).clone() for k in range(520)}
    for k in (519, 256, 255, 0, 300, 1):  # a fresh sampler jumps, and one jumps back and forth
        fresh = sampler(General(), [3, 4], BATCH)
        assert torch.equal(fresh.indices("train", BATCH, k), expected[k])
        assert torch.equal(one_by_one.indices("train", BATCH, k), expected[k])


def test_rows_do_not_depend_on_the_other_groups():
    both = sampler(General(), [3], BATCH)
    rows, one = [both.rows(k) for k in STEPS], sampler(General(), [3], BATCH, ["train"])
    for k, batch in zip(STEPS, rows, strict=True):
        assert torch.equal(batch.groups["train"].inputs, one.rows(k).groups["train"].inputs)


def test_seeds_groups_steps_and_streams_differ():
    source = sampler(General(), [3, 4], BATCH)
    drawn = indices(source, range(300))
    assert not torch.equal(drawn[:, 0], drawn[:, 1])
    assert len({tuple(row.tolist()) for row in drawn[:, 0]}) > 290
    assert not torch.equal(drawn[:44], drawn[256:])  # a new block is a new draw
    assert not torch.equal(drawn[0], source.indices("train", BATCH, 0, stream="head"))


def test_groups_of_one_size_see_different_rows():
    problem = General()
    problem.groups = {"train": grouped(0)["train"], "validation": grouped(1)["train"]}
    source = sampler(problem, [3, 4], BATCH)
    assert not torch.equal(indices(source), indices(source, group="validation"))


def test_rows_are_uniform_with_replacement():
    drawn = indices(sampler(General(), range(20), BATCH), range(256)).flatten()
    assert (drawn.min(), drawn.max()) == (0, N - 1)
    counts = torch.bincount(drawn, minlength=N).double()
    expected = len(drawn) / N
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    assert chi_squared < 60  # 22 degrees of freedom: the 0.99999 quantile is 61
    rows = indices(sampler(General(), [0], BATCH), range(256))[:, 0]
    assert any(len(set(row.tolist())) < BATCH for row in rows)


def test_a_batch_may_hold_more_rows_than_there_are():
    rows = sampler(General(), [0], 3 * N).rows(0)
    assert rows.groups["train"].inputs.shape == (1, 3 * N, D)


def test_the_gathered_rows_are_the_drawn_rows():
    source = sampler(General(), [3, 0], BATCH)
    batch, data = source.rows(300), grouped(0)
    assert batch.axes == {"train": 0, "validation": 0}
    for group in ("train", "validation"):
        drawn = source.indices(group, BATCH, 300)
        for run in range(2):
            assert torch.equal(batch.groups[group].inputs[run], data[group].inputs[drawn[run]])
            assert torch.equal(batch.groups[group].targets[run], data[group].targets[drawn[run]])
    assert "test" not in batch.groups
    assert "test" not in batch.full.groups


def redrawing(cls=General):
    problem = cls()
    problem.redraws_data = True
    return problem


def test_redrawn_data_are_those_of_the_seed_in_any_order():
    source = sampler(redrawing(), [5, 2, 9], BATCH)
    batch = source.rows(0)
    for run, seed in enumerate([5, 2, 9]):
        data = grouped(seed + 1)
        drawn = source.indices("train", BATCH, 0)[run]
        assert torch.equal(batch.groups["train"].inputs[run], data["train"].inputs[drawn])
        assert torch.equal(batch.full.groups["train"].targets[run], data["train"].targets)
        everything = source.data.everything()
        assert torch.equal(everything.groups["test"].inputs[run], data["test"].inputs)
        alone = sampler(redrawing(), [seed], BATCH).rows(0)
        assert torch.equal(alone.groups["train"].targets[0], batch.groups["train"].targets[run])


def test_data_are_drawn_once_for_each_distinct_seed():
    asked = []

    class Counted(General):
        redraws_data = True

        def data(self, seed=None):
            asked.append(seed)
            return super().data(seed)

    TrainingData(Counted(), [4, 1, 4, 1, 1], torch.float64, "cpu")
    assert asked == [1, 4, 1]  # once more, to see that a seed gives one answer
    asked.clear()
    Counted.redraws_data = False
    TrainingData(Counted(), [4, 1], torch.float64, "cpu")
    assert asked == [None]


@pytest.mark.parametrize("problem", [General(), redrawing(), Noisy()], ids=["data", "new", "noise"])
def test_repeated_data_give_each_copy_the_same(problem):
    seeds = [7, 2, 3]
    once, data = sampler(problem, seeds, BATCH), None
    data = once.data.repeated(2)
    assert data.seeds == seeds * 2
    twice = sampler_module.Sampler(data, BATCH, ("train", "validation"))
    for k in (0, 256):
        for first, second in zip(
            trees.leaves(once.rows(k).groups), trees.leaves(twice.rows(k).groups), strict=True
        ):
            assert torch.equal(torch.cat([first, first]), second)
    body = data.initial(problem.init_body, "body")
    assert torch.equal(trees.flatten(body)[:3], trees.flatten(body)[3:])
    assert torch.equal(trees.flatten(body)[:3], trees.flatten(once.data.initial(
        problem.init_body, "body")))  # fmt: skip


def test_initial_points_depend_on_the_seed_and_the_level_only():
    data = sampler(Smooth(), [6, 1, 3]).data
    together = data.initial(Smooth().init_head, "head")
    for run, seed in enumerate([6, 1, 3]):
        alone = sampler(Smooth(), [seed]).data.initial(Smooth().init_head, "head")
        assert torch.equal(alone[0], together[run])
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(together, data.initial(Smooth().init_head, "body"))


def test_batch_size_per_group():
    problem = General()
    every = sampler(problem, [0, 1], None).rows(3)
    assert every.axes == {"train": None, "validation": None}
    assert every.groups["train"].inputs.shape == (N, D)
    assert every.full is not None
    mixed = sampler(problem, [0, 1], {"train": 4, "validation": None}).rows(3)
    assert mixed.axes == {"train": 0, "validation": None}
    assert mixed.groups["train"].inputs.shape == (2, 4, D)
    assert mixed.groups["validation"].inputs.shape == (VALIDATION, D)
    missing = sampler(problem, [0, 1], {"validation": 2}).rows(3)
    assert missing.groups["train"].inputs.shape == (N, D)
    assert missing.groups["validation"].targets.shape == (2, 2)
    shared = sampler(problem, [0, 1], 4).rows(3).groups["train"].inputs
    assert torch.equal(shared, mixed.groups["train"].inputs)


@pytest.mark.parametrize("size", [0, -3, 2.0, True, "all", {"train": 0}, {"train": 1.5}], ids=repr)
def test_bad_batch_sizes_are_refused(size):
    with pytest.raises(ArgumentError, match="`batch_size` of train must be a positive integer"):
        sampler(General(), [0], size)


@pytest.mark.parametrize("name", ["test", "trian"])
def test_batch_sizes_of_groups_that_no_batch_holds_are_refused(name):
    with pytest.raises(ArgumentError, match=rf"do not hold: \['{name}'\]"):
        sampler(General(), [0], {"train": 4, name: 4})


def noise_of(source, k):
    return trees.flatten(source.rows(k).groups["noise"])


def test_noise_depends_on_the_seed_and_the_step_only():
    together = sampler(Noisy(), [8, 3, 0])
    fresh = {k: noise_of(sampler(Noisy(), [8, 3, 0]), k) for k in STEPS}
    for k in reversed(STEPS):
        assert torch.equal(noise_of(together, k), fresh[k])
    for run, seed in enumerate([8, 3, 0]):
        alone = sampler(Noisy(), [seed])
        assert all(torch.equal(noise_of(alone, k)[0], fresh[k][run]) for k in STEPS)
    assert len({float(x[0, 0]) for x in fresh.values()}) == len(STEPS)


@pytest.mark.parametrize("seeds", [[8, 3], [8, 3, 8]], ids=["each once", "repeated"])
def test_several_steps_are_drawn_as_one_by_one(seeds):
    for source, size in ((sampler(Noisy(), seeds), None), (sampler(General(), seeds, BATCH), 5)):
        for k, count in ((0, 3), (253, 3), (254, 7), (250, 300)):  # within blocks and across
            one_by_one = trees.stack([tuple(source.draw(j)) for j in range(k, k + count)])
            found = source.draws(k, count)
            assert bool(found.indices) == (size is not None)
            for a, b in zip(trees.leaves(tuple(found)), trees.leaves(one_by_one), strict=True):
                assert torch.equal(a, b)
                assert a.is_contiguous()  # compiled code is made for one layout


def test_noise_is_zero_on_all_rows():
    source = sampler(Noisy(), [8, 3])
    rows = source.rows(2)
    assert rows.axes["noise"] == 0
    assert bool((noise_of(source, 2) != 0).all())
    for full in (rows.full, source.full):
        assert {name: float(x) for name, x in full.groups["noise"].items()} == {
            "body": 0.0,
            "head": 0.0,
        }
        assert full.axes["noise"] is None
    assert "noise" not in sampler(Scalar()).rows(0).groups


@pytest.mark.parametrize("shape", [(), (2,), (1, 256)])
def test_noise_needs_the_leading_steps(shape):
    problem = Noisy()
    problem.noise = lambda generator, steps: {"body": torch.zeros(shape), "head": torch.zeros(256)}
    with pytest.raises(ShapeError, match=r"`noise` of Noisy must return a tree with leading 256"):
        sampler(problem)


def changed(group, **leaves):
    groups = grouped(0)
    groups[group] = groups[group]._replace(**leaves)
    return groups


def spoiled(group, leaf, value):
    groups = grouped(0)
    getattr(groups[group], leaf)[(1,) * getattr(groups[group], leaf).ndim] = value
    return groups


BAD_DATA = {
    "no dict": ([1], DataError, "must return a dict of row groups, got list"),
    "unknown group": ({**grouped(0), "valid": 1}, DataError, r"Unknown row groups \['valid'\]"),
    "no train": ({"test": torch.ones(3, 1)}, DataError, 'must hold the group "train"'),
    "empty tree": ({"train": {}}, DataError, r'data\["train"\] is empty'),
    "empty rows": ({"train": Batch(torch.ones(0, D), torch.ones(0))}, DataError, "is empty"),
    "scalar leaf": ({"train": torch.tensor(1.0)}, DataError, "leading row axis"),
    "list leaf": ({"train": {"x": [1.0]}}, DataError, "must be a tensor with a leading row axis"),
    "nan inputs": (spoiled("train", "inputs", np.nan), DataError, r'"train"\].*1 values that are'),
    "inf targets": (spoiled("test", "targets", np.inf), DataError, r'"test"\].*NaN or infinite'),
    "other rows": (changed("train", targets=torch.ones(N - 1)), ShapeError, "differ in their rows"),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data_are_named(name):
    groups, error, message = BAD_DATA[name]
    problem = General()
    problem.data = lambda seed=None: groups
    with pytest.raises(error, match=message):
        sampler(problem)
    assert issubclass(error, BilevelError | ValueError)


def test_numpy_arrays_become_tensors():
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    found = check_groups({"train": {"x": x, "labels": np.array([0, 1, 2])}})
    assert torch.equal(found["train"]["x"], torch.from_numpy(x))
    assert found["train"]["labels"].dtype == torch.int64


def test_shapes_must_not_depend_on_the_seed():
    problem = redrawing()
    problem.data = lambda seed=None: {"train": torch.ones(3 + seed, 2)}
    with pytest.raises(ShapeError, match="same groups and shapes for every seed"):
        sampler(problem, [0, 1])
    problem = General()
    problem.init_body = lambda generator: torch.ones(1 + generator.initial_seed() % 7)
    with pytest.raises(ShapeError, match="same shapes for every seed"):
        sampler(problem, range(4)).data.initial(problem.init_body, "body")


@pytest.mark.parametrize(
    ("point", "message"),
    [
        (1.0, "must be a tensor, got float"),
        ({"w": [2.0]}, r"\['w'\]\[0\]` must be a tensor"),
        ({}, "holds no tensor"),
        (torch.tensor(1), "must be floating point"),
        (torch.tensor(torch.inf), "not finite"),
    ],
)
def test_bad_initial_points_are_named(point, message):
    with pytest.raises(ProblemError, match=message):
        sampler(General(), [0, 1]).data.initial(lambda generator: point, "body")


def test_data_and_initial_points_carry_no_graph():
    problem = General()
    problem.groups = {"train": Batch(torch.ones(3, D, requires_grad=True) * 2, torch.rand(3))}
    data = sampler(problem).data
    start = data.initial(lambda generator: torch.nn.Parameter(torch.ones(2)), "head")
    assert not start.requires_grad
    assert not any(x.requires_grad for x in trees.leaves(data.groups))


def test_seeds_and_streams_give_independent_generators():
    names = [
        (0, "body"),
        (0, "head"),
        (1, "body"),
        (0, "rows", "train", 0),
        (0, "rows", "train", 1),
    ]
    drawn = {float(torch.rand((), generator=generator(*name))) for name in names}
    assert len(drawn) == len(names)
    again = torch.rand((), generator=generator(0, "body"))
    assert float(again) in drawn


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    source = sampler(Noisy(), [0, 1])
    source.rows(3)
    sampler(General(), [0], BATCH).rows(300)
    assert torch.equal(torch.get_rng_state(), before)
