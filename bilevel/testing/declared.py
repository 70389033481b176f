"""What a problem says by names, overrides and units, and what its numbers say."""

import difflib

import torch
from torch import Tensor

from bilevel import trees
from bilevel.testing.bench import Bench
from bilevel.testing.calls import ROUNDED, same
from bilevel.testing.finding import Finding, require

ALIKE = 0.82
"""How much names are alike that are taken for one another."""
DIGITS = 1e-3
"""Of the spread of a column: what its rounding in float32 may take of it."""


def check_declared(bench: Bench) -> Finding | None:
    """An F that is g, or g and a term of the body alone, need not be written as another one."""
    if bench.problem.is_stackelberg:
        return None
    oracles, at = bench.oracles, (bench.body, bench.head, bench.rows)
    values = oracles.body_value(*at), oracles.head_value(*at)
    slopes = [trees.flatten(x) for x in (oracles.outer_gradient(*at), oracles.head_gradient(*at))]
    size = slopes[1].norm()
    if not bool(size > 0) or not bool((slopes[0] - slopes[1]).norm() <= ROUNDED * size):
        return None
    if bool((values[0] - values[1]).abs().max() <= ROUNDED * values[1].abs().max()):
        return Finding(
            "F and g",
            f"F equals g at {len(values[0])} random points, although `body_objective` is "
            "overridden. Leave it out: then gradients are Danskin's, exact without an adjoint",
        )
    return Finding(
        "F and g",
        f"F and g have the same derivative in the head at {len(values[0])} random points: they "
        "differ by a term of the body alone. Leave `body_objective` out and return the term from "
        "`body_penalty` (or add it to g): then gradients are Danskin's, exact without an adjoint",
    )


def check_names(bench: Bench) -> Finding | None:
    """Methods whose names are nearly those of hooks, which nothing calls."""
    kind = type(bench.problem)
    own = [base for base in kind.__mro__ if not base.__module__.startswith("bilevel.")]
    known = {name for base in kind.__mro__ if base not in own for name in dir(base)}
    hooks = [name for name in known if not name.startswith("_") and callable(getattr(kind, name))]
    defined = {name for base in own[:-1] for name in vars(base)}  # the last one is `object`
    told = []
    for name in sorted(defined - known):
        if name.startswith("_") or not callable(getattr(kind, name)):
            continue
        near = difflib.get_close_matches(name, set(hooks) - defined, 1, ALIKE)
        told += [f"`{name}` is no hook: did you mean `{near[0]}`?" for near in [near] if near]
    if not told:
        return None
    return Finding("names", f"{' '.join(told)} The library calls hooks by their exact names")


def check_digits(bench: Bench) -> Finding | None:
    """Columns that float32, in which trainings are by default, cannot tell apart."""
    eps, told = torch.finfo(torch.float32).eps, []
    for name, group in bench.rows.without("noise").groups.items():
        for place, leaf in trees.named_leaves(group):
            if not leaf.is_floating_point() or leaf.ndim == 0 or len(leaf) < 3:
                continue
            rows = leaf.flatten(0, 1) if bench.rows.axes[name] is not None else leaf
            columns = rows.reshape(len(rows), -1).double()
            spread, size = columns.std(0), columns.abs().amax(0)
            lost = int(((eps * size > DIGITS * spread) & (spread > 0)).sum())
            if lost:
                told.append(f'{lost} columns of data["{name}"]{place}')
    if not told:
        return None
    return Finding(
        "digits",
        f"{', '.join(told)} lie so far from zero that float32 leaves less than three digits of "
        "how they differ. Subtract their means (and divide by their deviations) in `data`, from "
        "numbers in float64; or train with `dtype=torch.float64`",
    )


def check_units(name: str, found: dict[str, Tensor], reference: dict[str, Tensor]) -> str:
    """Metrics whose values contradict their names; what is told of those of a criterion.

    Args:
        name: of the problem.
        found: its metrics.
        reference: those of its criterion on the same rows.

    Raises:
        CheckError: a value that nothing of that name can have.
    """
    for metric, value in found.items():
        number = float(value)
        wrong = None
        if metric.endswith("accuracy") and not 0 <= number <= 1:
            wrong = "an accuracy is a fraction, between 0 and 1"
        elif metric.endswith("r2") and number > 1:
            wrong = "R2 is at most 1"
        elif metric.endswith(("mse", "mae", "cross_entropy")) and number < 0:
            wrong = "it cannot be negative"
        require(
            wrong is None,
            f"The metric {metric!r} of {name} is {number:.4g}, but {wrong}. Return it in the units "
            "that its name stands for, or rename it: reports print and rank it by its name.",
        )
    off = {
        metric: (float(value), float(reference[metric]))
        for metric, value in found.items()
        if metric in reference and not same(float(value), float(reference[metric]))
    }
    return "".join(
        f". {metric!r} is {value:.4g} where the criterion has {other:.4g} under this name, as if "
        "in other units: rename it, or return the criterion's"
        for metric, (value, other) in off.items()
    )
