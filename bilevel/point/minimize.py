"""`minimize`: the lowest Phi between bounds, without rates."""

from collections.abc import Callable

import numpy as np
import torch
from scipy import optimize

from bilevel import trees
from bilevel.core.checks import (
    check_flag,
    check_function,
    check_instance,
    check_positive_integer,
    check_seed,
    float_type,
    single,
)
from bilevel.core.graph import ordinary
from bilevel.core.memory import says_memory
from bilevel.core.progress import training_shown
from bilevel.core.status import Status
from bilevel.data.groups import check_groups
from bilevel.data.numbered import asks_row_numbers, numbered
from bilevel.data.tasks import has_tasks
from bilevel.data.training_data import TrainingData
from bilevel.errors import AllRunsFailedError, IncompatibleError, ShapeError, check_name
from bilevel.heads import AbstractHeadSolver
from bilevel.hypergradients import AbstractHypergradient, Envelope, Implicit
from bilevel.point.lowest import (
    METHODS,
    UNBOUNDED,
    Evaluate,
    Lowest,
    Vector,
    lowest,
    projected_norm,
)
from bilevel.point.minimum import Minimum, at_bounds
from bilevel.point.single import Single
from bilevel.point.walk import Walk
from bilevel.problem.base import Groups, StackelbergProblem
from bilevel.problem.sets import Everywhere
from bilevel.trees import Tree

Callback = Callable[[int, dict[str, float]], object]


@says_memory
@ordinary()
def minimize(
    problem: StackelbergProblem,
    body: Tree = None,
    method: str = "L-BFGS-B",
    *,
    gradient: AbstractHypergradient | None = None,
    solver: AbstractHeadSolver | None = None,
    batch: Groups | None = None,
    seed: int = 0,
    max_iterations: int = 200,
    tolerance: float = 1e-8,
    dtype: torch.dtype = torch.float64,
    callback: Callback | None = None,
    progress: bool = False,
    throw: bool = True,
) -> Minimum:
    r"""The lowest point, by `scipy.optimize.minimize` and exact gradients.

    $$\min_{w \in W} \Phi(w), \qquad \Phi(w) = F(w, \theta^*(w))$$

    No rates: for problems without noise whose $\Phi$ is smooth and whose body is small, penalties
    for example. All rows are seen at every evaluation, which is that of `hypergradient`; heads
    start from the last ones, with the factor that the solver kept. Where `body_set` is a `Box`,
    `Nonnegative` or another set with `bounds`, these are scipy's bounds.

    A body whose head or value is not finite is avoided: line searches come back from it. Returned
    is the lowest of all bodies that were looked at. `noise` is taken to be zero, as in records.

    Args:
        problem: the problem.
        body: where to start, a tree without a run axis, projected onto `body_set`; None: the
            problem's `init_body`.
        method: "L-BFGS-B", "TNC" or "SLSQP"; where there are no bounds also "BFGS" or "CG".
        gradient: None: `Envelope` where F is g, else `Implicit`.
        solver: of the head; None: what is exact for the criterion and the set of heads.
        batch: row groups; None: all rows of `problem.data`.
        seed: of `init_body`, `init_head` and, if they are redrawn, the data.
        max_iterations: at most so many.
        tolerance: of $\lVert w - P(w - \nabla\Phi)\rVert$, $P$ the projection onto `body_set`,
            relative to its value at the start. What the rounding of F hides is not asked for.
        dtype: of the computation.
        callback: called as `callback(iteration, values)` at the start and after each iteration,
            with "value" and "gradient_norm".
        progress: show a bar (by rich).
        throw: raise where there is no finite value and gradient at the start.

    Returns:
        The lowest point, with its head and a certificate. Ctrl-C ends the search early.

    Raises:
        AllRunsFailedError: no finite value at the start, and `throw` is set; it carries the result.
        SingularHeadError: the head of the start has no unique minimiser.
        IncompatibleError: `body_set` has no bounds, the method takes none, or the gradient would be
            wrong for this problem.

    Source: Pedregosa 2016 (arXiv 1602.02355), with exact heads. Differs from the source in: 1. a
    quasi-Newton method of scipy in the place of gradient steps.

    Examples:
        >>> import bilevel
        >>> from problems.toy import ScalarProduct
        >>> found = bilevel.minimize(ScalarProduct())
        >>> round(float(found.body), 6), found.status.name
        (1.470469, 'CONVERGED')
    """
    check_instance(problem, StackelbergProblem, "problem", "an instance of your problem")
    check_name(method, METHODS, "method")
    check_seed(seed, "`seed`")
    check_positive_integer(max_iterations, "`max_iterations`")
    tolerance = single(tolerance, "`tolerance`")
    check_flag(throw, "throw")
    if callback is not None:
        check_function(callback, "callback", "callback(iteration, values)", 2)
    dtype, device = float_type(dtype), torch.device("cpu")
    if body is not None:
        trees.check(body, "body", ShapeError)
        device = trees.leaves(body)[0].device
    if batch is None and problem.redraws_data:
        drawn = {name: rows for name, rows in problem.data(seed).items() if name != "test"}
        # they are the problem's own rows, which know their numbers, unlike those of a caller
        batch = check_groups(drawn)
        if asks_row_numbers(problem):
            batch = numbered(batch, tasks=has_tasks(problem))
    data = TrainingData(problem, [seed], dtype, device, groups=batch)
    walk = Walk(data, body, solver, gradient)
    bounds = _box(problem, walk.start, method)
    with training_shown(progress, "iterations") as show:

        def told(done: int, value: float, norm: float) -> None:
            if show is not None:
                show(f"{method}, F = {value:.6g}", done, max_iterations)
            if callback is not None:
                callback(done, {"value": value, "gradient_norm": norm})

        found = lowest(
            _evaluated(walk), _vector(walk.start), bounds, method,
            tolerance=tolerance, most=max_iterations, told=told,
        )  # fmt: skip
    made = _certified(walk, found, batch, int(seed), bounds)
    if throw and made.status.failed:
        raise AllRunsFailedError(
            f"There is no finite value at the start. {made.status.message} Pass another `body`, or "
            "`throw=False` to look at what there is.",
            made,
        )
    return made


def _box(problem: StackelbergProblem, body: Tree, method: str) -> optimize.Bounds | None:
    """The set of bodies as bounds of vectors.

    Raises:
        IncompatibleError: it has none, or the method takes none.
    """
    convex, name = problem.body_set, type(problem).__name__
    if isinstance(convex, Everywhere):
        return None
    found = convex.bounds(body)
    if found is None:
        raise IncompatibleError(
            f"The bodies of {name} lie in {convex}, and the methods of scipy hold bounds of single "
            "numbers only. Use `solve` with BestResponse, which projects after each step, or a "
            "Box, Nonnegative or the whole space with a penalty."
        )
    if method in UNBOUNDED:
        raise IncompatibleError(
            f'"{method}" of scipy takes no bounds, but the bodies of {name} lie in {convex}. Use '
            '"L-BFGS-B", "TNC" or "SLSQP".'
        )
    whole = (trees.tree_map(lambda like, end: end.expand_as(like), body, ends) for ends in found)
    low, high = map(_vector, whole)
    return optimize.Bounds(low, high)


def _vector(tree: Tree) -> Vector:
    """All numbers of a tree, (P,)."""
    found: Vector = trees.flatten(trees.single(tree))[0].double().cpu().numpy()
    return found


def _tree(vector: Vector, like: Tree) -> Tree:
    """The inverse."""
    leaf = trees.leaves(like)[0]
    flat = torch.from_numpy(np.array(vector)).to(leaf).unsqueeze(0)
    return trees.take(trees.unflatten(flat, trees.single(like)), 0)


def _evaluated(walk: Walk) -> Evaluate:
    """Phi and its gradient as functions of a vector."""

    def evaluate(vector: Vector) -> tuple[float, Vector]:
        step = walk(_tree(vector, walk.start))
        return step.value, _vector(step.slope)

    return evaluate


def _certified(
    walk: Walk, found: Lowest, batch: Groups | None, seed: int, bounds: optimize.Bounds | None
) -> Minimum:
    """The end of a search, with the bounds of head and gradient there."""
    problem, convex = walk.problem, walk.problem.body_set
    usable = found.status is not Status.DIVERGED
    one = convex.project(trees.single(_tree(found.spot.point, walk.start)))
    body = trees.take(one, 0)
    # heads that are not exact depend on where they start: where those of the search did
    point = Single(problem, body, batch, walk.solver, None, seed=seed)
    with point.sharing():
        made = point.gradient(walk.method, usable)
    push = trees.single(trees.tree_map(torch.neg, made.body))
    norm = projected_norm(_vector(body), _vector(made.body), bounds)
    held = None
    if not isinstance(convex, Everywhere):
        held = trees.tree_map(lambda free: ~free[0], convex.free(one, push))
    message, status = found.message, found.status
    if (
        status is Status.STALLED
        and made.bound >= norm
        and not isinstance(walk.method, Envelope | Implicit)
    ):
        message += (
            f" {type(walk.method).__name__} is off by up to {made.bound:.2g}, which is more than "
            "is left of the gradient: line searches see that F does not fall along it. Use "
            "`gradient=None`, or a method with less error."
        )
    doubtful = made.status > Status.COMPLETED and made.status is not Status.CONVERGED
    values, norms = (
        torch.tensor([record[i] for record in found.history], dtype=torch.float64) for i in (0, 1)
    )
    return Minimum(
        body=body,
        head=made.response.head,
        value=made.value,
        gradient_norm=norm,
        gradient=made,
        at_bound=at_bounds(body, held),
        status=made.status if doubtful else status,
        message=message,
        iterations=max(0, len(values) - 1),
        head_solves=walk.solves,
        history={"value": values, "gradient_norm": norms},
    )
