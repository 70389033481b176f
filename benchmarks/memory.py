"""How much memory does a hypergradient take, and does it grow with the steps of the head?

The head has 250,000 numbers (2 MB in float64) and is solved by K plain gradient steps. `Implicit`
needs none of the heads on the way, `Unrolled` holds all K of them, `Unrolled` with `truncate=10`
the last ten. Memory: what one gradient adds to the peak of a fresh process that has made one of
three steps before.

Run: `make bench BENCH=memory`, or `python benchmarks/memory.py`.
"""

import argparse
import resource
import subprocess
import sys

import torch

import bilevel

SIZE, STEPS = 250_000, (10, 50, 200)


class Diagonal(bilevel.StackelbergProblem):
    """g = sum_i c_i (theta_i - w b_i)^2 / 2 with c from 1 to 2, F = |theta - 1|^2 / 2."""

    curvature = torch.linspace(1, 2, SIZE, dtype=torch.float64)
    target = torch.linspace(-1, 1, SIZE, dtype=torch.float64)

    def data(self, seed=None):
        """The coefficients: what the objectives compute with comes from here."""
        return {"train": {"curvature": self.curvature, "target": self.target}}

    def init_body(self, generator):
        """One number."""
        return torch.rand((), generator=generator, dtype=torch.float64)

    def init_head(self, generator):
        """A long vector."""
        return torch.randn(SIZE, generator=generator, dtype=torch.float64)

    def head_objective(self, body, head, batch):
        """g."""
        rows = batch["train"]
        return 0.5 * (rows["curvature"] * (head - body * rows["target"]).square()).sum()

    def body_objective(self, body, head, batch):
        """F."""
        return 0.5 * (head - 1).square().sum()


METHODS = {
    "Implicit(CG())": lambda steps: bilevel.Implicit(bilevel.CG()),
    "Unrolled(K)": bilevel.Unrolled,
    "Unrolled(K, truncate=10)": lambda steps: bilevel.Unrolled(steps, truncate=10),
}


def peak() -> float:
    """The largest memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def added(name: str, steps: int) -> float:
    """What a body step adds to the peak of this process."""
    before = 0.0
    for count in (3, steps):
        before = peak()
        inner = bilevel.FastSGD(0.6, count)
        strategy = bilevel.BestResponse(0.1, inner, METHODS[name](count), bilevel.SGD())
        bilevel.solve(
            Diagonal(), strategy, steps=2, batch_size=None, seeds=1, every=2, dtype=torch.float64
        )
    return peak() - before


def main() -> None:
    """Print the table; each cell is measured in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cell", nargs=2, metavar=("METHOD", "STEPS"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.cell:
        print(f"{added(options.cell[0], int(options.cell[1])):.0f}")
        return
    print("MB that a training of two body steps adds, by the number K of inner steps (2 MB a head)")
    print(f"{'':26}" + "".join(f"{f'K = {steps}':>10}" for steps in STEPS))
    for name in METHODS:
        cells = [
            subprocess.run(
                [sys.executable, __file__, "--cell", name, str(steps)],
                check=True, capture_output=True, text=True,
            ).stdout.strip()
            for steps in STEPS
        ]  # fmt: skip
        print(f"{name:26}" + "".join(f"{cell:>10}" for cell in cells))


if __name__ == "__main__":
    main()
