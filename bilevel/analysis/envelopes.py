"""The Moreau envelope of Phi: how far a body is from stationary where Phi has kinks."""

import dataclasses

import torch
from torch import Tensor

from bilevel import trees
from bilevel.analysis.curving import ends
from bilevel.analysis.proximal import Domain, Minimum, minimise
from bilevel.analysis.reduced import Reduced
from bilevel.core.checks import check_instance, check_positive_integer, single
from bilevel.core.generators import generator
from bilevel.core.graph import ordinary
from bilevel.core.memory import says_memory
from bilevel.data.training_data import TrainingData
from bilevel.errors import ArgumentError, ShapeError
from bilevel.heads import AbstractHeadSolver
from bilevel.problem.base import StackelbergProblem
from bilevel.problem.sets import Everywhere
from bilevel.trees import Tree

LOOKED, NEAR = 6, 1e-3
"""Bodies at which rho is estimated, and how far from the first they are at first."""
ALONG = (0.25, 0.5, 1.5)
"""Where it is looked at again, from the body (0) to the proximal point (1) and past it."""
ROUNDS = 6


@dataclasses.dataclass(frozen=True, eq=False)
class MoreauEnvelope:
    r"""The Moreau envelope of $\Phi$ at one body.

    Attributes:
        value: $\Phi_l(w)$.
        gradient: (w - prox) / l, a tree like the body.
        norm: $\lVert\nabla\Phi_l(w)\rVert$, the measure of stationarity of theorem 3.6.
        prox: the proximal point, a tree like the body.
        l: of the envelope.
        rho: the weak convexity of $\Phi$ that was seen, or given: $l$ is below $1/\rho$.
        error: a bound on the distance between `prox` and the proximal point, as right as $\rho$ is;
            divided by l it is one on the error of `gradient`.
        converged: whether the error is as small as was asked for, or as rounding of $\Phi$ lets it
            be.
        steps: of L-BFGS and its cuts.

    Examples:
        >>> import torch
        >>> from bilevel import analysis
        >>> from problems.toy import ScalarProduct
        >>> found = analysis.moreau(ScalarProduct(), torch.tensor(1.0))
        >>> found.converged, found.norm > 0, found.l < 1 / found.rho
        (True, True, True)
    """

    value: float
    gradient: Tree
    norm: float
    prox: Tree
    l: float  # noqa: E741 - the name of the formula
    rho: float
    error: float
    converged: bool
    steps: int


@says_memory
@ordinary()
def moreau(
    problem: StackelbergProblem,
    body: Tree,
    l: float | None = None,  # noqa: E741
    *,
    rho: float | None = None,
    solver: AbstractHeadSolver | None = None,
    start: Tree | None = None,
    tolerance: float = 1e-8,
    steps: int = 300,
) -> MoreauEnvelope:
    r"""The Moreau envelope at a body, and its gradient.

    $$
    \Phi_l(w) = \min_{v \in W} \Phi(v) + \frac{1}{2l} \lVert v - w\rVert^2,
    \qquad \nabla\Phi_l(w) = \frac{w - \mathrm{prox}(w)}{l}
    $$

    $\lVert\nabla\Phi_l\rVert$ is small near points that are nearly stationary, also where $\Phi$
    has kinks and $\lVert\nabla\Phi\rVert$ says nothing; $\Phi$ is F at exact heads. The proximal
    point is found by L-BFGS with Danskin's gradient where F is g, else the implicit one, in float64
    on all rows.

    Args:
        problem: the problem.
        body: w, without a run axis.
        l: positive and below $1/\rho$; None: $1/(2\rho)$.
        rho: the weak convexity of $\Phi$, such that $\Phi + \rho\lVert w\rVert^2/2$ is convex.
            None: it is estimated, as $-\lambda_{\min}(\Phi'')$ near the body, then at the proximal
            point, between both and beside them, and at least as a tenth of $\lVert\Phi''\rVert$.
        solver: of the heads; None: as in `best_response`.
        start: where the search begins, such as the `prox` of a body nearby; None: at the body.
        tolerance: on the error of the proximal point, relative to 1 or to the size of the body.
        steps: of L-BFGS and to minimisers of cuts, at most.

    Returns:
        The envelope, with its l, the $\rho$ that was seen and a bound on its error.

    Raises:
        ArgumentError: $l$ is not below $1/\rho$: $\Phi(v) + \lVert v - w\rVert^2/(2l)$ may have
            many minimisers.
        IncompatibleError: no solver is exact for the heads.

    Source: arXiv 2605.15530, theorem 3.6, for the measure. Differs from the source in: None.

    Examples:
        >>> import torch
        >>> from bilevel import analysis
        >>> from problems.toy import ScalarProduct
        >>> found = analysis.moreau(ScalarProduct(), torch.tensor(2.0), l=0.5)
        >>> round(found.norm, 4), found.converged
        (0.1095, True)
    """
    check_instance(problem, StackelbergProblem, "problem", "an instance of your problem")
    check_positive_integer(steps, "`steps`")
    tolerance = single(tolerance, "`tolerance`")
    given = None if l is None else single(l, "`l`")
    seen = None if rho is None else single(rho, "`rho`", zero_allowed=True)
    at = vector_of(problem, body, "body")
    first = None if start is None else vector_of(problem, start, "start")
    reduced, many = (_reduced(problem, runs, solver) for runs in (1, LOOKED))
    domain = domain_of(reduced)
    at = domain(at)
    near = domain(_around(at, NEAR * at.norm().clamp(min=1.0)))
    chosen = seen if seen is not None else ends(many.gradient, near).prox_rho
    for _ in range(ROUNDS):
        length = _length(given, chosen)
        found = proximal(reduced, at, length, chosen, first, tolerance, steps)
        if seen is not None:
            break
        off = found.point - at
        passed = domain(_around(found.point, off.norm(), *(at + t * off for t in ALONG)))
        again = ends(many.gradient, passed).rho
        if again <= 1.01 * chosen:
            break
        chosen, first = again, found.point
    slope = (at - found.point) / length
    if not bool(found.value.isfinite()):  # the search never left the body: that is not stationary
        slope = torch.full_like(slope, torch.nan)
    return MoreauEnvelope(
        value=float(found.value),
        gradient=trees.take(reduced.body(slope), 0),
        norm=float(slope.norm()),
        prox=trees.take(reduced.body(found.point), 0),
        l=length,
        rho=chosen,
        error=float(found.error),
        converged=bool(found.converged),
        steps=found.steps,
    )


def proximal(
    reduced: Reduced,
    at: Tensor,
    length: float,
    rho: float,
    start: Tensor | None,
    tolerance: float,
    steps: int,
    relative: float = 0.0,
) -> Minimum:
    """The proximal points of R bodies.

    Args:
        reduced: Phi of R runs.
        at: the bodies, (R, n), in their set.
        length: l, below 1 / rho.
        rho: the weak convexity of Phi.
        start: (R, n); None: at the bodies.
        tolerance: see `moreau`.
        steps: likewise.
        relative: see `minimise`.
    """
    domain = domain_of(reduced)

    def both(point: Tensor) -> tuple[Tensor, Tensor]:
        value, slope = reduced.both(point)
        off = point - at
        return value + (off * off).sum(1) / (2 * length), slope + off / length

    first = at if start is None else domain(start)
    return minimise(both, first, 1 / length - rho, domain, tolerance, steps, relative)


def domain_of(reduced: Reduced) -> Domain:
    """The set of bodies, for vectors."""
    bodies = reduced.problem.body_set
    if isinstance(bodies, Everywhere):
        return Domain()

    def project(vector: Tensor) -> Tensor:
        return trees.flatten(bodies.project(reduced.body(vector)))

    def free(vector: Tensor, push: Tensor) -> Tensor:
        found = bodies.free(reduced.body(vector), reduced.body(push))
        return torch.ones_like(vector) if found is None else trees.flatten(found)

    return Domain(project, None if bodies.bounds(reduced.like) is None else free)


def _length(given: float | None, rho: float) -> float:
    """l, or an error."""
    if given is None:
        return 1 / (2 * rho) if rho > 0 else 1.0
    if given * rho >= 1:
        raise ArgumentError(
            f"`l` must be below 1 / rho = {1 / rho:.3g}, got {given:g}: above it "
            "Phi(v) + |v - w|^2 / (2 l) need not be convex, and the proximal point not unique. "
            "Leave `l` out, or pass `rho=` if you know a smaller one than was seen near the body."
        )
    return given


def _around(at: Tensor, far: Tensor, *others: Tensor) -> Tensor:
    """A body, some at a distance from it, and others, (`LOOKED`, n)."""
    count = LOOKED - 1 - len(others)
    away = torch.randn(count, at.shape[1], generator=generator(0, "beside"), dtype=at.dtype)
    away = away / away.norm(dim=1, keepdim=True)
    return torch.cat([at, at + far * away, *others])


def _reduced(problem: StackelbergProblem, runs: int, solver: AbstractHeadSolver | None) -> Reduced:
    return Reduced(TrainingData(problem, [0] * runs, torch.float64, "cpu"), solver)


def vector_of(problem: StackelbergProblem, tree: Tree, name: str) -> Tensor:
    """A body as a vector (1, n), or an error unless it is one."""
    trees.check(tree, name, ShapeError)
    expected = problem.init_body(generator(0, "body"))
    if not trees.same_structure(expected, tree):
        raise ShapeError(
            f"`{name}` must have the leaves that `init_body` of {type(problem).__name__} returns."
        )
    return trees.flatten(trees.single(trees.cast(trees.detach(tree), torch.float64, "cpu")))
