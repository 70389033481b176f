"""The same with this library: heads by `ClosedForm`, gradients by `Implicit`, float64.

Run: python with_bilevel.py
"""

import functools
from typing import Any

import numpy as np
import torch
from cases import Case, show, versions

import bilevel


class Problem(bilevel.StackelbergProblem):
    """A case as a problem."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.constants = {name: torch.tensor(value) for name, value in case.constants.items()}

    def data(self, seed: int | None = None) -> dict[str, Any]:
        """None; the constants are float64, like everything here."""
        return {}

    def init_body(self, generator: torch.Generator) -> torch.Tensor:
        """The body of the case."""
        return torch.tensor(self.case.w)

    def init_head(self, generator: torch.Generator) -> torch.Tensor:
        """Zeros."""
        return torch.zeros_like(torch.tensor(self.case.theta))

    def head_objective(self, body: torch.Tensor, head: torch.Tensor, batch: Any) -> torch.Tensor:
        """G."""
        return self.case.g(body, head, self.constants)

    def body_objective(self, body: torch.Tensor, head: torch.Tensor, batch: Any) -> torch.Tensor:
        """F."""
        return self.case.F(body, head, self.constants)


def gradient(case: Case, solver: bilevel.AbstractLinearSolver | None = None) -> np.ndarray:
    """At the solved head."""
    problem, method = Problem(case), bilevel.Implicit(solver)
    found = bilevel.hypergradient(problem, torch.tensor(case.w), method)
    return found.body.numpy()


if __name__ == "__main__":
    versions("torch", "bilevel")
    show("Implicit(), default", gradient)
    show("Implicit(CG())", functools.partial(gradient, solver=bilevel.CG()))
