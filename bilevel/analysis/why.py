"""What the report of a comparison says of why: curvatures and heads along its strategies."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch

from bilevel.analysis.curvatures import curvature
from bilevel.analysis.points import iterates
from bilevel.comparison.result import Comparison
from bilevel.comparison.statistics.costs import whole_steps
from bilevel.core.checks import check_instance, check_positive_integer
from bilevel.data.training_data import is_online
from bilevel.errors import ArgumentError, IncompatibleError, spell
from bilevel.problem.base import StackelbergProblem
from bilevel.storage.results import EXPLAINED
from bilevel.strategies import AbstractStrategy

SHARES = (0, 0.01, 0.05, 0.2, 0.5, 1)
"""Of the steps: where the training is looked at."""
TOLERANCE, PRODUCTS = 1e-3, 60
"""Of eigenvalues, which are there to be compared by eye."""


def explain(
    comparison: Comparison,
    problem: StackelbergProblem,
    strategies: Mapping[str, AbstractStrategy],
    *,
    seeds: int = 5,
) -> Comparison:
    """A comparison whose report has a section "Why": heads and curvatures along its strategies.

    They are trained once more, some seeds of them, as they were for the comparison.

    Args:
        comparison: of `compare`.
        problem: what was compared on.
        strategies: those that were compared, by their names, or some of them.
        seeds: how many of its seeds are looked at, the first ones.

    Returns:
        The comparison with what was found, which `report` writes and `load` reads.

    Raises:
        IncompatibleError: F is not g, or the problem has heads of tasks or an experience.
        ArgumentError: bad arguments; a strategy was not compared.

    Examples:
        >>> import bilevel
        >>> from bilevel import analysis
        >>> from problems.toy import scalar_product
        >>> both = {"slow": bilevel.uniform(0.01), "fast": bilevel.uniform(0.1)}
        >>> found = bilevel.compare(scalar_product(), both, steps=20, seeds=3)
        >>> found = analysis.explain(found, scalar_product(), both)
        >>> found.settings["why"]["steps"]["slow"]
        [0, 1, 4, 10, 20]
    """
    check_instance(comparison, Comparison, "comparison", "what `compare` returns")
    check_instance(problem, StackelbergProblem, "problem", "an instance of your problem")
    check_positive_integer(seeds, "`seeds`")
    check_explainable(problem)
    if not isinstance(strategies, Mapping) or not strategies:
        raise ArgumentError(
            f"`strategies` must be a dict of strategies by name, got {spell(strategies)}."
        )
    if unknown := [key for key in strategies if key not in comparison.strategies]:
        raise ArgumentError(f"`strategies` has {spell(unknown[0])}, which was not compared.")
    settings = comparison.settings
    some = settings["seeds"][:seeds]
    found: dict[str, Any] = {"seeds": some, "steps": {}, "values": {}}
    for name, strategy in strategies.items():
        budget = settings.get("budget", "steps")
        gradients = comparison.gradients_per_step[name]
        last = int(whole_steps(budget, comparison.steps, gradients)[-1])
        points = iterates(
            problem,
            strategy,
            at=sorted({round(share * last) for share in SHARES}),
            seeds=some,
            batch_size=settings.get("batch_size"),
            sampling=settings.get("sampling", "iid"),
            device=settings.get("device", "cpu"),
            dtype=getattr(torch, settings.get("dtype", "float32")),
        )
        curved = curvature(points, probes=1, tolerance=TOLERANCE, products=PRODUCTS)
        found["steps"][name] = list(points.steps)
        found["values"][name] = {key: _plain(curved.values[key].tolist()) for key in EXPLAINED}
    return dataclasses.replace(comparison, settings={**settings, "why": found})


def check_explainable(problem: StackelbergProblem) -> None:
    """Raise an `IncompatibleError` unless curvatures of the problem can be compared."""
    if is_online(problem.experience):
        raise IncompatibleError(
            f"{type(problem).__name__} has `experience`: its rows depend on what was learned. What "
            "explains a comparison are curvatures on rows that are the same for all strategies."
        )
    tasks = getattr(problem, "tasks", False) is not False
    if tasks or not problem.is_stackelberg:
        reason = "has a head for each task" if tasks else "overrides `body_objective`: F is not g"
        raise IncompatibleError(
            f"{type(problem).__name__} {reason}. What explains a comparison are curvatures of g "
            "and of Phi(w) = min g(w, .)."
        )


def _plain(rows: list[list[float]]) -> list[list[float | None]]:
    """Numbers as files hold them."""
    return [[value if math.isfinite(value) else None for value in row] for row in rows]
