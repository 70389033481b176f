"""The head and the hypergradient at a single point: for notebooks, tests and debugging."""

import dataclasses

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.checks import check_flag, check_instance
from bilevel.core.graph import ordinary
from bilevel.core.memory import says_memory
from bilevel.core.progress import ShowProgress, reported
from bilevel.data.tasks import new_task
from bilevel.derivatives.implicit_head import Pull, implicit_head
from bilevel.errors import ShapeError
from bilevel.heads import AbstractHeadSolver
from bilevel.hypergradients import (
    AbstractHypergradient,
)
from bilevel.hypergradients.default import default_gradient
from bilevel.point.found import HeadResponse, Hypergradient
from bilevel.point.single import Single, check_single
from bilevel.problem.base import Groups, StackelbergProblem
from bilevel.trees import Tree


@says_memory
def best_response(
    problem: StackelbergProblem,
    body: Tree,
    solver: AbstractHeadSolver | None = None,
    *,
    batch: Groups | None = None,
    bound: bool = True,
    progress: ShowProgress = False,
) -> HeadResponse:
    r"""The best response to a body, with a bound on its error.

    $$\theta^*(w) = \arg\min_{\theta \in \Theta} g(w, \theta)$$

    Where a leaf of the body requires gradients, so does the head: a backward pass from it is one
    solve with its Hessian, by the solver's factor if it has one, whatever the solver did. First
    derivatives only; see `bilevel.exact.ridge_head` for further ones.

    Args:
        problem: the problem.
        body: $w$,  a tree of floating tensors without a run axis; its type is the type of the
            computation.
        solver: None: what is exact for the criterion and the set of heads, as in `BestResponse`.
        batch: row groups; None: all rows of `problem.data`.
        bound: whether to certify the head. False: its kind is "not computed".
        progress: of each pass over the rows, where the problem sets `chunk_rows`. True: a bar, if
            standard error is a terminal; or a function of (rows done, rows in all).

    Returns:
        The head, its residual and its error bound (computed in float64).

    Raises:
        SingularHeadError: the head has no unique minimiser.
        IncompatibleError: the solver cannot solve this head; without one: none is exact for it.
            From a backward pass: the head has no derivative that is known.
        MissingPackageError: only `Cvxpy` is exact for it, and cvxpy is not installed.

    Examples:
        >>> import bilevel, torch
        >>> from problems.toy import ScalarProduct
        >>> bilevel.best_response(ScalarProduct(), torch.tensor(2.0)).head    # w / (w^2 + 1)
        tensor(0.4000)
    """
    asked = torch.is_grad_enabled()
    check_flag(bound, "bound")
    with ordinary(), reported(progress, "best response") as report:
        trees.check(body, "body", ShapeError)
        if not (asked and any(leaf.requires_grad for leaf in trees.leaves(body))):
            return Single(problem, body, batch, solver, report, head_only=True).head_alone(bound)
        found: list[HeadResponse] = []

        def solve(plain: Tree) -> tuple[Tree, Pull]:
            point = Single(problem, plain, batch, solver, report, head_only=True)
            found.append(point.head_alone(bound))
            return found[0].head, point.pull(found[0].head)

        head = implicit_head(solve, body)
        return dataclasses.replace(found[0], head=head)


def adapt(
    problem: StackelbergProblem,
    body: Tree,
    inputs: Tensor,
    targets: Tensor,
    solver: AbstractHeadSolver | None = None,
) -> HeadResponse:
    r"""The head of a new task, or of several: `best_response` on its rows alone.

    $$\theta_t = \arg\min_\theta g_t(w, \theta)$$

    Args:
        problem: with `tasks`.
        body: $w$,  without a run axis.
        inputs: (n, ...), the rows that are known of the task; (T, n, ...) of several tasks.
        targets: (n,) or (n, K), or labels (n,); likewise.
        solver: None: what is exact for the heads. `FastSGD(lr, steps, restart=True)` starts at the
            problem's `head_start`, or else at a head of `init_head`.

    Returns:
        As `best_response`; the head of one task has no task axis.

    Raises:
        IncompatibleError: the problem has no `tasks`, or the solver does not fit it.
        SingularHeadError: the head has no unique minimiser.

    Examples:
        >>> import bilevel, torch
        >>> from problems.sinusoid import sinusoid
        >>> problem = sinusoid(width=4, train=4, test=2)
        >>> body = problem.init_body(torch.Generator())
        >>> x = torch.linspace(-5, 5, 10, dtype=torch.float64).unsqueeze(1)
        >>> head = bilevel.adapt(problem, body, x, x[:, 0].sin()).head
        >>> problem.predict(body, head, x).shape
        torch.Size([10])
    """
    groups, alone = new_task(problem, inputs, targets)
    found = best_response(problem, body, solver, batch=groups)
    return dataclasses.replace(found, head=trees.take(found.head, 0)) if alone else found


@says_memory
@ordinary()
def hypergradient(
    problem: StackelbergProblem,
    body: Tree,
    method: AbstractHypergradient | None = None,
    *,
    solver: AbstractHeadSolver | None = None,
    batch: Groups | None = None,
    bound: bool = True,
    progress: ShowProgress = False,
) -> Hypergradient:
    r"""The gradient of $\Phi(w) = F(w, \theta^*(w))$ at a body, with a bound on its error.

    With $e$ the bound of the head, $B$ the norm of $g_{w\theta}$, $v$ the adjoint, $r$ its residual
    and $L$ the Lipschitz constants in $\theta$ of $\partial_w F$, $\partial_\theta F$,
    $g_{w\theta}$ and $g_{\theta\theta}$:

    $$
    \begin{aligned}
    \text{Envelope} &: B e \\
    \text{Implicit} &: (L_{Fw} + \lVert v\rVert L_{gwt})\, e
        + B\, [(L_{Ft} + \lVert v\rVert L_{gtt})\, e + \lVert r\rVert] / \mu \\
    \text{others} &: \text{their distance from the implicit gradient, plus its bound}
    \end{aligned}
    $$

    "proven" where these constants are known between $\theta$ and $\theta^*$, "estimated" elsewhere;
    see `bilevel.bounds.gradients` for the derivation.

    A loop of one's own is quickest with one instance of the problem and one set of tensors: what no
    body changes (that data and functions are in order, the Gram matrix of body-free features) is
    then made once. It is made anew where an attribute, a tensor or a number in the features is
    another one, and forgotten with the problem.

    Args:
        problem: the problem.
        body: $w$,  without a run axis.
        method: None: `Envelope` where F is g, else `Implicit`.
        solver: of the head; None: as in `best_response`.
        batch: row groups; None: all rows.
        bound: whether to bound the errors of head and gradient. False: the kinds are "not
            computed", and nobody looks whether autograd sees all of the body.
        progress: see `best_response`.

    Returns:
        The gradient, $\Phi$, the head and the bounds.

    Raises:
        IncompatibleError: the method would give a wrong gradient for this problem.

    Examples:
        >>> import bilevel, torch
        >>> from problems.toy import ScalarProduct
        >>> bilevel.hypergradient(ScalarProduct(curvature=0.0), torch.tensor(1.0)).body
        tensor(-0.2500)
    """
    check_flag(bound, "bound")
    with reported(progress, "hypergradient") as report:
        point = Single(problem, body, batch, solver, report)
        if method is None:
            method = default_gradient(point.oracles.is_stackelberg)
        check_instance(method, AbstractHypergradient, "method", "Envelope()")
        check_single(method)
        method.check(problem, point.solver)
        with point.sharing():
            return point.gradient(method, bound)
