"""The gradient of a head that was solved by steps, through those steps."""

import dataclasses
from typing import Any

import torch

from bilevel import trees
from bilevel.core.checks import check_positive_integer
from bilevel.core.cost import Cost
from bilevel.data.rows import Rows
from bilevel.derivatives.head_point import HeadPoint
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import IncompatibleError
from bilevel.heads import AbstractHeadSolver, FastSGD
from bilevel.hypergradients.base import AbstractHypergradient, Answer, BodyGradient, fine
from bilevel.optimizers.sgd import descend
from bilevel.problem.base import StackelbergProblem
from bilevel.trees import Tree


@dataclasses.dataclass(frozen=True, eq=False)
class Unrolled(AbstractHypergradient):
    r"""The derivative through the K gradient steps that solved the head.

    That of $F(w, \theta_K(w))$ with $\theta_{j+1} = P(\theta_j - \eta_j d_j)$,
    $d_j = \partial_\theta g(w, \theta_j)$. The reverse recursion, with
    $p_K = \partial_\theta F(w, \theta_K)$:

    $$
    q_j = D_j p_{j+1}, \qquad p_j = q_j - \eta_j\, g_{\theta\theta}\, q_j,
    \qquad s = \partial_w F - \sum_j \eta_j\, g_{w\theta}\, q_j
    $$

    with $D_j$ the derivative of the projection $P$ at its step, on the heads that `FastSGD` went
    through, which are computed again and held in memory: K of them, each as large as the head. The
    start $\theta_0$ counts as a constant, but where the solver restarts at the problem's
    `head_start`, whose derivative then adds $(d\theta_0/dw)^\top p_0$. No graph is built.

    For plain steps of size $\eta$ on all rows, $\theta_0$ at the best response and $\eta \le 1/L$,
    the error against $\nabla\Phi$ is at most
    $\lVert g_{w\theta}\rVert\, \lVert\partial_\theta F\rVert\, (1 - \eta\mu)^K / \mu$.

    Args:
        steps: K, those of the `FastSGD` that solves the head.
        truncate: differentiate through the last so many steps only; None: all. Fewer heads are
            held, and the sum lacks the terms of earlier steps.

    Raises:
        ArgumentError: a number is no positive integer.
        IncompatibleError: from a training: the head is not solved by as many plain steps.

    Source: Franceschi et al. 2017 (arXiv 1703.01785), algorithm 1; truncation: Shaban et al. 2019
    (arXiv 1810.10667). Differs from the source in: 1. projections onto a set of heads. Every set
    of the library knows their derivative; one of your own says it by `ConvexSet.linearised`.

    Examples:
        >>> import bilevel, torch
        >>> from problems.analytic import analytic
        >>> inner = bilevel.FastSGD(0.25, steps=40)
        >>> w = torch.tensor(2.0, dtype=torch.float64)
        >>> found = bilevel.hypergradient(analytic("A5"), w, bilevel.Unrolled(40), solver=inner)
        >>> abs(float(found.body) - 2) < 1e-8
        True
    """

    steps: int
    truncate: int | None = None
    draws = False
    knows_tasks = True
    wants_start = True  # to go through the steps again

    def __post_init__(self) -> None:
        check_positive_integer(self.steps, "`steps`")
        if self.truncate is not None:
            check_positive_integer(self.truncate, "`truncate`")

    def check(self, problem: StackelbergProblem, solver: AbstractHeadSolver) -> None:
        """Only plain steps of a fixed number can be followed back."""
        if not isinstance(solver, FastSGD) or solver.tolerance is not None:
            raise IncompatibleError(
                f"Unrolled follows the plain steps of FastSGD without `tolerance`, not {solver}. "
                f"Pass solver=FastSGD(lr, steps={self.steps}), or use Implicit."
            )
        if solver.steps != self.steps:
            raise IncompatibleError(
                f"Unrolled(steps={self.steps}) does not fit FastSGD with steps={solver.steps}: "
                "give both the same number. To go back fewer steps, use `truncate`."
            )

    def init(self, oracles: Oracles, body: Tree, head: Tree, rows: Rows) -> Any:
        """Nothing to remember; check the set of heads."""
        oracles.problem.head_set.linearised(head)
        return ()

    def gradient(
        self, oracles: Oracles, body: Tree, answer: Answer, rows: Rows, state: Any
    ) -> BodyGradient:
        """The reverse recursion along the heads of the solver."""
        assert isinstance(answer.solver, FastSGD)
        skipped = 0 if self.truncate is None else max(0, self.steps - self.truncate)
        path = answer.solver.path(HeadPoint(oracles, body, answer.start, rows), answer.k)
        kept = [step for j, step in enumerate(path) if j >= skipped]
        slope, adjoint = oracles.body_gradients(body, answer.head, rows)
        for step in reversed(kept):
            if step.derivative is not None:
                adjoint = step.derivative(adjoint)
            slope = descend(slope, step.point.cross_vjp(adjoint), step.lr)
            adjoint = descend(adjoint, step.point.hvp(adjoint), step.lr)
        if answer.solver.restart and not skipped:
            slope = trees.tree_map(torch.add, slope, oracles.start_vjp(body, adjoint))
        return BodyGradient(slope, fine(body))

    @property
    def cost(self) -> Cost:
        """The steps again, and two products for each of those that are differentiated."""
        back = self.steps if self.truncate is None else min(self.truncate, self.steps)
        return Cost(gradients=self.steps + 1, products=2 * back)
