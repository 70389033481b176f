"""What do a gradient and a head at a single point cost, with their bounds and without?

Ridge: the 200 log-penalties of `benchmarks/hypergradient.py`, well conditioned and badly:
`hypergradient`, and what one would write: LBFGS for the head and conjugate gradients for the
adjoint. Calls after the first one know the problem; a copy of it is not known. Below it the limit,
one Cholesky factor by hand of a Gram matrix made in the call, and of one that is kept; JAX, which
keeps it too, after `make bench-peers`.

Features: a head on 2,000 x 200 features that are the body, with squared errors and with five
classes: `Implicit()` with its bound, and without. Heads of the catalogue: `best_response`.

CPU milliseconds of one thread, sides in turns; a ratio is the median of those of all rounds.

Run: `make bench BENCH=point`, or `python benchmarks/point.py [--rounds 7] [--only ridge]`.
"""

import argparse
import copy
import statistics
import time

import peer
import torch
from exact import OfFeatures
from hypergradient import FEATURES, ROWS, SETTINGS, Limit, Penalties, PlainLoop, exact, of_peers

import bilevel
from problems.classification import digits
from problems.regression import friedman1


def contest(sides, rounds, peers=None):
    """Print milliseconds of each side, and how many times faster than the first it is.

    Peers, in processes of their own, tell their CPU seconds.
    """
    peers = peers or {}
    times = {name: [] for name in (*sides, *peers)}
    for _ in range(rounds + 1):
        for name, side in sides.items():
            begin = time.process_time()
            side()
            times[name].append((time.process_time() - begin) * 1e3)
        for name, side in peers.items():
            times[name].append(side.advance(1) * 1e3)
    first, *_ = times.values()
    for name, found in times.items():
        ratio = statistics.median(a / b for a, b in zip(first[1:], found[1:], strict=True))
        print(f"  {name:<32} {statistics.median(found[1:]):>10.2f} ms {ratio:>8.2f}", flush=True)


def ridge(rounds):
    """Penalties of a ridge regression."""
    for name, setting in SETTINGS.items():
        problem = Penalties(*setting)
        w, true, kept = problem.init_body(None), exact(problem), Limit(problem)
        sides = {
            "LBFGS and CG by hand": lambda p=problem, w=w: PlainLoop(p).gradient(w),
            "hypergradient": lambda p=problem, w=w: bilevel.hypergradient(p, w).body,
            "hypergradient(bound=False)": lambda p=problem, w=w: (
                bilevel.hypergradient(p, w, bound=False).body
            ),
            "hypergradient, not known yet": lambda p=problem, w=w: (
                bilevel.hypergradient(copy.copy(p), w).body
            ),
            "one factor by hand": lambda p=problem, w=w: Limit(p).gradient(w),
            "by hand, Gram matrix kept": lambda kept=kept, w=w: kept.gradient(w),
        }
        print(f"ridge, 200 penalties, condition {name}")
        for side, made in sides.items():
            off = float((made() - true).norm() / true.norm())
            # line searches of LBFGS end at the rounding of g, which the condition magnifies
            assert off < (1e-5 if "LBFGS" in side else 1e-10), f"{side}: {off}"
        contest(sides, rounds, of_peers(problem) if peer.installed() else None)


def features(rounds):
    """Features as the body."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(ROWS, FEATURES, generator=generator, dtype=torch.float64)
    labels = torch.arange(ROWS) % 5
    problems = {
        "squared errors": OfFeatures(z, z.sum(1)),
        "five classes": OfFeatures(z, labels, criterion=bilevel.SoftmaxLoss(), outputs=5),
    }
    for name, problem in problems.items():
        print(f"2,000 x 200 features as the body, {name}")
        contest(
            {
                "hypergradient(bound=False)": lambda p=problem: bilevel.hypergradient(
                    p, z, bound=False
                ),
                "hypergradient": lambda p=problem: bilevel.hypergradient(p, z),
            },
            rounds,
        )


def heads(rounds):
    """Heads of the catalogue, at their initial bodies."""
    for name, problem in {"friedman1": friedman1(), "digits": digits()}.items():
        body = problem.init_body(torch.Generator().manual_seed(0))
        print(f"best_response, {name}")
        contest(
            {
                "bound=False": lambda p=problem, w=body: bilevel.best_response(p, w, bound=False),
                "with its bound": lambda p=problem, w=body: bilevel.best_response(p, w),
            },
            rounds,
        )


PARTS = {"ridge": ridge, "features": features, "heads": heads}


def main():
    """Print a line for each side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=PARTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name, part in PARTS.items():
        if arguments.only in (None, name):
            part(arguments.rounds)


if __name__ == "__main__":
    main()
