"""Derivatives by autograd against central differences."""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.generators import generator
from bilevel.testing.bench import RUNS, STEPS, Bench, directions
from bilevel.testing.finding import Finding, add, random_like, require
from bilevel.trees import Tree

TOLERANCE = 1e-6


def check_head_derivatives(bench: Bench) -> Finding:
    """d_w g and d_theta g."""
    return _first_derivatives(bench, "head_objective", "g")


def check_body_derivatives(bench: Bench) -> Finding | None:
    """d_w F and d_theta F, where F is not g."""
    if bench.problem.is_stackelberg:
        return None
    return _first_derivatives(bench, "body_objective", "F")


def _first_derivatives(bench: Bench, name: str, symbol: str) -> Finding:
    oracles = bench.oracles
    is_g = symbol == "g"
    value = oracles.head_value if is_g else oracles.body_value
    gradients = oracles.joint_gradient if is_g else oracles.body_gradients
    worst = 0.0
    for run in range(RUNS):
        one = bench.alone(run)
        both = {"body": one.body, "head": one.head}
        for level, gradient in zip(both, gradients(one.body, one.head, one.rows), strict=True):

            def along(move: Tree, one: Bench = one, level: str = level) -> Tensor:
                moved = _moved(one, level, move)
                return value(moved.body, moved.head, moved.rows)

            along_all = directions(trees.take(both[level], 0), generator(run, "directions"))
            expected = trees.dot(repeat(gradient, along_all), along_all)
            off = difference_error(along, along_all, expected)
            letter = "w" if level == "body" else "theta"
            require(
                off < TOLERANCE,
                f"d_{letter} {symbol} of {bench.name} by autograd differs from central differences "
                f"by {off:.1e}, relative to its size. Something in `{name}` or `features` is cut "
                f"off from autograd or has another derivative than its values have: `.detach()`, "
                "`torch.no_grad()`, a new tensor made from numbers, a custom backward.",
            )
            worst = max(worst, off)
    return Finding(f"derivatives of {symbol}", f"equal central differences up to {worst:.0e}")


def check_second_derivatives(bench: Bench) -> Finding:
    """Products with d2_{theta theta} g and d2_{w theta} g, against differences of d_theta g."""
    oracles, worst = bench.oracles, 0.0
    for run in range(RUNS):
        one, source = bench.alone(run), generator(run, "second")
        vector = random_like(one.head, source)
        products = {
            "head": oracles.head_hvp(one.body, one.head, vector, one.rows),
            "body": oracles.cross_vjp(one.body, one.head, vector, one.rows),
        }
        both = {"body": one.body, "head": one.head}
        for level, product in products.items():

            def along(
                move: Tree, one: Bench = one, level: str = level, vector: Tree = vector
            ) -> Tensor:
                moved = _moved(one, level, move)
                slope = oracles.head_gradient(moved.body, moved.head, moved.rows)
                return trees.dot(slope, repeat(vector, slope))

            along_all = directions(trees.take(both[level], 0), source)
            expected = trees.dot(repeat(product, along_all), along_all)
            off = difference_error(along, along_all, expected)
            symbol = "d2_{w theta} g" if level == "body" else "d2_{theta theta} g"
            require(
                off < 10 * TOLERANCE,
                f"{symbol} of {bench.name} by autograd differs from central differences of "
                f"d_theta g by {off:.1e}, relative to its size, so implicit gradients would be "
                "wrong. A function in `head_objective` lacks its second derivative.",
            )
            worst = max(worst, off)
    return Finding("second derivatives of g", f"equal central differences up to {worst:.0e}")


def _moved(one: Bench, level: str, move: Tree) -> Bench:
    """N copies of one run, one level moved by the N rows of `move`."""
    count = len(trees.leaves(move)[0])
    body = repeat(one.body, move)
    many = one.at(body)
    if level == "body":
        return dataclasses.replace(many, body=add(body, move))
    head = trees.tree_map(lambda x: x.expand(count, *x.shape[1:]), one.head)
    return dataclasses.replace(many, head=add(head, move))


def repeat(tree: Tree, like: Tree) -> Tree:
    """One run, as often as `like` has runs."""
    count = len(trees.leaves(like)[0])
    return trees.tree_map(lambda x: x.expand(count, *x.shape[1:]), tree)


def difference_error(along: Callable[[Tree], Tensor], moves: Tree, expected: Tensor) -> float:
    """How far central differences along `moves` are from `expected`, at the best step size."""
    errors = []
    for step in STEPS:
        ahead, behind = (along(scaled(moves, s)) for s in (step, -step))
        found = (ahead - behind) / (2 * step)
        scale = max(float(found.abs().max()), float(expected.abs().max()), 1e-3)
        errors.append(((found - expected).abs() / scale).nan_to_num(nan=torch.inf))
    return float(torch.stack(errors).amin(0).max())


def scaled(tree: Tree, factor: float) -> Tree:
    """factor times a tree."""
    return trees.tree_map(lambda leaf: factor * leaf, tree)
