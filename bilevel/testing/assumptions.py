"""What theorems assume, in numbers: curvature of both levels, sets, and parameters in use."""

import math

import torch
from torch import Tensor

from bilevel import trees
from bilevel.analysis.curving import ends
from bilevel.analysis.reduced import Reduced
from bilevel.core.generators import generator
from bilevel.data.training_data import TrainingData
from bilevel.errors import BilevelError, counted
from bilevel.problem.linear_head import LinearHeadProblem
from bilevel.problem.sets import ConvexSet
from bilevel.testing.bench import RUNS, Bench
from bilevel.testing.finding import Finding, random_like
from bilevel.trees import Tree

LARGEST_HEAD, LARGEST_BODY = 256, 2**22
"""Numbers of a head whose eigenvalues, and of bodies times rows whose curvature, are looked at."""
ILL = 1e8
FAR = 1e9
CONSTANT = 1e-9
ROUNDED = 1e-8
"""Of the largest curvature, or of what gradients at other heads suggest: that is rounding."""


def check_modulus(bench: Bench) -> Finding | None:
    """Where mu of a linear head comes from: the ridge, or the features."""
    problem, size = bench.problem, trees.flatten(bench.head).shape[1]
    if not isinstance(problem, LinearHeadProblem) or size > LARGEST_HEAD:
        return None
    oracles = bench.oracles
    hessian = oracles.head_hessian(bench.body, bench.head, bench.rows)
    penalty = oracles.linear_penalty(bench.body, torch.zeros_like(bench.head))
    flat = penalty.reshape(len(hessian), -1)
    if flat.shape[1] < size:  # one number for all outputs of a feature
        flat = penalty.reshape(len(hessian), -1, 1).expand(-1, -1, size // flat.shape[1])
        flat = flat.reshape(len(hessian), size)
    whole = torch.linalg.eigvalsh(hessian)
    features = torch.linalg.eigvalsh(hessian - torch.diag_embed(flat))
    mu, alone, most = float(whole[:, 0].min()), float(features[:, 0].min()), float(whole.max())
    alone = max(alone, 0.0)
    told = f"{mu:.2g}; the features alone would give {alone:.1g}, the penalty is "
    told += f"{float(flat.min()):.2g} to {float(flat.max()):.2g}"
    if alone < 0.5 * mu:
        told += ". It comes from the penalty: the features are nearly dependent"
    else:
        told += ". It comes from the features"
    if most > ILL * mu:
        told += f". The condition is {most / mu:.0e}: raise `ridge`"
    return Finding("where mu comes from", told)


def check_weak_convexity(bench: Bench) -> Finding | None:
    """rho of Phi, from its curvatures at initial bodies; and whether Phi is constant there."""
    problem = bench.problem
    shapes = [trees.leaves(group)[0].shape for group in bench.rows.without("noise").groups.values()]
    rows = sum(shape[0] for shape in shapes)
    if _has_tasks(problem) or rows * trees.flatten(bench.body).shape[1] > LARGEST_BODY:
        return None
    try:
        data = TrainingData(problem, range(RUNS), torch.float64, "cpu", chunked=False)
        reduced = Reduced(data)
        at = reduced.vector(bench.body)
        found = ends(reduced.gradient, at)
    except BilevelError:
        return None  # no solver is exact for these heads
    low, high = float(found.low.min()), float(found.high.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        return None
    told = f"curvatures of Phi in [{low:.2g}, {high:.2g}] at {RUNS} initial bodies: "
    slope = trees.norm(bench.oracles.direct_gradient(bench.body, bench.head, bench.rows))
    rounding = ROUNDED * max(high, float(slope.max()) / max(1.0, float(trees.norm(at).max())))
    if max(-low, high) <= rounding:
        return Finding("weak convexity of Phi", told + "it is flat there, up to rounding")
    if low >= -rounding:
        return Finding("weak convexity of Phi", told + "it curves downwards nowhere there")
    return Finding(
        "weak convexity of Phi",
        f"{told}rho is at least {-low:.2g}. Moreau envelopes need l below {-1 / low:.2g}; rates of "
        "strongly convex Phi (theorem 3.7) do not apply there, those of theorem 3.6 do",
    )


def check_constant(bench: Bench) -> Finding | None:
    """Where F is not g: whether Phi prefers no body to another."""
    if bench.problem.is_stackelberg or _has_tasks(bench.problem):
        return None  # where F is g `check_dependence` tells
    try:
        data = TrainingData(bench.problem, range(RUNS), torch.float64, "cpu", chunked=False)
        reduced = Reduced(data)
        slope = reduced.gradient(reduced.vector(bench.body)).norm(dim=1)
    except BilevelError:
        return None
    parts = bench.oracles.body_gradients(bench.body, bench.head, bench.rows)
    scale = sum(trees.norm(part) for part in parts)
    assert isinstance(scale, Tensor)
    ratio = float((slope / scale.clamp(min=1e-300)).max())
    if not ratio < CONSTANT:
        return None
    return Finding(
        "best response",
        f"Phi is constant at the exact best response: |grad Phi| is {ratio:.0e} of F's own "
        "gradients. It prefers no body to another: check that F sees what the body changes",
    )


def check_sets(bench: Bench) -> Finding:
    """Whether W and Theta are bounded, as compactness in theorems asks."""
    problem = bench.problem
    levels = {"W": (problem.body_set, bench.body), "Theta": (problem.head_set, bench.head)}
    told, open_ones = [], []
    for name, (convex, point) in levels.items():
        reach = _reach(convex, point)
        kind = type(convex).__name__
        if reach < FAR:
            told.append(f"{name} is a {kind} that reaches {reach:.2g} from the origin")
        else:
            told.append(f"{name} is {'everywhere' if kind == 'Everywhere' else f'a {kind}'}")
            open_ones.append(name)
    if open_ones:
        field = {"W": "body_set", "Theta": "head_set"}
        bounds = " and ".join(f"`{field[name]} = Ball(...)`" for name in open_ones)
        are = f"{' and '.join(open_ones)} {'are' if len(open_ones) > 1 else 'is'}"
        told.append(
            f"{are} not bounded: constants of assumption 3.5 hold near a training only. {bounds} "
            "would bound them, a ridge does in practice"
        )
    return Finding("sets", "; ".join(told))


def _reach(convex: ConvexSet, point: Tree) -> float:
    """How far from the origin points of a set were found when far ones were projected."""
    sources = (generator(seed, "sets") for seed in range(4))
    far = [trees.tree_map(lambda x: 1e12 * x, random_like(point, source)) for source in sources]
    return max(float(trees.norm(convex.project(one)).max()) for one in far)


def check_unused(bench: Bench) -> Finding:
    """Numbers of both levels whose gradient is exactly zero at all points."""
    found = list(bench.oracles.joint_gradient(bench.body, bench.head, bench.rows))
    if not bench.problem.is_stackelberg:
        others = bench.oracles.body_gradients(bench.body, bench.head, bench.rows)
        absolute = trees.tree_map(torch.abs, tuple(found))
        found = list(trees.tree_map(lambda x, y: x + y.abs(), absolute, tuple(others)))
    told = []
    for level, tree in zip(("body", "head"), found, strict=True):
        for path, leaf in trees.named_leaves(tree):
            still = int((leaf == 0).all(0).sum())
            if still:
                total = leaf[0].numel()
                told.append(f"{still} of the {counted(total, 'number')} of {level}{path}")
    if not told:
        return Finding("parameters in use", "all")
    return Finding(
        "parameters in use",
        f"all but {', '.join(told)}, whose gradient is exactly 0 at {RUNS} points: they are not "
        "used, cut off, or belong to units that are off for all rows. Leave out those that are "
        "not used",
    )


def _has_tasks(problem: object) -> bool:
    return isinstance(problem, LinearHeadProblem) and bool(problem.tasks)
