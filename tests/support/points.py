"""Hypergradients of several bodies of a problem at once, for tests."""

import dataclasses

import torch

import bilevel
from bilevel import Answer, trees
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.assembly import Assembly
from bilevel.heads import AbstractHeadSolver, HeadSolution


@dataclasses.dataclass(frozen=True, eq=False)
class Known(AbstractHeadSolver):
    """theta*(w) as an analytic problem states it, moved by `off` in every number."""

    off: float = 0.0

    def init(self, oracles, body, head, rows):
        return ()

    def solve(self, oracles, body, head, rows, state, k):
        best = trees.stack([oracles.problem.best_response(w) for w in body])
        best = oracles.problem.head_set.project(trees.tree_map(lambda x: x + self.off, best))
        zeros = torch.zeros(len(body)).double()
        return HeadSolution(best, zeros, zeros.long(), ())

    @property
    def exact(self):
        return self.off == 0

    @property
    def cost(self):
        return bilevel.Cost()


class Point:
    """R bodies, the rows of all groups, and heads to start from.

    Args:
        problem: any problem.
        bodies: of the runs.
        heads: of the runs; None: the initial ones.
    """

    def __init__(self, problem, bodies, heads=None):
        made = Assembly.of(TrainingData(problem, range(len(bodies)), torch.float64, "cpu"))
        self.problem, self.oracles, self.rows = problem, made.oracles, made.sampler.full
        self.body = trees.stack(bodies)
        self.head = made.head if heads is None else trees.stack(heads)

    def solved(self, solver):
        solver.check(self.problem)
        memory = solver.init(self.oracles, self.body, self.head, self.rows)
        return solver.solve(self.oracles, self.body, self.head, self.rows, memory, 0)

    def gradient(self, method, solver):
        """As a training computes it, from `self.head` as a start."""
        method.check(self.problem, solver)
        found = self.solved(solver)
        memory = method.init(self.oracles, self.body, found.head, self.rows)
        answer = Answer(found.head, solver, self.head, 0, found.factor)
        return method.gradient(self.oracles, self.body, answer, self.rows, memory)


def number(*values):
    return torch.tensor(values[0] if len(values) == 1 else values, dtype=torch.float64)


class Custom(bilevel.StackelbergProblem):
    """F and g as functions of the body and the head."""

    def __init__(self, F, g, head, body=1.0, head_set=None):
        self.F, self.g, self.head, self.body = F, g, number(*head), number(body)
        self.head_set = head_set or bilevel.Everywhere()

    def data(self, seed=None):
        return {}

    def init_body(self, generator):
        return self.body

    def init_head(self, generator):
        return self.head

    def head_objective(self, body, head, batch):
        return self.g(body, head)

    def body_objective(self, body, head, batch):
        return self.F(body, head)


def gradient(problem, method, solver=None, at=None):
    """As a user gets it; at the initial body if not told where."""
    body = problem.init_body(torch.Generator()) if at is None else at
    return bilevel.hypergradient(problem, body, method, solver=solver)
