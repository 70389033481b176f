"""The head and the hypergradient at a single point: for notebooks, tests and debugging."""

import dataclasses
import functools

import torch
from torch import Tensor

from bilevel import trees
from bilevel.bounds.gradients import GradientBound, GradientCertifier
from bilevel.bounds.heads import Certifier
from bilevel.core import parts
from bilevel.core.checks import check_instance
from bilevel.core.graph import ordinary
from bilevel.core.memory import says_memory
from bilevel.core.progress import RowCallback, ShowProgress, reported
from bilevel.core.status import Status
from bilevel.data.tasks import new_task
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.assembly import Assembly
from bilevel.derivatives.contract import check_contract
from bilevel.derivatives.head_point import HeadPoint
from bilevel.derivatives.implicit_head import Pull, implicit_head
from bilevel.errors import ArgumentError, ShapeError
from bilevel.heads import AbstractHeadSolver
from bilevel.heads.default import default_solver
from bilevel.hypergradients import (
    AbstractHypergradient,
    Answer,
    BodyGradient,
    Envelope,
    Implicit,
)
from bilevel.hypergradients.condition import Condition
from bilevel.hypergradients.default import default_gradient
from bilevel.hypergradients.dependence import check_dependence
from bilevel.point.found import HeadResponse, Hypergradient
from bilevel.problem.base import Groups, StackelbergProblem
from bilevel.trees import Tree


@says_memory
def best_response(
    problem: StackelbergProblem,
    body: Tree,
    solver: AbstractHeadSolver | None = None,
    *,
    batch: Groups | None = None,
    progress: ShowProgress = False,
) -> HeadResponse:
    """theta*(w) = argmin over theta of g(w, theta), with a bound on its error.

    Where a leaf of the body requires gradients, so does the head: a backward pass from it is one
    solve with its Hessian, by the solver's factor if it has one, whatever the solver did. First
    derivatives only; see `bilevel.exact.ridge_head` for further ones.

    Args:
        problem: the problem.
        body: w, a tree of floating tensors without a run axis; its type is the type of the
            computation.
        solver: None: what is exact for the criterion and the set of heads, as in `BestResponse`.
        batch: row groups; None: all rows of `problem.data`.
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
    with ordinary(), reported(progress, "best response") as report:
        trees.check(body, "body", ShapeError)
        if not (asked and any(leaf.requires_grad for leaf in trees.leaves(body))):
            return _Point(problem, body, batch, solver, report, head_only=True).respond()
        found: list[HeadResponse] = []

        def solve(plain: Tree) -> tuple[Tree, Pull]:
            point = _Point(problem, plain, batch, solver, report, head_only=True)
            found.append(point.respond())
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
    """The head of a new task, or of several: `best_response` on its rows alone.

    Args:
        problem: with `tasks`.
        body: w, without a run axis.
        inputs: (n, ...), the rows that are known of the task; (T, n, ...) of several tasks.
        targets: (n,) or (n, K), or labels (n,); likewise.
        solver: None: what is exact for the heads. `FastSGD(lr, steps, restart=True)` starts at the
            problem's `head_start`, or else at a head of `init_head`.

    Returns:
        As `best_response`; the head of one task has no task axis.

    Raises:
        IncompatibleError: the problem has no `tasks`, or the solver does not fit it.
        SingularHeadError: the head has no unique minimiser.
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
    progress: ShowProgress = False,
) -> Hypergradient:
    """grad Phi(w), Phi(w) = F(w, theta*(w)), with a bound on its error.

    With e the bound of the head, B the norm of d2_{w theta} g, v the adjoint, r its residual and L
    the Lipschitz constants in theta of d_w F, d_theta F, d2_{w theta} g and d2_{theta theta} g:

        Envelope:  B e
        Implicit:  (L_Fw + |v| L_gwt) e + B [(L_Ft + |v| L_gtt) e + |r|] / mu
        others:    their distance from the implicit gradient, plus its bound

    "proven" where these constants are known between theta and theta*, "estimated" elsewhere; see
    `bilevel.bounds.gradients` for the derivation.

    Args:
        problem: the problem.
        body: w, without a run axis.
        method: None: `Envelope` where F is g, else `Implicit`.
        solver: of the head; None: as in `best_response`.
        batch: row groups; None: all rows.
        progress: see `best_response`.

    Returns:
        The gradient, Phi, the head and the bounds.

    Raises:
        IncompatibleError: the method would give a wrong gradient for this problem.

    Examples:
        >>> import bilevel, torch
        >>> from problems.toy import ScalarProduct
        >>> bilevel.hypergradient(ScalarProduct(curvature=0.0), torch.tensor(1.0)).body
        tensor(-0.2500)
    """
    with reported(progress, "hypergradient") as report:
        point = _Point(problem, body, batch, solver, report)
        if method is None:
            method = default_gradient(point.oracles.is_stackelberg)
        check_instance(method, AbstractHypergradient, "method", "Envelope()")
        _check_single(method)
        method.check(problem, point.solver)
        response = point.respond()
        head, at = point.solved, (point.oracles, point.body)
        memory = method.init(*at, head, point.rows)
        answer = Answer(head, point.solver, point.head, 0, point.factor)
        found = method.gradient(*at, answer, point.rows, memory)
        if found.head is not None and found.head is not head:  # the method moved it
            head, point.factor = found.head, None
            response = point.described(head, response.status, response.words)
        bound = point.bound(method, found, head)
        return Hypergradient(
            trees.tree_map(lambda leaf: leaf.mean(0), found.body),
            float(point.oracles.body_value(point.body, head, point.rows).mean()),
            response,
            float(bound.bound.mean()),
            bound.kind,
            max(response.status, Status(int(found.status.max()))),
            bound.note,
        )


class _Point:
    """One run: the body with a run axis of length 1, or one of the tasks, and the rows."""

    def __init__(
        self,
        problem: StackelbergProblem,
        body: Tree,
        batch: Groups | None,
        solver: AbstractHeadSolver | None,
        report: RowCallback | None,
        *,
        head_only: bool = False,
    ) -> None:
        trees.check(body, "body", ShapeError)
        like = trees.leaves(body)[0]
        data = TrainingData(problem, [0], like.dtype, like.device, groups=batch)
        made = Assembly.of(data, report=report)
        expected = trees.take(made.body, 0)
        if not trees.same_structure(expected, body):
            raise ShapeError(
                f"`body` has the leaves {_shapes(body)}, but `init_body` of "
                f"{type(problem).__name__} returns {_shapes(expected)}."
            )
        made = dataclasses.replace(made, body=trees.single(trees.detach(body)))
        check_contract(made, head_only=head_only)
        self.solver = default_solver(problem) if solver is None else solver
        check_instance(self.solver, AbstractHeadSolver, "solver", "ClosedForm()")
        self.solver.check(problem)
        _check_single(self.solver)
        self.tasks, self.stated = data.tasks, data.own and not data.tasks
        made = made.apart() if self.tasks else made
        self.oracles, self.rows = made.oracles, made.sampler.full
        self.body, self.head = made.body, made.head
        self.double = self.rows.cast(torch.float64)

    def respond(self) -> HeadResponse:
        """Solve and certify the head."""
        at = (self.oracles, self.body, self.head, self.rows)
        memory = self.solver.init(*at)
        self.head = self.solver.start(*at[:3], memory)
        solved = self.solver.solve(*at[:2], self.head, self.rows, memory, 0)
        self.solved = solved.head
        # with something added to it, it is no factor of H
        jittered = bool((solved.status == int(Status.JITTERED)).any())
        self.factor = None if jittered else solved.factor
        status = Status(int(solved.status.max()))
        return self.described(solved.head, status, " ".join(dict.fromkeys(solved.words)))

    def described(self, head: Tree, status: Status, words: str) -> HeadResponse:
        """A head with its certificate, which is kept."""
        body, exact = trees.cast((self.body, head), torch.float64)
        at = HeadPoint(self.oracles, body, exact, self.double)
        certifier = Certifier.for_problem(at, stated=self.stated)
        found = certifier.certify(certifier.system(at), at)
        self.certified = certifier, found
        return HeadResponse(
            head if self.tasks else trees.take(head, 0),
            float(found.residual.norm()),
            float(found.bound.norm()),
            "unknown" if bool(found.bound.isnan().any()) else certifier.kind,
            status,
            float(found.mu.min()),
            float(found.value_bound.mean()),
            certifier.note,
            words,
        )

    def pull(self, head: Tree) -> Pull:
        """From cotangents of the head that was solved to those of the body."""
        heads = head if self.tasks else trees.single(head)
        point, factor = HeadPoint(self.oracles, self.body, heads, self.rows), self.factor

        condition = Condition(point)

        examine = functools.cache(functools.partial(check_dependence, point))

        @ordinary()
        def pulled(slope: Tree) -> Tree:
            Implicit().check(point.problem, self.solver)
            right = slope if self.tasks else trees.single(slope)
            adjoint = condition.solve(right, factor=factor).value
            crossed = point.cross_vjp(trees.tree_map(torch.neg, adjoint))
            if not any(bool(leaf.any()) for leaf in trees.leaves(crossed)):
                examine()  # zero, or cut off? Where it is not zero, autograd sees the body
            return trees.tree_map(lambda leaf: leaf.sum(0), crossed)

        return pulled

    def bound(
        self, method: AbstractHypergradient, found: BodyGradient, head: Tree
    ) -> GradientBound:
        """The bound of a gradient that was taken at `head`, which is the one last described."""
        certifier, certificate = self.certified
        given = self.body, head, found.body, found.adjoint
        body, head, slope, adjoint = trees.cast(given, torch.float64)
        at = HeadPoint(self.oracles, body, head, self.double)
        factor = self.factor if trees.leaves(self.body)[0].dtype == torch.float64 else None
        made = GradientCertifier(certifier, at, certificate, stated=self.stated, factor=factor)
        envelope = isinstance(method, Envelope)
        bound = made.envelope(slope) if envelope else made.implicit(slope, adjoint)
        return bound._replace(kind="unknown") if bool(bound.bound.isnan().any()) else bound


def _check_single(part: object) -> None:
    """Raise if a part holds numbers for several runs."""
    if dataclasses.is_dataclass(part) and parts.run_counts(parts.numbers(part)) - {1}:
        raise ArgumentError(f"At a single point hyper-parameters are single numbers, got {part}.")


def _shapes(tree: Tree) -> str:
    return ", ".join(f"{path or 'tensor'} {tuple(x.shape)}" for path, x in trees.named_leaves(tree))
