"""Arithmetic on trees of tensors with a leading run axis, against NumPy on the flattened runs."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from small_problems import doubles

import bilevel
from bilevel import trees
from bilevel.errors import ShapeError

R = 3


class Pair(NamedTuple):
    first: object
    second: object


def make(kind, seed=0):
    """Trees of all kinds; leaves (R, ...) of 0, 1 and 2 dimensions of a run."""
    scalar, vector, matrix = (doubles([seed, i], R, *s) for i, s in enumerate([(), (2,), (4, 5)]))
    return {
        "tensor": matrix,
        "scalar": scalar,
        "flat dict": {"b": vector, "a": scalar},
        "nested": {"z": {"y": matrix, "x": [scalar, vector]}, "a": (vector,)},
        "tuple": (matrix, scalar),
        "named tuple": Pair({"w": vector}, matrix),
        "with nothing": Pair({"w": vector, "v": None}, ([None, matrix], None)),
    }[kind]


KINDS = ["tensor", "scalar", "flat dict", "nested", "tuple", "named tuple", "with nothing"]


def rows(tree):
    """Each run as one NumPy vector, in the order of `leaves`."""
    return np.concatenate([x.reshape(R, -1).numpy() for x in trees.leaves(tree)], axis=1)


@pytest.mark.parametrize("kind", KINDS)
def test_dot_and_norm_are_those_of_the_flattened_runs(kind):
    a, b = make(kind, 1), make(kind, 2)
    close = {"rtol": 1e-14, "atol": 1e-14}
    np.testing.assert_allclose(trees.dot(a, b), (rows(a) * rows(b)).sum(1), **close)
    np.testing.assert_allclose(trees.norm(a), np.linalg.norm(rows(a), axis=1), **close)


@pytest.mark.parametrize("kind", KINDS)
def test_flatten_has_an_inverse(kind):
    tree = make(kind)
    flat = trees.flatten(tree)
    assert np.array_equal(flat.numpy(), rows(tree))
    back = trees.unflatten(flat, tree)
    assert type(back) is type(tree)
    assert trees.same_structure(back, tree)
    assert all(map(torch.equal, trees.leaves(back), trees.leaves(tree)))


@pytest.mark.parametrize("kind", KINDS)
def test_stack_take_and_single(kind):
    tree = make(kind)
    again = trees.stack([trees.take(tree, run) for run in range(R)])
    assert all(map(torch.equal, trees.leaves(again), trees.leaves(tree)))
    picked = trees.take(tree, torch.tensor([2, 0, 2]))
    assert np.array_equal(rows(picked), rows(tree)[[2, 0, 2]])
    one = trees.single(trees.take(tree, 1))
    assert np.array_equal(trees.flatten(one).numpy(), rows(tree)[1:2])


@pytest.mark.parametrize("kind", KINDS)
def test_map_keeps_the_structure_and_pairs_the_leaves(kind):
    a, b = make(kind, 1), make(kind, 2)
    total = trees.tree_map(lambda x, y: x - 2 * y, a, b)
    assert trees.same_structure(total, a)
    assert np.array_equal(rows(total), rows(a) - 2 * rows(b))


def test_map_pairs_the_leaves_of_dicts_by_key_not_by_order():
    a, b = {"x": torch.tensor(1.0), "y": torch.tensor(2.0)}, {}
    b["y"], b["x"] = torch.tensor(20.0), torch.tensor(10.0)
    assert trees.tree_map(torch.add, a, b) == {"x": 11.0, "y": 22.0}


def test_rebuild_is_the_inverse_of_leaves():
    for kind in KINDS:
        tree = make(kind)
        doubled = trees.rebuild(tree, [2 * leaf for leaf in trees.leaves(tree)])
        assert type(doubled) is type(tree)
        assert np.array_equal(rows(doubled), 2 * rows(tree))


@pytest.mark.parametrize("kind", KINDS)
def test_where_chooses_runs(kind):
    a, b = make(kind, 1), make(kind, 2)
    chosen = trees.where(torch.tensor([True, False, True]), a, b)
    assert np.array_equal(rows(chosen), np.stack([rows(a)[0], rows(b)[1], rows(a)[2]]))


def test_where_keeps_what_is_no_tensor_and_does_not_mix_in_nan():
    yes = (torch.tensor([[torch.nan], [1.0]]), 7, None, ())
    no = (torch.tensor([[2.0], [torch.inf]]), 8, None, ())
    chosen = trees.where(torch.tensor([False, True]), yes, no)
    assert torch.equal(chosen[0], torch.tensor([[2.0], [1.0]]))
    assert chosen[1:] == (8, None, ())


def test_none_has_no_leaf_and_is_no_tensor():
    assert trees.leaves((None, [None])) == []
    assert trees.tree_map(torch.neg, None) is None
    assert not trees.same_structure((None, torch.ones(2)), (torch.ones(2), torch.ones(2)))
    one = Pair(torch.ones(1), None)
    assert trees.equal(trees.join([one, one]), Pair(torch.ones(2), None))


def test_finite_is_per_run():
    tree = {"a": torch.ones(R), "b": torch.ones(R, 2, 2)}
    assert trees.finite(tree).tolist() == [True] * R
    tree["a"][1], tree["b"][2, 0, 1] = torch.inf, torch.nan
    assert trees.finite(tree).tolist() == [True, False, False]


@pytest.mark.parametrize(("dtype", "size"), [(torch.float64, 1e200), (torch.float32, 1e30)])
def test_the_norm_neither_overflows_nor_underflows(dtype, size):
    for scale in (size, 1 / size):
        a, b = torch.tensor([[3 * scale], [4 * scale]], dtype=dtype)
        tree = {"a": a, "b": b.unsqueeze(1)}
        assert float(trees.norm(tree)) == pytest.approx(5 * scale, rel=1e-6, abs=0)


def test_norms_and_projections_can_be_mapped():
    """As in an objective that keeps weights in a ball."""
    runs = torch.arange(12.0).double().reshape(3, 2, 2)
    norms = torch.func.vmap(trees.norm)(runs)
    assert torch.equal(norms, torch.stack([trees.norm(one) for one in runs]))
    ball = bilevel.Ball(1.0)
    inside = torch.func.vmap(ball.project)(runs)
    assert torch.equal(inside, torch.stack([ball.project(one) for one in runs]))


def test_tensors_have_not_the_structure_of_other_leaves():
    pair = {"a": 1}, {"a": torch.ones(2)}
    assert not trees.same_structure(*pair)
    assert not trees.same_structure(*reversed(pair))
    assert trees.same_structure({"a": 1}, {"a": 2.0})


def test_the_norm_of_one_run_does_not_touch_the_others():
    tree = torch.tensor([[3.0, 4.0], [0.0, 0.0], [torch.inf, 1.0], [torch.nan, 1.0]])
    assert trees.norm(tree)[:3].tolist() == [5.0, 0.0, torch.inf]
    assert trees.norm(tree)[3].isnan()


def test_numbers_per_run_multiply_leaves_of_every_dimension():
    numbers = torch.tensor([1.0, 10.0, 100.0])
    for shape in [(), (2,), (R,), (R, R)]:  # (R, R) must scale rows of the run axis, not columns
        leaf = torch.ones(R, *shape)
        scaled = trees.per_run(numbers, leaf) * leaf
        assert torch.equal(scaled.reshape(R, -1)[:, 0], numbers)
        assert torch.equal(scaled.reshape(R, -1).amax(1), scaled.reshape(R, -1).amin(1))
    assert trees.per_run(0.5, torch.ones(R, 2)) == 0.5
    assert trees.per_run(torch.tensor(0.5), torch.ones(R, 2)).ndim == 0


def test_cast_changes_floating_leaves_only():
    tree = {"x": torch.ones(2), "labels": torch.tensor([1, 2]), "mask": torch.tensor([True])}
    found = trees.cast(tree, torch.float64)
    assert [x.dtype for x in found.values()] == [torch.float64, torch.int64, torch.bool]


def test_detach_drops_the_graph():
    tree = {"x": torch.ones(2, requires_grad=True) * 2}
    assert not trees.detach(tree)["x"].requires_grad


def test_structures_differ_by_shape_key_or_kind():
    tree = {"a": torch.ones(2), "b": torch.ones(3)}
    assert trees.same_structure(tree, {"a": torch.zeros(2), "b": torch.zeros(3)})
    assert not trees.same_structure(tree, {"a": torch.ones(2), "b": torch.ones(4)})
    assert not trees.same_structure(tree, {"a": torch.ones(2), "c": torch.ones(3)})
    assert not trees.same_structure(tree, {"a": torch.ones(2)})
    assert not trees.same_structure((torch.ones(2),), [torch.ones(2)])


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({}, "`point` holds no tensor"),
        (1.0, "`point` must be a tensor, got float"),
        ({"w": [1.0]}, r"`point\['w'\]\[0\]` must be a tensor, got float"),
        ({"w": None}, r"`point\['w'\]` must be a tensor, got NoneType"),
        ({"w": torch.tensor([1])}, r"`point\['w'\]` must be floating point, got torch.int64"),
        ({"w": torch.tensor([torch.nan])}, r"`point\['w'\]` holds values that are not finite"),
        ((torch.ones(1), torch.tensor(torch.inf)), r"`point\[1\]` holds values that are not fin"),
    ],
)
def test_check_names_the_bad_leaf(tree, message):
    with pytest.raises(ShapeError, match=message):
        trees.check(tree, "point", ShapeError)


def test_check_accepts_a_good_tree():
    trees.check({"w": torch.ones(2), "b": (torch.tensor(1.0),)}, "point", ShapeError)
