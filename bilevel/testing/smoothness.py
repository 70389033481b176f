"""What theorems assume of gradients: their noise, how fast they change, and kinks."""

import dataclasses

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.generators import generator
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.assembly import Assembly
from bilevel.problem.linear_head import LinearHeadProblem
from bilevel.testing.bench import RUNS, Bench
from bilevel.testing.finding import Finding, add, random_like
from bilevel.trees import Tree

BATCH, BATCHES, FARTHER = 64, 16, 10.0
"""Rows of a batch, how many are drawn, and how many times larger heads are looked at, too."""
PAIRS, APART = 12, (1.0, 1e-3)
POINTS, ZOOMS = 33, 7
"""Of a segment, which is looked at again in smaller and smaller parts."""
JUMP = 1e-5
"""Of the largest change on the segment: what is left of it in a 16^7th part is a jump."""


def check_gradient_noise(bench: Bench) -> Finding | None:
    """E |d g(w, theta; xi) - d g(w, theta)|^2 of both levels at several points: assumption 3.4."""
    made = _sampled(bench)
    if made is None:
        return None
    heads = {"": bench.head}
    heads["farther"] = bench.problem.head_set.project(
        trees.tree_map(lambda leaf: FARTHER * leaf, bench.head)
    )
    found = {name: _variances(bench, made, head) for name, head in heads.items()}
    if not any(bool((x > 0).any()) for x in found[""]):
        return Finding("gradient noise", "none: every step sees the same")
    size = min(BATCH, *made.data.sizes.values()) if made.data.sizes else None
    of = f"batches of {size} rows: " if size else "steps: "
    told = []
    for level, near, far in zip(("body", "head"), found[""], found["farther"], strict=True):
        low, high = float(near.min()), float(near.max())
        grown = float(far.max()) / high if high > 0 else 1.0
        told.append(f"{level} {low:.2g} to {high:.2g} (times {grown:.2g} at heads {FARTHER:g} "
                    "times as large)")  # fmt: skip
    grows = any(float(f.max()) > 4 * float(n.max()) for n, f in zip(*found.values(), strict=True))
    remedy = (
        ". It grows with the head, so that no bound holds everywhere (assumption 3.4): a "
        "`head_set` or a ridge keeps heads bounded" if grows else ""
    )  # fmt: skip
    return Finding("gradient noise", f"variance over {of}{'; '.join(told)}{remedy}")


def _sampled(bench: Bench) -> Assembly | None:
    """The runs with batches of `BATCH` rows; None for problems with tasks."""
    problem = bench.problem
    if isinstance(problem, LinearHeadProblem) and problem.tasks:
        return None
    data = TrainingData(problem, range(RUNS), torch.float64, "cpu", chunked=False)
    smallest = min([BATCH, *data.sizes.values()])
    return Assembly.of(data, smallest)


def _variances(bench: Bench, made: Assembly, head: Tree) -> tuple[Tensor, Tensor]:
    """Of the gradients of body and head over batches, (R,) each."""
    oracles = made.oracles
    mean = oracles.joint_gradient(bench.body, head, made.sampler.full)
    squares = []
    for step in range(BATCHES):
        found = oracles.joint_gradient(bench.body, head, made.sampler.rows(step))
        offs = [trees.norm(add(x, y, -1.0)) ** 2 for x, y in zip(found, mean, strict=True)]
        squares.append(torch.stack(offs))
    body, head_variance = torch.stack(squares).mean(0)
    return body, head_variance


def check_lipschitz(bench: Bench) -> Finding | None:
    """|grad g(x) - grad g(y)| / |x - y| on pairs x, y of bodies and heads: assumption 3.5."""
    small = _of_one_batch(bench)
    if small is None:
        return None
    told = []
    for apart in APART:
        source = generator(0, "pairs")
        start = _spread(small, source)
        step = _unit((random_like(start[0], source), random_like(start[1], source)))
        scale = apart * trees.norm(start).clamp(min=1e-300)
        moved = trees.tree_map(lambda x, y, s=scale: x + trees.per_run(s, y) * y, start, step)
        problem = small.problem
        moved = problem.body_set.project(moved[0]), problem.head_set.project(moved[1])
        length = trees.norm(add(moved, start, -1.0))
        change = add(_gradient(small, moved), _gradient(small, start), -1.0)
        kept = length > 0
        ratios = [trees.norm(part)[kept] / length[kept] for part in change]
        if not bool(kept.any()):
            return None
        told.append([float(ratio.max()) for ratio in ratios])
    (body, head), (near_body, near_head) = told
    grown = max(near_body / max(body, 1e-300), near_head / max(head, 1e-300))
    words = (
        f"d_w g changes by at most {max(body, near_body):.2g}, d_theta g by "
        f"{max(head, near_head):.2g} per unit of (w, theta), on {2 * PAIRS} pairs"
    )
    if grown > 30:
        words += (
            f"; {grown:.0f} times as much for pairs close by as for far ones: gradients jump "
            "(kinks), or are steep near these points"
        )
    return Finding("Lipschitz constants", words)


def check_kinks(bench: Bench) -> Finding | None:
    """Whether d_w g jumps along a random segment, as where activations have kinks."""
    small = _of_one_batch(bench)
    if small is None:
        return None
    direction = _unit((random_like(small.body, generator(0, "segment")),))[0]
    size = float(trees.norm(small.body).clamp(min=1.0))
    low, high, first = 0.0, 0.5 * size, 0.0
    for zoom in range(ZOOMS + 1):
        places = torch.linspace(low, high, POINTS, dtype=torch.float64)
        points = trees.tree_map(
            lambda x, d, t=places: x + t.reshape(-1, *[1] * (x.ndim - 1)) * d, small.body, direction
        )
        many = small.at(points)
        slopes = trees.flatten(many.oracles.joint_gradient(many.body, many.head, many.rows)[0])
        changes = slopes[1:] - slopes[:-1]
        first = float(changes.norm(dim=1).max()) if zoom == 0 else first
        # what is smooth has equal changes side by side, a kink has not
        place = int((changes[1:] - changes[:-1]).norm(dim=1).argmax())
        jump = float(changes[place : place + 2].norm(dim=1).max())
        low, high = float(places[place]), float(places[place + 2])
    if not first > 0 or jump <= JUMP * first:
        return Finding("differentiability", "no jump of d_w g along a random segment")
    scale = float(slopes[0].norm())
    return Finding(
        "differentiability",
        f"d_w g jumps by {jump:.1g} (it is {scale:.1g} long) at one place of a random segment: an "
        "activation or a loss has a kink, such as relu. Gradients of Phi need not become small at "
        "a minimum: judge by `bilevel.analysis.moreau`; or take softplus, silu or tanh",
    )


def _of_one_batch(bench: Bench) -> Bench | None:
    """One run on the rows of one step: cheap, and as smooth as on all of them."""
    made = _sampled(bench)
    if made is None:
        return None
    rows = made.sampler.rows(0)
    return dataclasses.replace(bench, oracles=made.oracles, rows=rows).alone(0)


def _spread(small: Bench, source: torch.Generator) -> tuple[Tree, Tree]:
    """Points around that of a bench of one run, leaves (`PAIRS`, ...)."""
    body, head = (
        trees.tree_map(lambda x: x.expand(PAIRS, *x.shape[1:]), level)
        for level in (small.body, small.head)
    )
    sets = small.problem.body_set, small.problem.head_set
    moved = [
        convex.project(add(level, random_like(level, source), 0.1))
        for convex, level in zip(sets, (body, head), strict=True)
    ]
    return moved[0], moved[1]


def _gradient(small: Bench, levels: tuple[Tree, Tree]) -> tuple[Tree, Tree]:
    """d_w g and d_theta g at many points of one run."""
    many = small.at(levels[0])
    return many.oracles.joint_gradient(levels[0], levels[1], many.rows)


def _unit(tree: Tree) -> Tree:
    """Each run divided by its length."""
    length = trees.norm(tree)
    return trees.tree_map(lambda x: x / length.reshape(-1, *[1] * (x.ndim - 1)), tree)
