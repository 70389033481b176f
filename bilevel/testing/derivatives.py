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
    oracle = oracles.head_value if is_g else oracles.body_value
    gradients = oracles.joint_gradient if is_g else oracles.body_gradients

    def value(at: Bench) -> Tensor:
        return oracle(at.body, at.head, at.rows)

    worst = 0.0
    for run in range(RUNS):
        one = bench.alone(run)
        found = gradients(one.body, one.head, one.rows)
        for level, gradient in zip(("body", "head"), found, strict=True):
            off = _error(one, level, value, gradient, generator(run, "directions"))
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

        def value(at: Bench, vector: Tree = vector) -> Tensor:
            slope = oracles.head_gradient(at.body, at.head, at.rows)
            return trees.dot(slope, repeat(vector, slope))

        for level, symbol, oracle in (
            ("head", "d2_{theta theta} g", oracles.head_hvp),
            ("body", "d2_{w theta} g", oracles.cross_vjp),
        ):
            product = oracle(one.body, one.head, vector, one.rows)
            off = _error(one, level, value, product, source)
            require(
                off < 10 * TOLERANCE,
                f"{symbol} of {bench.name} by autograd differs from central differences of "
                f"d_theta g by {off:.1e}, relative to its size, so implicit gradients would be "
                "wrong. A function in `head_objective` lacks its second derivative.",
            )
            worst = max(worst, off)
    return Finding("second derivatives of g", f"equal central differences up to {worst:.0e}")


def _error(
    one: Bench,
    level: str,
    value: Callable[[Bench], Tensor],
    derivative: Tree,
    source: torch.Generator,
) -> float:
    """How far a derivative of one run is from differences of `value` while one level moves."""
    moves = directions(trees.take(getattr(one, level), 0), source)

    def along(move: Tree) -> Tensor:
        many = one.at(repeat(one.body, move))
        return value(dataclasses.replace(many, **{level: add(getattr(many, level), move)}))

    return differences(along, moves, trees.dot(repeat(derivative, moves), moves))[0]


def repeat(tree: Tree, like: Tree) -> Tree:
    """One run, as often as `like` has runs."""
    count = len(trees.leaves(like)[0])
    return trees.tree_map(lambda x: x.expand(count, *x.shape[1:]), tree)


def differences(
    along: Callable[[Tree], Tensor], moves: Tree, expected: Tensor
) -> tuple[float, Tensor]:
    """Central differences along N `moves`, which should be `expected`, (N,).

    Returns:
        How far they are from it, each at the step size that suits it best; and those of the step
        size that suits all of them best.
    """
    found, errors = [], []
    for step in STEPS:
        ahead, behind = (along(trees.tree_map(lambda x, s=s: s * x, moves)) for s in (step, -step))
        slope = (ahead - behind) / (2 * step)
        scale = max(float(slope.abs().max()), float(expected.abs().max()), 1e-3)
        errors.append(((slope - expected).abs() / scale).nan_to_num(nan=torch.inf))
        found.append(slope)
    every = torch.stack(errors)
    return float(every.amin(0).max()), found[int(every.amax(1).argmin())]
