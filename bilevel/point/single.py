"""One run at one body: its head and its gradient, with their bounds."""

import dataclasses
import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from bilevel import trees
from bilevel.bounds.gradients import GradientBound, GradientCertifier
from bilevel.bounds.heads import Certifier
from bilevel.core import parts
from bilevel.core.checks import check_instance
from bilevel.core.graph import ordinary
from bilevel.core.progress import RowCallback
from bilevel.core.status import Status
from bilevel.data.known import known_of
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.head_point import HeadPoint
from bilevel.derivatives.implicit_head import Pull
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
from bilevel.hypergradients.dependence import check_dependence
from bilevel.point.examined import Examined
from bilevel.point.found import NOT_ASKED, FoundKind, HeadResponse, Hypergradient
from bilevel.problem.base import Groups, StackelbergProblem
from bilevel.trees import Tree


class Single:
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
        seed: int = 0,
    ) -> None:
        trees.check(body, "body", ShapeError)
        like = trees.leaves(body)[0]
        check_instance(problem, StackelbergProblem, "problem", "an instance of your problem")
        known = known_of(problem)
        data = TrainingData(problem, [seed], like.dtype, like.device, groups=batch, known=known)
        self.examined = Examined(data, body, known, report, head_only=head_only)
        made = self.examined.made
        self.solver = default_solver(problem) if solver is None else solver
        check_instance(self.solver, AbstractHeadSolver, "solver", "ClosedForm()")
        self.solver.check(problem)
        check_single(self.solver)
        self.tasks, self.stated = data.tasks, data.own and not data.tasks
        made = made.apart() if self.tasks else made
        self.oracles, self.rows = made.oracles, made.sampler.full
        self.body, self.head = made.body, made.head
        exact = like.dtype == torch.float64  # what is shared is told by identity
        self.double = self.rows if exact else self.rows.cast(torch.float64)
        self.exact_body = self.body if exact else trees.cast(self.body, torch.float64)

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """Features and systems are made once for head, gradient and bounds."""
        chunked = self.rows.chunks is not None
        with self.examined.told(), nullcontext() if chunked else self.oracles.sharing():
            yield

    def head_alone(self, bound: bool) -> HeadResponse:
        """The head where no gradient is asked for."""
        with self.sharing():
            found = self.respond(bound)
            self.examined.doubt(self.solved)
            return found

    def respond(self, bound: bool) -> HeadResponse:
        """Solve the head, and certify it with `bound`."""
        at = (self.oracles, self.body, self.head, self.rows)
        memory = self.solver.init(*at)
        self.head = self.solver.start(*at[:3], memory)
        solved = self.solver.solve(*at[:2], self.head, self.rows, memory, 0)
        self.solved = solved.head
        # with something added to it, it is no factor of H
        jittered = bool((solved.status == int(Status.JITTERED)).any())
        self.factor = None if jittered else solved.factor
        status = Status(int(solved.status.max()))
        words = " ".join(dict.fromkeys(solved.words))
        if bound:
            return self.described(solved.head, status, words)
        return self.plain(solved.head, solved.residual, status, words)

    def gradient(self, method: AbstractHypergradient, bound: bool) -> Hypergradient:
        """Head and gradient, with their bounds if asked for."""
        response = self.respond(bound)
        head, at = self.solved, (self.oracles, self.body)
        memory = method.init(*at, head, self.rows)
        answer = Answer(head, self.solver, self.head, 0, self.factor)
        found = method.gradient(*at, answer, self.rows, memory)
        if found.head is not None and found.head is not head:  # the method moved it
            head, self.factor = found.head, None
            told = response.status, response.words
            if bound:
                response = self.described(head, *told)
            else:
                slope = HeadPoint(*at, head, self.rows).gradient()
                response = self.plain(head, trees.norm(slope), *told)
        size: float = math.nan
        kind: FoundKind = "not computed"
        note = NOT_ASKED
        if bound:
            made = self.bound(method, found, head)
            size, kind, note = float(made.bound.mean()), made.kind, made.note
        value = HeadPoint(*at, head, self.rows).body_value()
        self.examined.doubt(head, found.body, value)
        return Hypergradient(
            trees.tree_map(lambda leaf: leaf.mean(0), found.body),
            float(value.mean()),
            response,
            size,
            kind,
            max(response.status, Status(int(found.status.max()))),
            note,
        )

    def plain(self, head: Tree, residual: Tensor, status: Status, words: str) -> HeadResponse:
        """A head that is not certified."""
        return HeadResponse(
            head if self.tasks else trees.take(head, 0),
            float(residual.norm()),
            math.nan,
            "not computed",
            status,
            math.nan,
            math.nan,
            NOT_ASKED,
            words,
        )

    def described(self, head: Tree, status: Status, words: str) -> HeadResponse:
        """A head with its certificate, which is kept."""
        at = HeadPoint(self.oracles, self.exact_body, trees.cast(head, torch.float64), self.double)
        certifier = Certifier.for_problem(at, stated=self.stated)
        system = certifier.system(at)
        found = certifier.certify(system, at)
        self.certified = certifier, found, system
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
            with self.examined.told():
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
        certifier, certificate, system = self.certified
        head, slope, adjoint = trees.cast((head, found.body, found.adjoint), torch.float64)
        at = HeadPoint(self.oracles, self.exact_body, head, self.double)
        factor = self.factor if trees.leaves(self.body)[0].dtype == torch.float64 else None
        made = GradientCertifier(
            certifier, at, certificate, stated=self.stated, factor=factor, system=system
        )
        envelope = isinstance(method, Envelope)
        bound = made.envelope(slope) if envelope else made.implicit(slope, adjoint)
        return bound._replace(kind="unknown") if bool(bound.bound.isnan().any()) else bound


def check_single(part: object) -> None:
    """Raise if a part holds numbers for several runs."""
    if dataclasses.is_dataclass(part) and parts.run_counts(parts.numbers(part)) - {1}:
        raise ArgumentError(f"At a single point hyper-parameters are single numbers, got {part}.")
