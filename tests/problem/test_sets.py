"""Projections onto convex sets: the variational inequality, idempotence, runs apart."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_problems import doubles

from bilevel import Ball, Box, ConvexSet, Everywhere, L1Ball, Nonnegative, Simplex, trees
from bilevel.errors import ArgumentError, ShapeError

LOW = torch.tensor([-1.0, -torch.inf, 0.25], dtype=torch.float64)
HIGH = torch.tensor([1.0, 0.5, torch.inf], dtype=torch.float64)
SETS = {
    "everywhere": Everywhere(),
    "box": Box(-0.5, 0.75),
    "half-line": Box(0.0, float("inf")),
    "tensor box": Box(LOW, HIGH),
    "point": Box(0.5, 0.5),
    "ball": Ball(0.7),
    "nonnegative": Nonnegative(),
    "l1 ball": L1Ball(0.9),
    "simplex": Simplex(),
}
INSIDE = {"ball": 0.05, "l1 ball": 0.3, "simplex": 1 / 3}


def in_set(name, tree):
    """Membership, from the definition."""
    flat = trees.flatten(tree)
    if name == "ball":
        return bool((flat.norm(dim=1) <= 0.7 * (1 + 1e-15)).all())
    if name == "l1 ball":
        return bool((flat.abs().sum(1) <= 0.9 * (1 + 1e-15)).all())
    if name == "simplex":
        return bool(((flat.sum(1) - 1).abs() <= 1e-15).all() and (flat >= 0).all())
    if name == "nonnegative":
        return bool((flat >= 0).all())
    if name == "everywhere":
        return True
    box = SETS[name]
    return all(bool(((x >= box.low) & (x <= box.high)).all()) for x in trees.leaves(tree))


@pytest.mark.parametrize("name", SETS)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([1e-3, 0.3, 1.0, 50.0]))
def test_the_projection_is_the_nearest_point(name, seed, scale):
    """<x - P(x), y - P(x)> <= 0 for every y of the set, which only the nearest point satisfies."""
    convex: ConvexSet = SETS[name]
    x = {"a": scale * doubles([seed, 1], 4, 3), "b": scale * doubles([seed, 2], 4, 2, 3)}
    projected = convex.project(x)
    assert trees.same_structure(projected, x)
    assert in_set(name, projected)
    other = convex.project({"a": doubles([seed, 3], 4, 3), "b": doubles([seed, 4], 4, 2, 3)})
    away = trees.tree_map(torch.sub, x, projected)
    inside = trees.tree_map(torch.sub, other, projected)
    slack = 1e-14 * (1 + trees.norm(away)) * (1 + trees.norm(inside))
    assert (trees.dot(away, inside) <= slack).all()
    again = convex.project(projected)
    for first, second in zip(trees.leaves(projected), trees.leaves(again), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-15, atol=0)


@pytest.mark.parametrize("name", SETS)
def test_points_of_the_set_come_back_bitwise(name):
    inside = torch.full((2, 3), INSIDE.get(name, 0.5), dtype=torch.float64)
    assert in_set(name, inside)
    assert torch.equal(SETS[name].project(inside), inside)


def test_everywhere_returns_the_tree_itself():
    tree = {"a": torch.ones(2)}
    assert Everywhere().project(tree) is tree


def test_a_ball_takes_the_norm_over_all_leaves_and_per_run():
    tree = {"a": torch.tensor([3.0, 0.3]), "b": torch.tensor([[4.0], [0.4]])}
    projected = Ball(1.0).project(tree)
    torch.testing.assert_close(projected["a"], torch.tensor([0.6, 0.3]))
    torch.testing.assert_close(projected["b"], torch.tensor([[0.8], [0.4]]))


def test_a_ball_keeps_the_origin_and_does_not_spread_a_bad_run():
    x = torch.tensor([[0.0, 0.0], [torch.nan, 1.0], [3.0, 4.0]], dtype=torch.float64)
    projected = Ball(1.0).project(x)
    assert torch.equal(projected[0], x[0])
    assert projected[1].isnan().any()
    torch.testing.assert_close(projected[2], x[2] / 5, rtol=1e-15, atol=0)


def test_a_ball_brings_far_points_to_its_boundary_not_to_the_origin():
    """|x|^2 overflows here, |x| does not."""
    projected = Ball(1.0).project(torch.tensor([[3e200, -4e200]], dtype=torch.float64))
    expected = torch.tensor([[0.6, -0.8]], dtype=torch.float64)
    torch.testing.assert_close(projected, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", ["ball", "l1 ball", "simplex"])
@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_projecting_twice_changes_no_bit(name, size, dtype):
    x = (3 * doubles([size, 7], 50, size)).to(dtype)
    once = SETS[name].project(x)
    assert once.dtype == dtype
    assert torch.equal(SETS[name].project(once), once)


@pytest.mark.parametrize(("name", "norm"), [("ball", 2), ("l1 ball", 1), ("simplex", 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_numbers_of_low_precision_are_not_taken_to_be_inside(name, norm, dtype):
    """As far outside as 300 rounding errors that point in one direction."""
    radius = {"ball": 0.7, "l1 ball": 0.9, "simplex": 1.0}[name]
    off = 1 + 250 * torch.finfo(dtype).eps
    x = torch.full((1, 300), off * radius / 300 ** (1 / norm), dtype=dtype)
    projected = SETS[name].project(x).double()
    expected = torch.full_like(projected, radius / 300 ** (1 / norm))
    torch.testing.assert_close(projected, expected, rtol=torch.finfo(dtype).eps, atol=0)


def test_an_l1_ball_brings_far_points_to_its_boundary():
    """|x| / radius overflows."""
    x = torch.tensor([[1e300, -1e300, 3.0], [1e308, 1e307, -1e308]], dtype=torch.float64)
    expected = torch.tensor([[5e-7, -5e-7, 0.0], [5e-7, 0.0, -5e-7]], dtype=torch.float64)
    torch.testing.assert_close(L1Ball(1e-6).project(x), expected, rtol=1e-14, atol=0)


def test_a_box_keeps_the_type_of_the_leaf():
    assert Box(LOW, HIGH).project(torch.zeros(2, 3)).dtype == torch.float32


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (1.0, 0.0),
        (float("nan"), 1.0),
        (0.0, float("nan")),
        (torch.tensor([0.0, 2.0]), torch.tensor([1.0, 1.0])),
    ],
)
def test_a_box_needs_ordered_bounds(low, high):
    with pytest.raises(ArgumentError, match="low <= high"):
        Box(low, high)


@pytest.mark.parametrize(("low", "high"), [("a", 1.0), (0.0, None), (0.0, "inf")])
def test_the_bounds_of_a_box_are_numbers(low, high):
    with pytest.raises(ArgumentError, match="bounds of a box are numbers or tensors"):
        Box(low, high)


@pytest.mark.parametrize("radius", [0.0, -1.0, float("nan"), "a", True, torch.ones(2)])
@pytest.mark.parametrize("ball", [Ball, L1Ball])
def test_a_ball_needs_a_positive_radius(ball, radius):
    with pytest.raises(ArgumentError, match="positive radius"):
        ball(radius)


@pytest.mark.parametrize("leaf", [torch.ones(3), torch.ones(2, 3)])
def test_bounds_that_broadcast_fit(leaf):
    Box(LOW, HIGH).check(leaf)
    Box(0.0, HIGH).check({"a": leaf, "b": leaf})


@pytest.mark.parametrize(
    "leaf", [torch.tensor(1.0), torch.ones(2), torch.ones(1), torch.ones(3, 2)]
)
def test_bounds_that_do_not_broadcast_or_would_enlarge_a_leaf_are_refused(leaf):
    with pytest.raises(ShapeError, match=r"Box\.low has shape \(3,\).*'weight'"):
        Box(LOW, 9.0).check({"weight": leaf})
    with pytest.raises(ShapeError, match=r"Box\.high has shape \(3,\)"):
        Box(-9.0, HIGH).check(leaf)
