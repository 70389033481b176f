"""What a problem states about itself: derivatives of its criterion, and constants."""

import torch
from torch import Tensor

from bilevel import trees
from bilevel.problem.base import StackelbergProblem
from bilevel.problem.linear_head import LinearHeadProblem
from bilevel.testing.bench import RUNS, Bench
from bilevel.testing.finding import Finding, require

STEP, TOLERANCE, SLACK = 1e-5, 1e-6, 1e-8
LARGEST_HEAD = 256


def check_criterion(bench: Bench) -> Finding | None:
    """`slope` and `curvature` of a criterion against differences of `rows` and of `slope`."""
    problem = bench.problem
    if not isinstance(problem, LinearHeadProblem):
        return None
    criterion, told = problem.criterion, []
    parts = bench.oracles.linear_parts(bench.body, bench.rows)
    targets, head = parts.targets[0], trees.leaves(bench.head)[0][0]
    predictions = parts.design[0] @ head
    name = type(criterion).__name__
    slope = criterion.slope(predictions, targets)
    if slope is not None:
        off = _off(lambda at: criterion.rows(at, targets), slope, predictions)
        require(
            off < TOLERANCE,
            f"`slope` of {name} differs from central differences of `rows` by {off:.1e}, relative "
            "to its size, so heads would be solved for another loss. Check its formula, or leave "
            "it out: then it is found by automatic differentiation.",
        )
        told.append(f"its slope up to {off:.0e}")
    curvature = criterion.curvature(predictions, targets)
    if slope is not None and curvature is not None and predictions.ndim == 1:
        off = _off(lambda at: _known(criterion.slope(at, targets)), curvature.diagonal, predictions)
        require(
            off < TOLERANCE,
            f"`curvature` of {name} differs from central differences of `slope` by {off:.1e}, "
            "relative to its size, so implicit gradients would be wrong. Check its formula.",
        )
        told.append(f"its curvature up to {off:.0e}")
    return Finding("criterion", f"{name}: {', '.join(told)}") if told else None


def _known(value: Tensor | None) -> Tensor:
    assert value is not None
    return value


def _off(function, derivative: Tensor, at: Tensor) -> float:  # type: ignore[no-untyped-def]
    """How far derivatives of rows are from differences, at all rows but those near a kink."""
    total = derivative.sum(-1) if derivative.ndim > 1 else derivative
    errors = []
    for step in (STEP, STEP / 10):
        change = (function(at + step) - function(at - step)) / (2 * step)
        change = change.sum(-1) if change.ndim > 1 else change
        errors.append((change - total).abs())
    error = torch.minimum(*errors)
    scale = max(float(total.abs().max()), 1e-3)
    most = max(1, int(0.99 * error.numel()))  # a few may lie at kinks
    return float(error.sort().values[:most].max()) / scale


def check_stated(bench: Bench) -> Finding | None:
    """`known_curvature` against eigenvalues of the head's Hessian."""
    problem, size = bench.problem, trees.flatten(bench.head).shape[1]
    stated = getattr(problem.known_curvature, "__func__", None)
    if stated is StackelbergProblem.known_curvature or size > LARGEST_HEAD:
        return None
    if isinstance(problem, LinearHeadProblem) and problem.tasks:
        return None
    values = torch.linalg.eigvalsh(bench.oracles.head_hessian(bench.body, bench.head, bench.rows))
    tightest = 0.0
    for run in range(RUNS):
        said = problem.known_curvature(trees.take(bench.body, run))
        if said is None:
            continue
        low, high = float(values[run, 0]), float(values[run, -1])
        room = SLACK * max(abs(low), abs(high))
        require(
            said.smallest <= low + room and said.largest >= high - room,
            f"`known_curvature` of {bench.name} states eigenvalues from {said.smallest:.3g} to "
            f"{said.largest:.3g}, but at a random head they reach from {low:.3g} to {high:.3g}. "
            "Bounds that rest on it would be taken for proven and be wrong.",
        )
        tightest = max(tightest, said.smallest / low if low > 0 else 0.0)
    return Finding("stated curvature", f"holds at {RUNS} points; mu is {tightest:.0%} of the "
                   "smallest eigenvalue that was seen")  # fmt: skip
