"""Conformance checks: does a problem, or a part of one's own, keep its contract?

Each check returns what it saw, and raises `CheckError`, an `AssertionError`, at the first thing
that is wrong. They compute in float64 and need no test framework:

    def test_my_solver():
        bilevel.testing.check_linear_solver(MySolver())
"""

from bilevel.testing.finding import Finding
from bilevel.testing.heads import check_head_solver
from bilevel.testing.hypergradients import check_hypergradient
from bilevel.testing.linear import check_linear_solver
from bilevel.testing.optimizers import check_optimizer
from bilevel.testing.problem import check_problem

__all__ = [
    "Finding",
    "check_head_solver",
    "check_hypergradient",
    "check_linear_solver",
    "check_optimizer",
    "check_problem",
]
