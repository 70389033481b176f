"""Does a hypergradient return grad Phi?"""

from collections.abc import Iterable, Iterator

from bilevel import trees
from bilevel.core.checks import check_instance, single
from bilevel.core.generators import generator
from bilevel.core.graph import ordinary
from bilevel.core.status import Status
from bilevel.errors import IncompatibleError
from bilevel.heads import AbstractHeadSolver
from bilevel.heads.default import default_solver
from bilevel.hypergradients import AbstractHypergradient, Answer, BodyGradient
from bilevel.problem.base import StackelbergProblem
from bilevel.testing.bench import RUNS, Bench, directions
from bilevel.testing.derivatives import differences, repeat
from bilevel.testing.finding import (
    Finding,
    add,
    check_codes,
    check_like,
    gap,
    gap_of_others,
    refusals,
    require,
    spoiled,
    unchanged,
)
from bilevel.testing.quadratics import quadratics
from bilevel.trees import Tree


@ordinary()
def check_hypergradient(
    method: AbstractHypergradient,
    solver: AbstractHeadSolver | None = None,
    *,
    problems: Iterable[StackelbergProblem] | None = None,
    tolerance: float = 1e-6,
) -> list[Finding]:
    r"""Check a hypergradient against central differences of $\Phi$, in float64 and with all rows.

    $\Phi(w) = F(w, \theta^*(w))$, the head solved again at every point: by the library's own exact
    solver where there is one for the problem, else by `solver`. Many runs must equal single runs,
    a run that is not a number must harm no other, arguments must be left as they are.

    With a problem of your own it checks the problem as well: the objectives, their derivatives, and
    that the head is solved.

    Args:
        method: the hypergradient.
        solver: of the heads it is taken at; None: the library's own exact one.
        problems: of your own; None: small quadratic ones, those that method and solver do not
            refuse. In all but one of them F is not g.
        tolerance: the largest error, relative to the largest entry of the gradient; more for
            truncated methods.

    Returns:
        What was looked at.

    Raises:
        CheckError: the first thing that is wrong.

    Examples:
        >>> import bilevel
        >>> from bilevel.testing import check_hypergradient
        >>> [finding.what for finding in check_hypergradient(bilevel.Envelope())]
        ['TanhFeatures']
        >>> len(check_hypergradient(bilevel.Implicit(bilevel.CG())))
        6
    """
    with refusals():
        tolerance = single(tolerance, "`tolerance`")
        check_instance(problems, list | tuple | Iterator | None, "problems", "[problem]")
        check_instance(method, AbstractHypergradient, "method", "Implicit()")
        found, refused = [], []
        for problem in quadratics() if problems is None else problems:
            check_instance(problem, StackelbergProblem, "problems", "an instance of your problem")
            try:
                own = default_solver(problem) if solver is None else solver
                check_instance(own, AbstractHeadSolver, "solver", "ClosedForm()")
                own.check(problem)
                method.check(problem, own)
            except IncompatibleError as error:
                refused.append(f"{type(problem).__name__}: {error}")
                continue
            found.append(_check_on(method, own, Bench.of(problem), tolerance))
        require(bool(found), f"{type(method).__name__} refuses every problem. {' '.join(refused)}")
        return found


def _check_on(
    method: AbstractHypergradient, solver: AbstractHeadSolver, bench: Bench, tolerance: float
) -> Finding:
    name = f"{type(method).__name__} on {bench.name}"
    gradient, codes = _gradient(method, solver, bench, name)
    reference, worst = bench.reference(solver), 0.0
    for run in range(RUNS):
        one = bench.alone(run)
        of_run = trees.part(gradient.body, slice(run, run + 1))
        error, claimed, along = _error(one, reference, of_run, run)
        direct = one.oracles.direct_gradient(one.body, one.solved(reference), one.rows)
        lacking = "" if error < tolerance else _hint(of_run, direct, bench)
        require(
            error < tolerance,
            f"{name} differs from central differences of Phi by {error:.1e} in run {run}, relative "
            f"to the largest entry, with status {codes[run].name}; at most {tolerance:.0e} was "
            f"expected. Along the first direction it is {claimed:.6g} and should be "
            f"{along:.6g}.{lacking}",
        )
        worst = max(worst, error)
    _check_runs(method, solver, bench, gradient, name)
    return Finding(bench.name, f"equal central differences of Phi up to {worst:.0e}")


def _gradient(
    method: AbstractHypergradient,
    solver: AbstractHeadSolver,
    bench: Bench,
    name: str,
    body: Tree = None,
) -> tuple[BodyGradient, list[Status]]:
    """The gradients at the bodies of the bench (or at others, after the same start), in form."""
    oracles, rows, start = bench.oracles, bench.rows, bench.head
    memory = solver.init(oracles, bench.body, start, rows)
    first = solver.solve(oracles, bench.body, start, rows, memory, 0)
    made = method.init(oracles, bench.body, first.head, rows)
    at = bench.body if body is None else body
    solved = first if body is None else solver.solve(oracles, at, start, rows, memory, 0)
    answer = Answer(solved.head, solver, start, 0, solved.factor)
    with unchanged(name, body=at, head=solved.head):
        found = method.gradient(oracles, at, answer, rows, made)
    require(
        isinstance(found, BodyGradient),
        f"{name} must return a `bilevel.BodyGradient`, got {type(found).__name__}.",
    )
    check_like(found.body, bench.body, f"`body` of {name}")
    return found, check_codes(found.status, len(trees.leaves(bench.body)[0]), name)


def _error(
    one: Bench, reference: AbstractHeadSolver, gradient: Tree, run: int
) -> tuple[float, float, float]:
    """How far the gradient of one run is off; its slope along the first direction, and Phi's."""
    moves = directions(trees.take(one.body, 0), generator(run, "directions"))
    claimed, body = trees.dot(repeat(gradient, moves), moves), repeat(one.body, moves)
    error, found = differences(lambda move: one.at(add(body, move)).phi(reference), moves, claimed)
    return error, float(claimed[0]), float(found[0])


def _hint(gradient: Tree, direct: Tree, bench: Bench) -> str:
    """What the error looks like."""
    if not bench.problem.is_stackelberg and gap(gradient, direct) < 1e-6:
        return (
            " It equals d_w F alone: the implicit term -(d2_{w theta} g)(d2_{theta theta} g)^{-1} "
            "d_theta F is missing, or its sign of life is lost by a `detach`."
        )
    return (
        " Look at the head (is it solved well enough?), the sign and the transpose of the implicit "
        "term, and the tolerance of the linear solve."
    )


def _check_runs(
    method: AbstractHypergradient,
    solver: AbstractHeadSolver,
    bench: Bench,
    together: BodyGradient,
    name: str,
) -> None:
    """Runs do not interact."""
    for run in range(RUNS):
        alone, _ = _gradient(method, solver, bench.alone(run), name)
        off = gap(alone.body, trees.part(together.body, slice(run, run + 1)))
        require(
            off < 1e-7,
            f"{name} gives another gradient for run {run} alone than among others: they differ by "
            f"{off:.1e}. Reduce over all axes but the first (`trees.dot`, `trees.norm`).",
        )
    mixed, _ = _gradient(method, solver, bench, name, spoiled(bench.body))
    off = gap_of_others(mixed.body, together.body)
    require(
        off < 1e-7,
        f"{name}: a body of NaN in run 1 changes the gradients of the others by {off:.1e}. Mask "
        "failed runs, and reduce over all axes but the first.",
    )
