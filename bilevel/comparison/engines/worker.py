"""What a worker says of itself when it is asked whether it could compute."""

import os
import platform
from typing import Any

import torch
from torch import Tensor

from bilevel.comparison.engines.processor import processor
from bilevel.point.point import hypergradient
from bilevel.problem.base import Groups, StackelbergProblem
from bilevel.storage.environment import environment
from bilevel.trees import Tree

AT = 2.0
EXACT = -AT / (AT**2 + 1) ** 2
"""Phi(w) = 1 / (2 (w^2 + 1)), so that Phi'(w) = -w / (w^2 + 1)^2."""


class Scalar(StackelbergProblem):
    r"""\(g(w, \theta) = \frac12 (w \theta - 1)^2 + \frac12 \theta^2\), of numbers."""

    def data(self, seed: int | None = None) -> Groups:
        """None."""
        return {}

    def init_body(self, generator: torch.Generator) -> Tree:
        """Where it is asked."""
        return torch.tensor(AT)

    def init_head(self, generator: torch.Generator) -> Tree:
        """Anywhere."""
        return torch.zeros(())

    def head_objective(self, body: Any, head: Any, batch: Any) -> Tensor:
        """G."""
        value: Tensor = 0.5 * (body * head - 1) ** 2 + 0.5 * head**2
        return value


def introduced() -> dict[str, Any]:
    """Where this is computed, by what, and one gradient whose closed form is known.

    Returns:
        "host", "process", "processor" (see `processor`), "processors" (how many), "threads" of
        torch, "versions" of packages by name (with "python" and the "commit" of a checkout), and
        "off": how far a gradient is from its closed form.
    """
    found = hypergradient(Scalar(), torch.tensor(AT, dtype=torch.float64))
    known = environment()
    return {
        "host": platform.node(),
        "process": os.getpid(),
        "processor": processor("cpu"),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": {**known["packages"], "python": known["python"], "commit": known["commit"]},
        "off": abs(float(found.body) - EXACT),
    }
