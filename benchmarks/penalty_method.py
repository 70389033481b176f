"""The bias of `PenaltyMethod` by its multiplier: the table of docs/concepts/implicit-term.md.

    python benchmarks/penalty_method.py

Relative errors against the closed form of grad Phi at the initial body, float64.
"""

import bilevel
from problems.analytic import analytic

PROBLEMS = ("A5", "A10", "A11", "A15-log", "A16", "A14")
MULTIPLIERS = (1.0, 10.0, 100.0, 200.0, 400.0, 1e4, 1e6)


def error(name: str, multiplier: float) -> float:
    """|s - grad Phi| / |grad Phi|."""
    problem = analytic(name)
    body = problem.start
    exact = problem.phi_gradient(body)
    found = bilevel.hypergradient(problem, body, bilevel.PenaltyMethod(multiplier)).body
    return float((found - exact).norm() / exact.norm())


def main() -> None:
    """Print the table."""
    print("| `multiplier` | " + " | ".join(f"{s:g}" for s in MULTIPLIERS) + " |")
    print("|---" * (1 + len(MULTIPLIERS)) + "|")
    for name in PROBLEMS:
        print(f"| {name} | " + " | ".join(f"{error(name, s):.1e}" for s in MULTIPLIERS) + " |")


if __name__ == "__main__":
    main()
