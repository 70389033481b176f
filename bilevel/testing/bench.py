"""A problem with its rows and oracles, for R runs in float64: what the checks work on."""

import dataclasses

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.generators import generator
from bilevel.data.rows import Rows
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.assembly import Assembly
from bilevel.derivatives.contract import check_contract
from bilevel.derivatives.head_point import HeadPoint
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import BilevelError
from bilevel.heads import AbstractHeadSolver
from bilevel.heads.default import default_solver
from bilevel.problem.base import StackelbergProblem
from bilevel.testing.finding import add, random_like, refusals, require
from bilevel.trees import Tree

RUNS = 3
STEPS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
"""Of central differences: which is best depends on the scale, and on how near a kink is."""


@dataclasses.dataclass(frozen=True, eq=False)
class Bench:
    """R runs of a problem at random points, with tasks each of another one.

    Attributes:
        problem: the problem.
        oracles: of it.
        rows: all rows.
        body: initial bodies of different seeds, leaves (R, ...).
        head: heads away from the initial ones, leaves (R, ...).
    """

    problem: StackelbergProblem
    oracles: Oracles
    rows: Rows
    body: Tree
    head: Tree

    @classmethod
    def of(cls, problem: StackelbergProblem, runs: int = RUNS) -> "Bench":
        """The bench of a problem, its contract checked as at the start of a training.

        Raises:
            CheckError: what a training would refuse.
        """
        with refusals():
            data = TrainingData(problem, range(runs), torch.float64, "cpu", chunked=False)
            made = Assembly.of(data)
            check_contract(made)
            at = HeadPoint(made.oracles, made.body, made.heads, made.sampler.full)
            if data.tasks:
                tasks = data.sizes["train"]
                at = at.apart.take([run * tasks + run % tasks for run in range(runs)])
            noise = random_like(at.head, generator(0, "testing"))
            head = problem.head_set.project(add(at.head, noise))
            return cls(problem, at.oracles, at.rows, at.body, head)

    @property
    def name(self) -> str:
        """Of the problem's class."""
        return type(self.problem).__name__

    def alone(self, run: int) -> "Bench":
        """One of the runs, R = 1."""
        one = slice(run, run + 1)
        body, head = trees.part(self.body, one), trees.part(self.head, one)
        return dataclasses.replace(self, rows=self.rows.take(one), body=body, head=head)

    def at(self, body: Tree) -> "Bench":
        """The same at other bodies, of one run each: leaves (N, ...), from a bench of one run."""
        count = len(trees.leaves(body)[0])
        head = trees.tree_map(lambda x: x.expand(count, *x.shape[1:]), self.head)
        groups = {
            name: group
            if self.rows.axes[name] is None
            else trees.tree_map(lambda x: x.expand(count, *x.shape[1:]), group)
            for name, group in self.rows.groups.items()
        }
        return dataclasses.replace(self, rows=Rows(groups, self.rows.axes), body=body, head=head)

    def solved(self, solver: AbstractHeadSolver) -> Tree:
        """The heads that answer to the bodies."""
        state = solver.init(self.oracles, self.body, self.head, self.rows)
        return solver.solve(self.oracles, self.body, self.head, self.rows, state, 0).head

    def phi(self, solver: AbstractHeadSolver) -> Tensor:
        """F at the solved heads, (R,)."""
        return self.oracles.body_value(self.body, self.solved(solver), self.rows)

    def reference(self, solver: AbstractHeadSolver | None) -> AbstractHeadSolver:
        """The library's own solver where it can solve these heads, else `solver`."""
        try:
            own = default_solver(self.problem)
            own.check(self.problem)
            self.solved(own)
        except BilevelError as error:
            require(
                solver is not None,
                f"The heads of {self.name} cannot be solved for a reference: {error} Pass "
                "`solver=`, accurate to about 1e-10.",
            )
            assert solver is not None
            return solver
        return own


def directions(body: Tree, source: torch.Generator) -> Tree:
    """Unit directions in the space of one body (no run axis), leaves (N, ...).

    All coordinates for bodies of up to 12 numbers, else 6 random ones.
    """
    size = trees.flatten(trees.single(body)).shape[1]
    if size > 12:
        found = torch.randn(6, size, generator=source, dtype=torch.float64)
        found = found / found.norm(dim=1, keepdim=True)
    else:
        found = torch.eye(size, dtype=torch.float64)
    many = trees.tree_map(lambda x: x.expand(len(found), *x.shape), body)
    return trees.unflatten(found, many)
