"""What is found at one body: the head, and the gradient of Phi."""

import dataclasses
from typing import Literal

from bilevel.bounds.heads import BoundKind
from bilevel.core.status import Status
from bilevel.trees import Tree

FoundKind = BoundKind | Literal["not computed"]
NOT_ASKED = "No bound was asked for: `bound=False`."


@dataclasses.dataclass(frozen=True, eq=False)
class HeadResponse:
    r"""The best response to one body.

    Of a problem with tasks: distances are roots of the sum of squares over the tasks, values are
    means, and $\mu$ and status those of the worst task.

    Attributes:
        head: $\theta$, a tree without a run axis; with tasks leaves (T, ...).
        residual: $\lVert\partial_\theta g\rVert$ at the head; with a head set, of the gradient
            mapping. With `bound=False` as the solver says, of the head that it found.
        bound: on $\lVert\theta - \theta^*\rVert$; NaN if none is known, or none was asked for.
        bound_kind: "proven", "estimated" or "unknown"; "not computed" with `bound=False`, which
            leaves `mu` and `value_bound` NaN, too.
        status: how the solver ended; a method may have refined its head since.
        mu: the strong convexity of g in the head that the bound rests on.
        value_bound: on $g(w, \theta) - g(w, \theta^*)$.
        note: where $\mu$ comes from.
        words: what another program that solved the head said, such as that of `Cvxpy`.

    Examples:
        >>> import bilevel, torch
        >>> from problems.analytic import analytic
        >>> response = bilevel.best_response(analytic("A5"), torch.tensor(2.0))
        >>> response.head, response.bound_kind, response.bound <= 1e-7, response.status.name
        (tensor(2.), 'proven', True, 'CONVERGED')
    """

    head: Tree
    residual: float
    bound: float
    bound_kind: FoundKind
    status: Status
    mu: float
    value_bound: float
    note: str
    words: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Hypergradient:
    r"""$\nabla\Phi$ at one body.

    Attributes:
        body: the gradient, a tree like the body.
        value: $\Phi(w)$ = F(w, $\theta$).
        response: the head it was taken at, with its own bound: where `Implicit` refined the head of
            the solver, the refined one.
        bound: on the norm of the gradient's error; NaN if none is known, or none was asked for.
        bound_kind: "proven", "estimated" or "unknown"; "not computed" with `bound=False`. It is
            unknown at a kink of $\Phi$, where a coordinate of the head touches a bound of its set
            without being pushed against it; on a set that is no box, unless F is g; and where
            autograd does not see how the objectives depend on the body.
        status: the worse one of the head solver's and the method's.
        note: where the constants of the bound come from, or why there is none.

    Examples:
        >>> import bilevel, torch
        >>> from problems.analytic import analytic
        >>> gradient = bilevel.hypergradient(analytic("A5"), torch.tensor(2.0))
        >>> gradient.body, gradient.value, gradient.bound_kind
        (tensor(2.), 1.0, 'proven')
    """

    body: Tree
    value: float
    response: HeadResponse
    bound: float
    bound_kind: FoundKind
    status: Status
    note: str
