"""Does a linear solver keep its contract?"""

import math

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.checks import check_instance, single
from bilevel.core.generators import generator
from bilevel.core.graph import ordinary
from bilevel.core.status import Status
from bilevel.linear import AbstractLinearSolver, LinearSolution, Operator
from bilevel.testing.finding import (
    Finding,
    check_codes,
    check_like,
    distance,
    refusals,
    require,
    unchanged,
)
from bilevel.trees import Tree

RUNS, SIZE, LARGEST = 3, 12, 2.0
GOOD = (Status.COMPLETED, Status.CONVERGED)


@ordinary()
def check_linear_solver(
    solver: AbstractLinearSolver, *, condition: float = 1e4, tolerance: float = 1e-6
) -> list[Finding]:
    r"""Check a linear solver on random systems, in float64.

    Symmetric positive definite ones with eigenvalues in [2 / condition, 2], an isotropic one, heads
    of one number with and without an axis, trees, a right side of zeros, a start; a run that is not
    a number among others that are; singular and indefinite systems, which must not be called
    solved. The residual must always be that of the value that is returned.

    Args:
        solver: the solver.
        condition: the largest condition number it is meant for.
        tolerance: the largest $\lVert Hv - b\rVert / \lVert b\rVert$ it should leave on those
            systems; 1 for a truncated one, which is then checked for being honest, not for being
            accurate.

    Returns:
        What was looked at.

    Raises:
        CheckError: the first thing that is wrong.

    Examples:
        >>> import bilevel
        >>> from bilevel.testing import check_linear_solver
        >>> [finding.what for finding in check_linear_solver(bilevel.CG())][:3]
        ['condition 1', 'condition 100', 'condition 10000']
    """
    with refusals():
        condition = single(condition, "`condition`")
        tolerance = single(tolerance, "`tolerance`")
        check_instance(solver, AbstractLinearSolver, "solver", "CG()")
        found = []
        for number in sorted({min(c, condition) for c in (1.0, 1e2, 1e4, condition)}):
            matrix = _matrix(torch.logspace(0, -math.log10(number), SIZE, dtype=torch.float64))
            worst = _check_solved(solver, matrix, _right(SIZE), f"condition {number:g}", tolerance)
            found.append(Finding(f"condition {number:g}", f"|H v - b| / |b| at most {worst:.0e}"))
        found += _check_shapes(solver, tolerance)
        found.append(_check_zeros(solver))
        found.append(_check_start(solver, condition))
        found.append(_check_runs(solver))
        found += [_check_unsolvable(solver, kind) for kind in ("singular", "indefinite")]
        return found


def _matrix(values: Tensor) -> Tensor:
    """Random symmetric matrices (R, P, P) with the eigenvalues 2 * values (P,)."""
    size = len(values)
    source = generator(size, "systems")
    drawn = torch.randn(RUNS, size, size, generator=source, dtype=torch.float64)
    basis = torch.linalg.qr(drawn)[0]
    matrix: Tensor = basis @ torch.diag(LARGEST * values.double()) @ basis.mT
    return 0.5 * (matrix + matrix.mT)


def _right(size: int) -> Tensor:
    """Right sides of different lengths, (R, P)."""
    drawn = torch.randn(RUNS, size, generator=generator(size, "right"), dtype=torch.float64)
    return drawn * torch.tensor([[1.0], [10.0], [1e-3]], dtype=torch.float64)


def _solve(
    solver: AbstractLinearSolver, matrix: Tensor, right: Tree, what: str, start: Tree | None = None
) -> tuple[LinearSolution, list[Status]]:
    """The solution, in form, and with a residual that is its own."""
    name = f"{type(solver).__name__} ({what})"
    with unchanged(name, right=right, start=start):
        solution = solver.solve(Operator.from_matrix(matrix, right), right, start)
    runs = len(matrix)
    require(
        isinstance(solution, tuple) and len(solution) == 3,
        f"{name} must return a `LinearSolution(value, residual, status)`, got {solution!r}.",
    )
    solution = LinearSolution(*solution)
    check_like(solution.value, right, f"`value` of {name}")
    codes = check_codes(solution.status, runs, name)
    residual = solution.residual
    require(
        isinstance(residual, Tensor) and residual.shape == (runs,),
        f"`residual` of {name} must have shape ({runs},), got {residual!r}.",
    )
    true = _residual(matrix, right, solution.value)
    size = torch.linalg.matrix_norm(matrix.nan_to_num(), 2) * trees.norm(solution.value)
    rounding = 1e-12 * (size + trees.norm(right)) + 1e-6 * true
    for run, code in enumerate(codes):
        if not bool(true[run].isfinite()):
            require(
                code not in GOOD,
                f"{name} says {code.name} in run {run}, but its value is not finite: say DIVERGED.",
            )
            continue
        require(
            (residual[run] - true[run]).abs() <= rounding[run],
            f"{name} returns residual {float(residual[run]):.2e} in run {run}, but |H v - b| of "
            f"the value it returns is {float(true[run]):.2e} (|b| = "
            f"{float(trees.norm(right)[run]):.2e}). Return the last iterate, and compute the "
            "residual from it: a recursion drifts away, and may be one step ahead.",
        )
    return solution, codes


def _residual(matrix: Tensor, right: Tree, value: Tree) -> Tensor:
    flat = trees.flatten(value).unsqueeze(2)
    found: Tensor = trees.norm((matrix @ flat).squeeze(2) - trees.flatten(right))
    return found


def _check_solved(
    solver: AbstractLinearSolver, matrix: Tensor, right: Tree, what: str, tolerance: float
) -> float:
    """All runs are solved; the largest relative residual."""
    solution, codes = _solve(solver, matrix, right, what)
    relative = _residual(matrix, right, solution.value) / trees.norm(right)
    good = (*GOOD, Status.ADJOINT_NOT_CONVERGED) if tolerance >= 1 else GOOD
    for run, code in enumerate(codes):
        # what says that it converged must have, however truncated it may be
        allowed = min(tolerance, 1e-2) if code is Status.CONVERGED else tolerance
        require(
            code in good and bool(relative[run] <= allowed),
            f"{type(solver).__name__} ({what}) leaves |H v - b| / |b| = {float(relative[run]):.1e} "
            f"with status {code.name} in run {run}, on a positive definite system. It should be at "
            f"most {allowed:.0e}, with CONVERGED or COMPLETED: give the solver more steps, or pass "
            "the `condition` and the `tolerance` it is meant for.",
        )
    return float(relative.max())


def _check_shapes(solver: AbstractLinearSolver, tolerance: float) -> list[Finding]:
    """Numbers, vectors of one number, and trees; float32."""
    numbers = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64).reshape(RUNS, 1, 1)
    matrix, many = _matrix(torch.linspace(1, 0.5, SIZE)), _right(SIZE)
    shapes: dict[str, tuple[Tensor, Tree]] = {
        "one number": (numbers, _right(1)),
        "0-dim head": (numbers, _right(1).squeeze(1)),
        "tree": (matrix, {"a": many[:, 0], "b": many[:, 1:].reshape(RUNS, 11, 1)}),
    }
    found = []
    for what, (system, side) in shapes.items():
        worst = _check_solved(solver, system, side, what, tolerance)
        found.append(Finding(what, f"|H v - b| / |b| at most {worst:.0e}"))
    single = solver.solve(Operator.from_matrix(matrix.float(), many.float()), many.float())
    check_like(single.value, many.float(), f"`value` of {type(solver).__name__} (float32)")
    found.append(Finding("float32", "in and out"))
    return found


def _check_zeros(solver: AbstractLinearSolver) -> Finding:
    """A right side of zeros is solved by zeros."""
    right = _right(SIZE)
    right[1] = 0.0
    solution, codes = _solve(solver, _matrix(torch.linspace(1, 0.5, SIZE)), right, "zeros")
    size = float(solution.value[1].norm())
    require(
        codes[1] in GOOD and size <= 1e-12,
        f"{type(solver).__name__} gives |v| = {size:.1e} and {codes[1].name} for b = 0, which is "
        "solved by zeros. Look for a division by |b| or by r'r.",
    )
    return Finding("right side of zeros", "solved by zeros")


def _check_start(solver: AbstractLinearSolver, condition: float) -> Finding:
    """From its own solution it stays where it is; from a start that is no number it recovers."""
    matrix, right = _matrix(torch.linspace(1, max(0.5, 1 / condition), SIZE)), _right(SIZE)
    first, before = _solve(solver, matrix, right, "no start")
    again, codes = _solve(solver, matrix, right, "start", first.value)
    size = trees.norm(right)
    bound = 1.01 * first.residual + 1e-12 * size
    require(
        max(codes) <= max(before) and bool((again.residual <= bound).all()),
        f"{type(solver).__name__} started from its own solution ends with |H v - b| = "
        f"{again.residual.tolist()} and {[code.name for code in codes]}, after "
        f"{first.residual.tolist()} from zeros: a start must not make it worse.",
    )
    return Finding("start", f"no worse than before: {float((again.residual / size).max()):.0e}")


def _check_runs(solver: AbstractLinearSolver) -> Finding:
    """Runs do not interact: many equal single ones, and a run without numbers harms no other."""
    matrix, right = _matrix(torch.linspace(1, 0.2, SIZE)), _right(SIZE)
    together, codes = _solve(solver, matrix, right, "many runs")
    worst = 0.0
    for run in range(RUNS):
        one = slice(run, run + 1)
        alone, _ = _solve(solver, matrix[one], right[one], "one run")
        size = together.value[one].norm()
        worst = max(worst, float(distance(alone.value, together.value[one]) / size))
    allowed = 1e-8
    require(
        worst <= allowed,
        f"{type(solver).__name__} gives other values for a run alone than among others: they "
        f"differ by {worst:.1e} of their size. A step size, a stopping rule or a norm is shared by "
        "the runs: reduce over all axes but the first (`trees.dot`, `trees.norm`).",
    )
    for part in ("matrix", "right"):
        bad = {"matrix": matrix.clone(), "right": right.clone()}
        bad[part][1, 0] = torch.nan
        mixed, now = _solve(solver, bad["matrix"], bad["right"], f"NaN in the {part}")
        require(
            now[1].failed and [now[0], now[2]] == [codes[0], codes[2]],
            f"{type(solver).__name__} gives {[code.name for code in now]} when the {part} of run 1 "
            f"is NaN and those of the others are not; expected DIVERGED in run 1 alone.",
        )
        others = torch.tensor([0, 2])
        off = distance(mixed.value[others], together.value[others]) / together.value[others].norm()
        require(
            (off <= allowed).all(),
            f"{type(solver).__name__}: a NaN in the {part} of run 1 changes the other runs. Mask "
            "finished and failed runs; reduce over all axes but the first.",
        )
    return Finding("runs", f"alone as among others up to {worst:.0e}; a NaN stays in its run")


def _check_unsolvable(solver: AbstractLinearSolver, kind: str) -> Finding:
    """What has no solution, or is no minimum, must not be called solved."""
    values = torch.linspace(1, 0.5, SIZE).double()
    values[-1] = 0.0 if kind == "singular" else -0.3
    right = _right(SIZE)
    solution, codes = _solve(solver, _matrix(values), right, kind)
    relative = solution.residual / trees.norm(right)
    for run, code in enumerate(codes):
        silent = code is Status.COMPLETED and not bool(relative[run] > 1e-6)
        require(
            code is not Status.CONVERGED and not silent,
            f"{type(solver).__name__} says {code.name} for a system that is {kind}, with "
            f"|H v - b| / |b| = {float(relative[run]):.1e}. The Hessian of a strongly convex head "
            f"is neither: return {'SINGULAR' if kind == 'singular' else 'INDEFINITE'}, or another "
            "status above COMPLETED.",
        )
    return Finding(f"{kind} systems", ", ".join(sorted({code.name for code in codes})))
