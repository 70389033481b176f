"""Does a problem keep its contract?"""

from collections.abc import Callable

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.generators import generator
from bilevel.core.graph import ordinary
from bilevel.data.draws import BLOCK
from bilevel.data.groups import check_groups
from bilevel.data.numbered import asks_row_numbers, numbered
from bilevel.data.tasks import by_tasks, has_tasks
from bilevel.problem.base import Batch, StackelbergProblem
from bilevel.problem.linear_head import LinearHeadProblem
from bilevel.testing.assumptions import (
    check_constant,
    check_modulus,
    check_sets,
    check_unused,
    check_weak_convexity,
)
from bilevel.testing.bench import RUNS, Bench
from bilevel.testing.calls import check_broadcast, check_calls, check_head_in_use, check_rows
from bilevel.testing.declared import check_declared, check_digits, check_names, check_units
from bilevel.testing.derivatives import (
    check_body_derivatives,
    check_head_derivatives,
    check_second_derivatives,
)
from bilevel.testing.directions import check_dependence, check_directions
from bilevel.testing.finding import Finding, add, gap, random_like, refusals, require
from bilevel.testing.smoothness import check_gradient_noise, check_kinks, check_lipschitz
from bilevel.testing.stated import check_criterion, check_stated
from bilevel.training.repetition import start_alike
from bilevel.trees import Tree

LARGEST_HESSIAN = 256


@ordinary()
def check_problem(problem: StackelbergProblem) -> list[Finding]:
    r"""Check what the library relies on and cannot see from the outside.

    In float64 and at random points: the shapes; values that are finite; values of many runs at once
    against those of single runs; derivatives by autograd against central differences; initial
    points that depend on nothing but the seed, and seeds that differ in some way; g strongly convex
    in the head (by the eigenvalues of its Hessian for heads of up to 256 numbers, along random
    segments for all); objectives that are means over rows in whatever order, give one value for the
    same arguments, change none in place, and take no predictions (n, 1) against targets (n,); the
    directions of an `AuxiliaryProblem`; whether $\Phi$ depends on the body at all; data that are
    not constant; noise of mean zero; derivatives of a criterion and constants that the problem
    states; metrics whose values their names allow.

    What theorems assume is estimated and told, not judged: where the strong convexity $\mu$ of a
    linear head comes from, the weak convexity $\rho$ of $\Phi$, the variance of both gradients over
    batches of 64 rows (assumption 3.4), how fast gradients change on pairs of points (assumption
    3.5), kinks, whether the sets are bounded, and numbers that no gradient reaches. Estimates
    at a few points are lower bounds of such constants. Told, too, is what may be meant: an F that
    equals g, methods with nearly the name of a hook, numbers of the head that no row moves, columns
    that float32 cannot tell apart, metrics that differ from the criterion's of the same name.

    It cannot tell whether the problem is the one you mean, and looks at a few points only.

    Args:
        problem: an instance of your problem.

    Returns:
        What was looked at, in words and numbers.

    Raises:
        CheckError: the first thing that is wrong, and what to do. It is an `AssertionError`.

    Examples:
        >>> import bilevel
        >>> from problems.analytic import analytic
        >>> for what, found in bilevel.check_problem(analytic("A5")): print(what)
        data
        initial points
        objectives
        many runs at once
        repeated calls
        derivatives of g
        derivatives of F
        second derivatives of g
        strong convexity
        metrics
        stated curvature
        weak convexity of Phi
        gradient noise
        Lipschitz constants
        differentiability
        sets
        parameters in use
    """
    calls = check_calls(problem) if isinstance(problem, StackelbergProblem) else None
    bench = Bench.of(problem)
    checks: list[Callable[[Bench], Finding | None]] = [
        _check_data,
        _check_starts,
        _check_finite,
        _check_many,
        lambda bench: calls,
        check_rows,
        check_broadcast,
        check_head_derivatives,
        check_body_derivatives,
        check_second_derivatives,
        _check_convexity,
        check_directions,
        check_dependence,
        check_constant,
        _check_noise,
        _check_metrics,
        check_criterion,
        check_stated,
        check_modulus,
        check_weak_convexity,
        check_gradient_noise,
        check_lipschitz,
        check_kinks,
        check_sets,
        check_unused,
        check_head_in_use,
        check_declared,
        check_names,
        check_digits,
    ]
    with refusals():
        found = [check(bench) for check in checks]
    return [finding for finding in found if finding is not None]


def _check_data(bench: Bench) -> Finding:
    """Rows must differ from one another."""
    rows = []
    for name, group, tasks in _groups(bench.problem):
        leaves = [leaf.flatten(0, 1) if tasks else leaf for leaf in trees.leaves(group)]
        if isinstance(group, Batch):
            fields = dict(zip(Batch._fields, leaves, strict=True))
        else:
            flat = [leaf.reshape(len(leaf), -1).double() for leaf in leaves]
            fields = {"rows": torch.cat(flat, 1)}
        for field, leaf in fields.items():
            constant = len(leaf) > 1 and bool((leaf == leaf[:1]).all())
            require(
                not constant,
                f'The {field} of data["{name}"] of {bench.name} are the same in all {len(leaf)} '
                "rows, so there is nothing to learn from them and mistakes do not show. Check how "
                "they are read or drawn.",
            )
        of = f" of {tasks} tasks" if tasks else ""
        rows.append(f"{len(leaves[0])} rows{of} in {name}")
    return Finding("data", ", ".join(rows) or "none, and none is needed")


def _groups(problem: StackelbergProblem) -> list[tuple[str, Tree, int]]:
    """Names and groups, those of new tasks too, and their numbers of tasks; 0: there are none."""
    groups = check_groups(problem.data(0 if problem.redraws_data else None))
    if not has_tasks(problem):
        return [(name, group, 0) for name, group in groups.items()]
    found = []
    for some in by_tasks(groups):
        inner = 'test"]["' if some is groups.get("test") else ""
        found += [(inner + name, x, len(trees.leaves(x)[0])) for name, x in some.items()]
    return found


def _check_starts(bench: Bench) -> Finding:
    """Initial points depend on the seed, and on nothing but the seed."""
    moving = []
    for level, draw in (("body", bench.problem.init_body), ("head", bench.problem.init_head)):
        before = torch.get_rng_state()
        first = [draw(generator(seed, level)) for seed in range(RUNS)]
        untouched = torch.equal(before, torch.get_rng_state())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            again = [draw(generator(seed, level)) for seed in range(RUNS)]
        require(
            all(trees.equal(a, b) for a, b in zip(first, again, strict=True)) and untouched,
            f"`init_{level}` of {bench.name} draws from the global random state, so a seed does "
            "not determine the initial point. Draw with `generator=generator`, and with nothing "
            "else.",
        )
        if not all(trees.equal(first[0], other) for other in first[1:]):
            moving.append(level)
    if "body" in moving:
        return Finding("initial points", f"{' and '.join(moving)} differ between seeds")
    other = _what_else_differs(bench)
    require(
        bool(moving) or other is not None,
        f"`init_body` and `init_head` of {bench.name} return the same points for every seed, and "
        "neither data nor rows nor noise differ between seeds, so that seeds are no repetitions. "
        "Draw the body with `generator=generator`, at least in a small neighbourhood.",
    )
    same = "the body is" if moving else "body and head are"
    return Finding(
        "initial points",
        f"{same} the same for every seed: seeds differ only by {other or 'their heads'}",
    )


def _what_else_differs(bench: Bench) -> str | None:
    """What tells seeds apart that start at the same body; None if nothing does."""
    groups = bench.rows.without("noise").groups
    redrawn = [group for name, group in groups.items() if bench.rows.axes[name] == 0]
    if not start_alike(redrawn):
        return "their data"
    if bench.problem.noise(generator(0, "noise", 0), BLOCK) is not None:
        return "their noise"
    for name, group in groups.items():
        if trees.leaves(group)[0].shape[bench.rows.axes[name] == 0] > 1:
            return "the rows of batches (with `batch_size=None` all runs may be one)"
    return None


def _values(bench: Bench) -> dict[str, Tensor]:
    """g and F of all runs, by the names of the problem's functions."""
    at = (bench.body, bench.head, bench.rows)
    return {
        "head_objective": bench.oracles.head_value(*at),
        "body_objective": bench.oracles.body_value(*at),
    }


def _check_finite(bench: Bench) -> Finding:
    """Values at random points."""
    for name, value in _values(bench).items():
        require(
            value.isfinite().all(),
            f"`{name}` of {bench.name} is {value.tolist()} at {RUNS} initial bodies and random "
            "heads; it must be finite on the whole of the sets. Check logarithms, roots and "
            "divisions, or bound the levels with `body_set`, `head_set`.",
        )
    equal = "F is g" if bench.problem.is_stackelberg else "F is not g"
    return Finding("objectives", f"finite at {RUNS} random points; {equal}")


def _check_many(bench: Bench) -> Finding:
    """Values of many runs at once against single calls of the problem's functions."""
    worst = 0.0
    for name, together in _values(bench).items():
        function, looped = getattr(bench.problem, name), []
        for run in range(RUNS):
            one = bench.alone(run)
            at = (one.body, one.head, one.rows.of_runs(1))
            with torch.no_grad():
                looped.append(function(*(trees.take(tree, 0) for tree in at)))
        off = gap(together, torch.stack(looped))
        require(
            off < 1e-10,
            f"`{name}` of {bench.name} gives other values under `torch.func.vmap` than alone: they "
            f"differ by {off:.1e}. Something in it depends on the number of runs: sums over all "
            "axes, batch statistics, or shapes read as numbers.",
        )
        worst = max(worst, off)
    return Finding("many runs at once", f"equal single runs up to {worst:.0e}")


def _check_convexity(bench: Bench) -> Finding:
    """The Hessian of g in the head is positive definite; g is convex along random segments."""
    oracles = bench.oracles
    other = random_like(bench.head, generator(0, "segments"))
    other = bench.problem.head_set.project(add(bench.head, other, 2.0))
    step = add(other, bench.head, -1.0)
    slopes = [oracles.head_gradient(bench.body, at, bench.rows) for at in (bench.head, other)]
    length = trees.dot(step, step).clamp(min=1e-300)
    rise = trees.dot(add(slopes[1], slopes[0], -1.0), step) / length
    moved = trees.norm(step) > 0
    remedy = (
        "The best response is unique, and has a derivative, only if g is strongly convex in the "
        "head for every body: add a ridge, or check a sign."
    )
    require(
        (rise[moved] > 0).all(),
        f"g of {bench.name} is not strongly convex in the head: along a random segment its slope "
        f"rises by {float(rise[moved].min()) if bool(moved.any()) else 0.0:.1e} per unit. {remedy}",
    )
    size = trees.flatten(bench.head).shape[1]
    if size > LARGEST_HESSIAN:
        return Finding("strong convexity", f"along {RUNS} random segments (head of {size} numbers)")
    hessians = [oracles.head_hessian(bench.body, at, bench.rows) for at in (bench.head, other)]
    values = torch.linalg.eigvalsh(torch.stack(hessians))
    smallest, largest = float(values.min()), float(values.abs().max())
    require(
        smallest > 10 * size * torch.finfo(torch.float64).eps * largest,
        f"g of {bench.name} is not strongly convex in the head: the eigenvalues of its Hessian "
        f"reach from {smallest:.1e} to {largest:.1e} at random points. {remedy}",
    )
    return Finding(
        "strong convexity", f"eigenvalues of the head's Hessian in [{smallest:.2g}, {largest:.2g}]"
    )


def _check_noise(bench: Bench) -> Finding | None:
    """Mean zero, and from the generator only."""
    problem = bench.problem
    blocks = [problem.noise(generator(0, "noise", block), BLOCK) for block in range(16)]
    if blocks[0] is None:
        return None
    require(
        trees.equal(blocks[0], problem.noise(generator(0, "noise", 0), BLOCK)),
        f"`noise` of {bench.name} gives two different draws for one generator. Draw with "
        "`generator=generator`, and with nothing else.",
    )
    require(
        not trees.equal(blocks[0], blocks[1]),
        f"`noise` of {bench.name} ignores its generator: every block of steps has the same noise.",
    )
    worst = 0.0
    for leaf in trees.leaves(trees.join(blocks)):
        deviation = leaf.double().std(0) / len(leaf) ** 0.5
        ratio = (leaf.double().mean(0).abs() / deviation.clamp(min=1e-300)).max()
        worst = max(worst, float(ratio))
    require(
        worst < 6,
        f"The mean of `noise` of {bench.name} is {worst:.1f} standard errors away from zero over "
        f"{16 * BLOCK} draws. Evaluations see zeros in its place, so it must have mean zero: move "
        "its mean into the objective.",
    )
    return Finding("noise", f"its mean is within {worst:.1f} standard errors of zero")


def _check_metrics(bench: Bench) -> Finding:
    """Finite 0-dim tensors."""
    problem = bench.problem
    data = check_groups(problem.data(0 if problem.redraws_data else None))
    data = trees.cast(data, torch.float64)
    data = numbered(data, tasks=has_tasks(problem)) if asks_row_numbers(problem) else data
    found: dict[str, Tensor] = {}
    known: dict[str, Tensor] = {}
    one = bench.alone(0)
    at = trees.take(one.body, 0), trees.take(one.head, 0)
    for some in by_tasks(data) if has_tasks(problem) else [data]:
        groups = trees.take(some, 0) if has_tasks(problem) else some
        found |= problem.metrics(*at, groups)
        if isinstance(problem, LinearHeadProblem):
            known |= LinearHeadProblem.metrics(problem, *at, groups)
    for name, value in found.items():
        require(
            isinstance(value, Tensor) and value.ndim == 0 and bool(value.isfinite()),
            f"The metric {name!r} of {bench.name} must be a finite 0-dim tensor, got {value!r}.",
        )
    kind = "of the criterion" if known else "of its own"
    doubts = check_units(bench.name, found, known)
    return Finding("metrics", f"{', '.join(found)} ({kind}){doubts}" if found else "none")
