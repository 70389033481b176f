"""Which solver is exact for the heads of a problem: what None stands for."""

from bilevel import trees
from bilevel.core.generators import generator
from bilevel.core.optional import extra
from bilevel.errors import IncompatibleError, MissingPackageError, ProblemError
from bilevel.heads.base import AbstractHeadSolver
from bilevel.heads.closed_form import ClosedForm
from bilevel.heads.convex.solver import Cvxpy
from bilevel.heads.newton.solver import Newton
from bilevel.heads.projected.solver import ProjectedNewton, has_bounds
from bilevel.problem.base import StackelbergProblem
from bilevel.problem.linear_head import LinearHeadProblem
from bilevel.problem.sets import Everywhere

# made once: the compiler does not make parts
EXACT, NEWTON, BETWEEN_BOUNDS, CVXPY = ClosedForm(), Newton(), ProjectedNewton(), Cvxpy()


def default_solver(problem: StackelbergProblem) -> AbstractHeadSolver:
    """The solver that is exact for the heads of a problem and their set.

    Everywhere: `Newton` for linear heads whose criterion is not quadratic, else `ClosedForm`. In a
    `Box`, `Nonnegative` or another set with `bounds`: `ProjectedNewton`. In any other set: `Cvxpy`
    for linear heads; `ClosedForm`, which projects, for heads of one number.

    Raises:
        MissingPackageError: `Cvxpy` is needed, and cvxpy is not installed.
        IncompatibleError: no solver of this library is exact for such heads.
    """
    convex = problem.head_set
    curved = isinstance(problem, LinearHeadProblem) and not problem.criterion.quadratic
    if isinstance(convex, Everywhere):
        return NEWTON if curved else EXACT
    if has_bounds(convex):
        return BETWEEN_BOUNDS
    # the nearest point of an interval to the minimiser of a parabola is the one in the interval
    head = problem.init_head(generator(0, "head"))
    trees.check(head, "init_head()", ProblemError)
    if not curved and sum(leaf.numel() for leaf in trees.leaves(head)) == 1:
        return EXACT
    heads = f"The heads of {type(problem).__name__} lie in {convex}"
    remedy = "FastSGD(lr, steps, tolerance=1e-8), which projects, or another solver"
    if not isinstance(problem, LinearHeadProblem):
        raise IncompatibleError(
            f"{heads} and are not linear in features: no solver of this library is exact there. "
            f"Pass {remedy} as `solver`; or use a Box, which ProjectedNewton knows for any g."
        )
    try:
        extra("cvxpy", "cvxpy", "Cvxpy()")
    except MissingPackageError as error:
        raise MissingPackageError(
            f"{heads}, where only Cvxpy() is exact, and cvxpy is not installed. Run "
            f'`pip install "bilevel[cvxpy]"`, or pass {remedy} as `solver`.'
        ) from error
    return CVXPY
