"""Derivatives of projections against differences of them, on every set."""

import pytest
import torch
from small_problems import doubles

import bilevel
from bilevel import Ball, Box, Everywhere, L1Ball, Nonnegative, Simplex, trees

SETS = {
    "everywhere": Everywhere(),
    "box": Box(-0.4, 0.7),
    "nonnegative": Nonnegative(),
    "ball": Ball(1.3),
    "l1 ball": L1Ball(1.7),
    "simplex": Simplex(),
}


def points(scale):
    """Trees of three runs with 7 numbers, inside and outside of the sets."""
    return {"a": scale * doubles(5, 3, 2, 2), "b": scale * doubles(6, 3, 3)}


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("name", SETS)
def test_derivatives_are_those_of_differences(name, scale):
    convex, at, direction = SETS[name], points(scale), points(1.0)
    direction = trees.tree_map(lambda leaf: leaf.flip(0), direction)
    projected, derivative = convex.linearised(at)
    torch.testing.assert_close(projected, convex.project(at), rtol=0, atol=0)
    h = 1e-6 * scale
    ahead, behind = (
        convex.project(trees.tree_map(lambda x, d, s=s: x + s * d, at, direction)) for s in (h, -h)
    )
    expected = trees.tree_map(lambda a, b: (a - b) / (2 * h), ahead, behind)
    found = derivative(direction)
    assert trees.same_structure(found, at)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", SETS)
def test_they_are_symmetric_and_no_longer_than_the_vector(name):
    """<u, D v> = <D u, v>, and |D v| <= |v|: projections are gradients, and do not expand."""
    _, derivative = SETS[name].linearised(points(2.0))
    u, v = points(1.0), trees.tree_map(torch.cos, points(3.0))
    torch.testing.assert_close(trees.dot(u, derivative(v)), trees.dot(derivative(u), v))
    assert (trees.norm(derivative(v)) <= trees.norm(v) * (1 + 1e-12)).all()


@pytest.mark.parametrize("name", SETS)
def test_the_type_stays(name):
    single = trees.cast(points(2.0), torch.float32)
    projected, derivative = SETS[name].linearised(single)
    for leaf in trees.leaves((projected, derivative(single))):
        assert leaf.dtype == torch.float32


def test_a_set_of_ones_own_with_coordinate_planes_has_one_already():
    class Upper(bilevel.ConvexSet):
        def project(self, tree):
            return trees.tree_map(lambda leaf: leaf.clamp(min=1.0), tree)

        def free(self, tree, direction):
            return trees.tree_map(lambda leaf, d: (leaf > 1.0) | (d > 0), tree, direction)

    x = torch.tensor([[0.5, 1.5, -3.0]])
    _, derivative = Upper().linearised(x)
    assert derivative(torch.tensor([[7.0, 8.0, 9.0]])).tolist() == [[0.0, 8.0, 0.0]]
