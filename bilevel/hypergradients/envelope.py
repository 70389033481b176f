"""Danskin's gradient."""

import dataclasses
from typing import Any

from typing_extensions import override

from bilevel.core.cost import Cost
from bilevel.data.rows import Rows
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import IncompatibleError
from bilevel.heads import AbstractHeadSolver
from bilevel.hypergradients.base import AbstractHypergradient, Answer, BodyGradient, fine
from bilevel.problem.base import StackelbergProblem
from bilevel.trees import Tree


@dataclasses.dataclass(frozen=True, eq=False)
class Envelope(AbstractHypergradient):
    r"""Danskin's gradient, exact if F is g, with or without a convex set of heads.

    $$\nabla\Phi(w) = \partial_w g(w, \theta^*(w))$$

    At a head that is off by $e$ the error is at most $e$ times the norm of $g_{w\theta}$ between
    the two: $\lVert s - \nabla\Phi(w)\rVert \le \sup \lVert g_{w\theta}\rVert\, e$.

    Source: Danskin's theorem. Differs from the source in: None.

    Examples:
        >>> import bilevel, torch
        >>> from problems.toy import ScalarProduct
        >>> w = torch.tensor(1.0)
        >>> bilevel.hypergradient(ScalarProduct(curvature=0.0), w, bilevel.Envelope()).body
        tensor(-0.2500)
    """

    compilable = True
    draws = False
    knows_tasks = True
    cost = Cost(gradients=1)

    def check(self, problem: StackelbergProblem, solver: AbstractHeadSolver | None = None) -> None:
        """Refuse problems that override `body_objective`."""
        if not problem.is_stackelberg:
            raise IncompatibleError(
                f"{type(problem).__name__} overrides `body_objective`, so F is not g and the "
                "envelope gradient d_w F lacks the term -(d2_{w theta} g)(d2_{theta theta} g)^{-1} "
                "d_theta F: it leads to a wrong point. Use `Implicit`, for example "
                "BestResponse(body_lr, gradient=Implicit()). (Terms in the body alone belong in "
                "`body_penalty`, which keeps F = g.)"
            )

    @override
    def gradient(
        self, oracles: Oracles, body: Tree, answer: Answer, rows: Rows, state: Any
    ) -> BodyGradient:
        return BodyGradient(oracles.direct_gradient(body, answer.head, rows), fine(body))
