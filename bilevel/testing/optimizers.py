"""Does an optimiser keep its contract?"""

import dataclasses

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core import parts
from bilevel.core.checks import check_instance
from bilevel.core.generators import generator
from bilevel.core.graph import ordinary
from bilevel.optimizers import AbstractOptimizer
from bilevel.testing.finding import (
    Finding,
    check_like,
    check_run_axis,
    gap,
    gap_of_others,
    random_like,
    refusals,
    require,
    unchanged,
)
from bilevel.trees import Tree

RUNS, STEPS = 3, 7


@ordinary()
def check_optimizer(optimizer: AbstractOptimizer) -> list[Finding]:
    """Check an optimiser on random gradients of trees, in float64.

    Many runs with a step size of their own each must equal single runs; arguments must be left as
    they are; the first step must descend; a run that is not a number must harm no other; states
    must have the run axis first, so that they can be cut and joined.

    Args:
        optimizer: with plain numbers.

    Returns:
        What was looked at.

    Raises:
        CheckError: the first thing that is wrong.

    Examples:
        >>> import bilevel
        >>> from bilevel.testing import check_optimizer
        >>> for finding in check_optimizer(bilevel.Adam()): print(finding.what)
        form
        descent
        runs
        a run that is no number
    """
    with refusals():
        check_instance(optimizer, AbstractOptimizer, "optimizer", "RMSProp()")
        require(
            dataclasses.is_dataclass(optimizer),
            f"{type(optimizer).__name__} must be a dataclass, with its numbers as fields: "
            "`@dataclasses.dataclass(frozen=True, eq=False)`. Runs with other numbers are stacked "
            "by them.",
        )
        start, gradients = _example()
        rates = torch.tensor([1e-3, 1e-2, 1e-1], dtype=torch.float64)
        return [
            _check_form(optimizer, start, gradients[0], rates),
            _check_descent(optimizer, start, gradients[0], rates),
            _check_runs(optimizer, start, gradients, rates),
            _check_isolation(optimizer, start, gradients, rates),
        ]


def _example() -> tuple[Tree, list[Tree]]:
    """Parameters with leaves (R,), (R, 4) and (R, 2, 3), and gradients of very unequal runs."""
    inner = {"matrix": torch.zeros(RUNS, 2, 3)}
    like = {"number": torch.zeros(RUNS), "vector": torch.zeros(RUNS, 4), "inner": inner}
    source = generator(0, "optimizer")
    scale = torch.tensor([1.0, 100.0, 1e-2], dtype=torch.float64)
    gradients = [
        trees.tree_map(lambda x: x * trees.per_run(scale, x), random_like(like, source))
        for _ in range(STEPS)
    ]
    return random_like(like, source), gradients


def _updated(
    optimizer: AbstractOptimizer, gradient: Tree, state: Tree, parameters: Tree, lr: Tensor | float
) -> tuple[Tree, Tree]:
    """One step whose arguments are looked at afterwards."""
    name = f"{type(optimizer).__name__}.update"
    with unchanged(name, gradient=gradient, state=state, parameters=parameters, lr=lr):
        made = optimizer.update(gradient, state, parameters, lr)
    require(
        isinstance(made, tuple) and len(made) == 2,
        f"{name} must return the new parameters and the new state, got {type(made).__name__}.",
    )
    return made


def _check_form(
    optimizer: AbstractOptimizer, start: Tree, gradient: Tree, rates: Tensor
) -> Finding:
    """Structure, shapes and types, in both precisions."""
    name = type(optimizer).__name__
    for dtype in (torch.float64, torch.float32):
        x, slope = trees.cast(start, dtype), trees.cast(gradient, dtype)
        state = optimizer.init(x)
        check_run_axis(state, RUNS, name)
        moved, after = _updated(optimizer, slope, state, x, rates.to(dtype))
        check_like(moved, x, f"The parameters of {name}.update")
        check_run_axis(after, RUNS, name)
        require(
            trees.same_structure(state, after),
            f"{name}.update returns a state of another structure than {name}.init: states are "
            "stacked and stored, so it must not change.",
        )
    return Finding("form", "structure, shapes and types are kept; nothing is changed in place")


def _check_descent(
    optimizer: AbstractOptimizer, start: Tree, gradient: Tree, rates: Tensor
) -> Finding:
    """The first step goes down."""
    moved, _ = _updated(optimizer, gradient, optimizer.init(start), start, rates)
    along = trees.dot(gradient, trees.tree_map(torch.sub, moved, start))
    require(
        (along < 0).all(),
        f"The first step of {type(optimizer).__name__} has the inner products {along.tolist()} "
        "with the gradients of the runs; they must be negative: x - lr * gradient.",
    )
    return Finding("descent", "the first step of every run goes down")


def _trained(
    optimizer: AbstractOptimizer, start: Tree, gradients: list[Tree], lr: Tensor | float
) -> Tree:
    state, at = optimizer.init(start), start
    for gradient in gradients:
        at, state = _updated(optimizer, gradient, state, at, lr)
    return at


def _check_runs(
    optimizer: AbstractOptimizer, start: Tree, gradients: list[Tree], rates: Tensor
) -> Finding:
    """Many runs with (R,) step sizes equal single runs with numbers."""
    together, worst = _trained(optimizer, start, gradients, rates), 0.0
    for run in range(RUNS):
        one = slice(run, run + 1)
        alone = _trained(
            parts.part(optimizer, one),
            trees.part(start, one),
            [trees.part(gradient, one) for gradient in gradients],
            float(rates[run]),
        )
        worst = max(worst, gap(alone, trees.part(together, one)))
    require(
        worst < 1e-10,
        f"{type(optimizer).__name__} moves a run alone otherwise than among others: they differ by "
        f"{worst:.1e} after {STEPS} steps. Runs must not interact, so reduce over all axes but the "
        "first (`trees.norm`), and shape numbers of runs with `trees.per_run(number, leaf)`.",
    )
    return Finding("runs", f"alone as among others up to {worst:.0e}, with a step size each")


def _check_isolation(
    optimizer: AbstractOptimizer, start: Tree, gradients: list[Tree], rates: Tensor
) -> Finding:
    """NaN in one run stays there."""
    bad = [trees.tree_map(torch.clone, gradient) for gradient in gradients]
    trees.leaves(bad[0])[1][1] = torch.nan
    good, mixed = (_trained(optimizer, start, slopes, rates) for slopes in (gradients, bad))
    require(
        gap_of_others(mixed, good) < 1e-10,
        f"A gradient of NaN in run 1 changes the other runs of {type(optimizer).__name__}: reduce "
        "over all axes but the first.",
    )
    return Finding("a run that is no number", "leaves the others as they are")
