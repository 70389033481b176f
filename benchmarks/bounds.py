"""How far are the bounds of hypergradients from the errors?

The head is solved in 20 gradient steps of length 1 / L from a random start, and every method is
certified twice: with the constants that the analytic problem states, and without them.

Run: `python benchmarks/bounds.py`
"""

import copy
import math

import torch

import bilevel
from problems.analytic import AnalyticProblem, analytic

STEPS = 20
METHODS: dict[str, bilevel.AbstractHypergradient] = {
    "`Envelope()`": bilevel.Envelope(),
    "`Implicit()`": bilevel.Implicit(),
    "`Implicit(CG(max_steps=2))`": bilevel.Implicit(bilevel.CG(max_steps=2)),
    "`Implicit(Neumann(5))`": bilevel.Implicit(bilevel.Neumann(5)),
    f"`Unrolled({STEPS})`": bilevel.Unrolled(STEPS),
}
PROBLEMS = ("A9", "A11", "A13", "A14", "A15-log", "A16", "B1")
HEAD = (
    "| problem | method | head off by | gradient off by | bound | kind | ratio | not stated | kind "
    "| ratio |\n|---|---|---|---|---|---|---|---|---|---|"
)


def silent(problem: AnalyticProblem) -> AnalyticProblem:
    """The same problem without the constants that it states."""
    hooks = {
        "known_curvature": lambda self, body: None,
        "known_lipschitz": lambda self, body, head, radius: None,
    }
    twin = copy.copy(problem)
    object.__setattr__(twin, "__class__", type("Silent", (type(problem),), hooks))
    return twin


def main() -> None:
    """Print the table."""
    print(HEAD)
    for name in PROBLEMS:
        problem = analytic(name)
        body = problem.start
        smallest, largest = problem.curvature(body)
        largest = max(largest if math.isfinite(largest) else 20.0, 2 * smallest)
        inner = bilevel.FastSGD(1 / largest, STEPS)
        best, exact = problem.best_response(body), problem.phi_gradient(body)
        for label, method in METHODS.items():
            if isinstance(method, bilevel.Envelope) and not problem.is_stackelberg:
                continue
            known, unknown = (
                bilevel.hypergradient(one, body, method, solver=inner)
                for one in (problem, silent(problem))
            )
            error = float((known.body - exact).norm())
            off = float(torch.linalg.vector_norm(known.response.head - best))
            cells = [name, label, f"{off:.1e}", f"{error:.1e}"]
            for found in (known, unknown):
                ratio = found.bound / error
                cells += [f"{found.bound:.1e}", found.bound_kind, f"{ratio:.2g}"]
            print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
