"""Directions of an `AuxiliaryProblem`, and whether the best response leaves anything to do."""

import torch

from bilevel import trees
from bilevel.core.generators import generator
from bilevel.errors import BilevelError
from bilevel.problem.auxiliary import AuxiliaryProblem, Pullback
from bilevel.testing.bench import RUNS, Bench
from bilevel.testing.finding import Finding, gap, random_like, require
from bilevel.trees import Tree

TOLERANCE = 1e-10
CONSTANT = 1e-9
"""|grad Phi| below this times |d_w F| at other heads is rounding."""


def check_directions(bench: Bench) -> Finding | None:
    """Directions of many runs at once against those of single runs; None where there are none."""
    problem = bench.problem
    if not isinstance(problem, AuxiliaryProblem):
        return None
    drawn = [problem.init_auxiliary(generator(seed, "auxiliary")) for seed in range(RUNS)]
    again = [problem.init_auxiliary(generator(seed, "auxiliary")) for seed in range(RUNS)]
    require(
        all(trees.equal(a, b) for a, b in zip(drawn, again, strict=True)),
        f"`init_auxiliary` of {bench.name} gives two different points for one seed. Draw with "
        "`generator=generator`, and with nothing else.",
    )
    start = trees.cast(trees.stack(drawn), torch.float64)
    noise = random_like(start, generator(0, "testing auxiliary"))
    auxiliary = problem.auxiliary_set.project(trees.tree_map(torch.add, start, noise))
    together = bench.oracles.directions(bench.body, bench.head, auxiliary, bench.rows)
    for level, direction in zip(("body", "head", "auxiliary"), together, strict=True):
        require(
            trees.finite(direction).all(),
            f"`directions` of {bench.name} gives a direction of the {level} that is not finite at "
            "random points. Check logarithms, roots and divisions.",
        )
    worst = 0.0
    for run in range(RUNS):
        alone = bench.alone(run)
        one = trees.part(auxiliary, slice(run, run + 1))
        single = bench.oracles.directions(alone.body, alone.head, one, alone.rows)
        worst = max(worst, gap(trees.part(together, slice(run, run + 1)), single))
        if problem.knows_runs():
            worst = max(worst, _gap_to_one(alone, problem, one, single))
    require(
        worst < TOLERANCE,
        f"`directions` of {bench.name} gives other directions for many runs than for one: they "
        f"differ by {worst:.1e}. Something in it depends on the number of runs, or "
        "`directions_of_runs` is another formula than `directions`.",
    )
    both = ", `directions_of_runs` included" if problem.knows_runs() else ""
    return Finding("directions", f"equal single runs up to {worst:.0e}{both}")


def _gap_to_one(alone: Bench, problem: AuxiliaryProblem, auxiliary: Tree, expected: Tree) -> float:
    """How far `directions` of one run is from `directions_of_runs`; the body's only as a tree."""
    one = (alone.body, alone.head, auxiliary, alone.rows.of_runs(1))
    found = problem.directions(*(trees.take(tree, 0) for tree in one))
    first = 1 if isinstance(found[0], Pullback) else 0
    return gap(trees.single(tuple(found[first:])), tuple(expected[first:]))


def check_dependence(bench: Bench) -> Finding | None:
    """Where F is g: whether the best response makes Phi constant, so that no body is preferred."""
    if not bench.problem.is_stackelberg:
        return None
    try:
        solver = bench.reference(None)
    except BilevelError:
        return None
    best = bench.solved(solver)
    slope = trees.norm(bench.oracles.direct_gradient(bench.body, best, bench.rows))
    scale = trees.norm(bench.oracles.direct_gradient(bench.body, bench.head, bench.rows))
    ratio = float((slope / scale.clamp(min=1e-300)).max())
    if not ratio < CONSTANT:
        return None
    phi = bench.phi(solver)
    return Finding(
        "best response",
        f"Phi is constant at the exact best response: |grad Phi| is {ratio:.0e} of |d_w g| at "
        f"other heads, and Phi is {float(phi.min()):.2g} to {float(phi.max()):.2g} at {RUNS} "
        "bodies. It prefers no body to another: judge by other metrics",
    )
