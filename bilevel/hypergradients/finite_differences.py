"""Differences of Phi, to check other gradients by."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.checks import Number, positive
from bilevel.core.cost import Cost
from bilevel.data.rows import Rows
from bilevel.derivatives.oracles import Oracles
from bilevel.heads import AbstractHeadSolver
from bilevel.hypergradients.base import AbstractHypergradient, Answer, BodyGradient
from bilevel.problem.base import StackelbergProblem
from bilevel.trees import Tree


@dataclasses.dataclass(frozen=True, eq=False)
class FiniteDifferences(AbstractHypergradient):
    r"""Central differences, for every number of the body.

    $$s_i = \frac{\Phi(w + h e_i) - \Phi(w - h e_i)}{2h}$$

    The head is solved anew at both bodies, from the head at w, so this holds for any problem and
    any solver, and takes two solves for each number of the body: a reference for small bodies, not
    a way to train. The error is of the order $h^2$ plus that of the two values divided by $h$,
    about 1e-10 relative in float64 where the heads are exact; at a kink it is the mean of both
    slopes. On a set of heads that is no box `hypergradient` knows no bound for them, unless F is g:
    its kind is "unknown".

    Args:
        step: $h$ relative to $\max(1, |w_i|)$; None: the cube root of the machine precision, 6e-6
            in float64.

    Raises:
        ArgumentError: `step` is not positive and finite.

    Source: central differences. Differs from the source in: None.

    Examples:
        >>> import bilevel, torch
        >>> from problems.analytic import analytic
        >>> w = torch.tensor(2.0, dtype=torch.float64)
        >>> found = bilevel.hypergradient(analytic("A5"), w, bilevel.FiniteDifferences())
        >>> abs(float(found.body) - 2) < 1e-8
        True
    """

    step: Number | None = None
    draws = False
    cost = Cost(gradients=2, solves=2)  # for each number of the body, which it does not know

    def __post_init__(self) -> None:
        if self.step is not None:
            object.__setattr__(self, "step", positive(self.step, "`step`"))

    def check(self, problem: StackelbergProblem, solver: AbstractHeadSolver) -> None:
        """It is right for any problem and any solver."""

    def gradient(
        self, oracles: Oracles, body: Tree, answer: Answer, rows: Rows, state: Any
    ) -> BodyGradient:
        """Two solves for each number of the body."""
        memory = answer.solver.init(oracles, body, answer.head, rows)
        flat = trees.flatten(body)
        relative = torch.finfo(flat.dtype).eps ** (1 / 3) if self.step is None else self.step
        widths = trees.per_run(relative, flat) * flat.abs().clamp(min=1)
        status = torch.zeros(len(flat), dtype=torch.int64, device=flat.device)

        def value(at: Tensor) -> Tensor:
            nonlocal status
            moved = trees.unflatten(at, body)
            solved = answer.solver.solve(oracles, moved, answer.head, rows, memory, answer.k)
            status = torch.maximum(status, solved.status)
            return oracles.body_value(moved, solved.head, rows)

        slopes = []
        for i in range(flat.shape[1]):
            shift = torch.zeros_like(flat)
            shift[:, i] = widths[:, i]
            high, low = flat + shift, flat - shift
            # the step that was made, which rounding has changed
            slopes.append((value(high) - value(low)) / (high - low)[:, i])
        return BodyGradient(trees.unflatten(torch.stack(slopes, 1), body), status)
