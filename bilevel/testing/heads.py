"""Does a head solver keep its contract?"""

import dataclasses
from typing import NamedTuple

from torch import Tensor

from bilevel import trees
from bilevel.core.checks import check_instance, single
from bilevel.core.graph import ordinary
from bilevel.core.status import Status
from bilevel.errors import IncompatibleError
from bilevel.heads import AbstractHeadSolver, HeadSolution
from bilevel.problem.base import StackelbergProblem
from bilevel.problem.sets import Everywhere
from bilevel.testing.bench import RUNS, Bench
from bilevel.testing.finding import (
    Finding,
    add,
    check_codes,
    check_like,
    check_run_axis,
    distance,
    gap,
    gap_of_others,
    refusals,
    require,
    spoiled,
    unchanged,
)
from bilevel.testing.quadratics import quadratics

SET_STEP = 1e-2


class _Solved(NamedTuple):
    """Heads of a bench as a solver left them."""

    bench: Bench
    solution: HeadSolution
    codes: list[Status]


@ordinary()
def check_head_solver(
    solver: AbstractHeadSolver,
    problem: StackelbergProblem | None = None,
    *,
    tolerance: float = 1e-6,
) -> list[Finding]:
    r"""Check a head solver, in float64 and with all rows.

    The residual must be $\lVert\partial_\theta g\rVert$ at the head that is returned, and small
    where the status says CONVERGED; no head may be worse than the start. Many runs must equal
    single runs, a run that is not a number must harm no other, arguments must be left as they are,
    and a solve that starts from its own solution must keep it.

    Args:
        solver: with plain numbers; one that draws rows on its own needs `batch_size=None` here.
        problem: what to solve; None: small quadratic heads (a number, vectors, a tree, two linear
            heads), those that the solver does not refuse.
        tolerance: the largest $\lVert\partial_\theta g\rVert$ of heads called CONVERGED, relative
            to the start.

    Returns:
        What was looked at.

    Raises:
        CheckError: the first thing that is wrong.

    Examples:
        >>> import bilevel
        >>> from bilevel.testing import check_head_solver
        >>> len(check_head_solver(bilevel.ClosedForm()))    # one finding for each problem
        6
    """
    with refusals():
        tolerance = single(tolerance, "`tolerance`")
        check_instance(problem, StackelbergProblem | None, "problem", "an instance of yours")
        check_instance(solver, AbstractHeadSolver, "solver", "ClosedForm()")
        found, refused = [], []
        for one in quadratics() if problem is None else [problem]:
            try:
                solver.check(one)
            except IncompatibleError as error:
                refused.append(f"{type(one).__name__}: {error}")
                continue
            found.append(_check_on(solver, Bench.of(one), tolerance))
        require(bool(found), f"{type(solver).__name__} refuses every problem. {' '.join(refused)}")
        return found


def _check_on(solver: AbstractHeadSolver, bench: Bench, tolerance: float) -> Finding:
    name = f"{type(solver).__name__} on {bench.name}"
    solved = _solve(solver, bench, name)
    worst = _check_residual(solver, solved, name, tolerance)
    _check_warm_start(solver, solved, name)
    apart = _check_runs(solver, solved, name)
    names = ", ".join(sorted({code.name for code in solved.codes}))
    return Finding(
        bench.name, f"{names}; |d_theta g| at most {worst:.0e} of the start; runs alone {apart:.0e}"
    )


def _solve(
    solver: AbstractHeadSolver, bench: Bench, name: str, state: object = None, k: int = 0
) -> _Solved:
    """The heads, in form."""
    at = (bench.oracles, bench.body, bench.head, bench.rows)
    with unchanged(name, body=bench.body, head=bench.head):
        memory = solver.init(*at) if k == 0 else state
        solution = solver.solve(*at, memory, k)
    require(
        isinstance(solution, HeadSolution),
        f"{name} must return a `bilevel.heads.HeadSolution`, got {type(solution).__name__}.",
    )
    runs = len(trees.leaves(bench.head)[0])
    check_like(solution.head, bench.head, f"`head` of {name}")
    codes = check_codes(solution.status, runs, name)
    require(
        isinstance(solution.residual, Tensor) and solution.residual.shape == (runs,),
        f"`residual` of {name} must have shape ({runs},), got {solution.residual!r}.",
    )
    if runs > 1:
        check_run_axis(solution.state, runs, name)
    return _Solved(bench, solution, codes)


def _slope(bench: Bench) -> Tensor:
    """|d_theta g|, or with a set of heads the norm of the gradient mapping, (R,)."""
    slope = bench.oracles.head_gradient(bench.body, bench.head, bench.rows)
    head_set = bench.problem.head_set
    if isinstance(head_set, Everywhere):
        return trees.norm(slope)
    moved = head_set.project(add(bench.head, slope, -SET_STEP))
    return distance(bench.head, moved) / SET_STEP


def _check_residual(
    solver: AbstractHeadSolver, solved: _Solved, name: str, tolerance: float
) -> float:
    """The residual is that of the head, and small where it must be; the largest relative one."""
    bench, solution, codes = solved
    start, true = _slope(bench), _slope(dataclasses.replace(bench, head=solution.head))
    own_objective = solver.uses_batch and not solver.exact  # averages over batches, say
    for run, code in enumerate(codes):
        if code.failed or own_objective:
            continue
        told = solution.residual[run]
        honest = not isinstance(bench.problem.head_set, Everywhere) or bool(
            (told - true[run]).abs() <= 1e-6 * true[run] + 1e-10 * start[run]
        )
        require(
            honest,
            f"{name} returns residual {float(told):.2e} in run {run}, but |d_theta g| at the head "
            f"it returns is {float(true[run]):.2e}. Compute it from that head, on `rows.full`: "
            "certificates are made from it.",
        )
        require(
            code is not Status.CONVERGED or bool(true[run] <= tolerance * start[run]),
            f"{name} says CONVERGED in run {run}, but |d_theta g| at its head is "
            f"{float(true[run]):.2e}, which is {float(true[run] / start[run]):.1e} of that at the "
            f"start; at most {tolerance:.0e} was expected. Say NOT_CONVERGED where the stopping "
            "rule is not met, or pass the `tolerance` that the solver has.",
        )
        require(
            true[run] <= 1.01 * start[run] + 1e-12,
            f"{name} makes the head of run {run} worse, with status {code.name}: |d_theta g| rises "
            f"from {float(start[run]):.2e} to {float(true[run]):.2e}. Use a smaller step size "
            "(below 2 / L), or look at a sign.",
        )
    return float((true / start).nan_to_num().max())


def _check_warm_start(solver: AbstractHeadSolver, solved: _Solved, name: str) -> None:
    """From its own solution, with its own state, a solver that converged stays."""
    bench, solution, codes = solved
    warm = dataclasses.replace(bench, head=solution.head)
    _, again, now = _solve(solver, warm, name, solution.state, k=1)
    for run, code in enumerate(codes):
        if code is not Status.CONVERGED:
            continue
        rise = float(again.residual[run] - solution.residual[run])
        require(
            now[run] is Status.CONVERGED and rise <= 1e-9 + 10 * float(solution.residual[run]),
            f"{name} leaves its own solution: started from it, run {run} ends with "
            f"{now[run].name} and a residual of {float(again.residual[run]):.1e}, after "
            f"{float(solution.residual[run]):.1e}. Start from `head`, and check what the state "
            "carries over.",
        )


def _check_runs(solver: AbstractHeadSolver, solved: _Solved, name: str) -> float:
    """Runs do not interact; how far they are apart."""
    (bench, solution, codes), worst = solved, 0.0
    for run in range(RUNS):
        _, alone, now = _solve(solver, bench.alone(run), name)
        expected = trees.part(solution.head, slice(run, run + 1))
        worst = max(worst, gap(alone.head, expected))
        require(
            now[0] is codes[run],
            f"{name} says {now[0].name} for run {run} alone and {codes[run].name} among others.",
        )
    require(
        worst < 1e-8,
        f"{name} gives other heads for a run alone than among others: they differ by {worst:.1e}. "
        "A step size, a stopping rule or a norm is shared by the runs: reduce over all axes but "
        "the first, and let finished runs stand still.",
    )
    memory = solver.init(bench.oracles, bench.body, bench.head, bench.rows)
    body = spoiled(bench.body)
    mixed = solver.solve(bench.oracles, body, bench.head, bench.rows, memory, 0)
    status = check_codes(mixed.status, RUNS, name)
    require(
        status[1].failed and [status[0], status[2]] == [codes[0], codes[2]],
        f"{name} gives {[code.name for code in status]} when the body of run 1 is NaN; expected "
        f"DIVERGED there and {codes[0].name}, {codes[2].name} in the others.",
    )
    off = gap_of_others(mixed.head, solution.head)
    require(
        off < 1e-8,
        f"{name}: a body of NaN in run 1 changes the heads of the others by {off:.1e}. Mask failed "
        "runs before batched factorisations, and reduce over all axes but the first.",
    )
    return worst
