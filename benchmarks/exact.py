"""What does a differentiable ridge head cost beside autograd through `torch.linalg.solve`?

800 rows of M features in float64, one target or five, ridge .1: the head, a loss, and gradients in
features, targets and ridge.

CPU microseconds of one thread, interleaved, medians.

Run: `make bench BENCH=exact`, or `python benchmarks/exact.py [--rounds 15]`.
"""

import argparse
import statistics
import time

import torch

from bilevel.exact import ridge_head

ROWS, SIZES, OUTPUTS, REPEATS = 800, [4, 16, 32, 64, 128, 256], [None, 5], 10


def by_solve(z, t, ridge):
    """What one would write."""
    n, m = z.shape
    return torch.linalg.solve(z.mT @ z / n + ridge * torch.eye(m, dtype=z.dtype), z.mT @ t / n)


def microseconds(head, arguments):
    """CPU time of a head and its gradients."""
    begin = time.process_time()
    for _ in range(REPEATS):
        torch.autograd.grad(head(*arguments).square().sum(), arguments)
    return (time.process_time() - begin) / REPEATS * 1e6


def main():
    """Print a line for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    heads = {"ridge_head": ridge_head, "autograd through solve": by_solve}
    print(f"{'features':>9} {'outputs':>8}", *(f"{name:>23}" for name in heads), "   ratio")
    for outputs in OUTPUTS:
        for size in SIZES:
            shapes = [(ROWS, size), (ROWS, *([] if outputs is None else [outputs]))]
            made = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
            arguments = [*made, torch.tensor(0.1, dtype=torch.float64)]
            arguments = [x.requires_grad_() for x in arguments]
            times = {name: [] for name in heads}
            for _ in range(rounds + 1):
                for name, head in heads.items():
                    times[name].append(microseconds(head, arguments))
            first, second = (statistics.median(found[1:]) for found in times.values())
            shown = f"{size:>9} {outputs or 1:>8} {first:>20.0f} us {second:>20.0f} us"
            print(f"{shown} {first / second:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
