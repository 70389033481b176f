"""A grid of step sizes as one training: how long does it take, how much memory?

25 pairs of step sizes over 20 seeds on friedman1 (width 64, batches of 64) are 500 runs of 1,000
steps with 21 records. Time: `compare` for all of them, against `solve` for one pair and one seed at
a time, 10 of which are timed. Memory: the peak of a fresh process, for 50 steps of that comparison
and for 4 runs of a 784-128-64-10 network that record on 60,000 rows.

Run: `make bench`, or `python benchmarks/grid.py [time] [grid-memory] [rows-memory] [--steps 1000]`.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time

import torch
from large import Images

import bilevel
from problems.regression import friedman1

BODY_RATES = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3)
HEAD_RATES = (1e-3, 2e-3, 5e-3, 1e-2, 2e-2)
SEEDS, BATCH, RECORDS, SAMPLE = 20, 64, 20, 10
MEMORY_STEPS = 50


def grid() -> dict[str, bilevel.TwoTimescale]:
    """A strategy for each pair of step sizes."""
    return {
        f"{alpha:g}, {beta:g}": bilevel.TwoTimescale(alpha, beta)
        for alpha in BODY_RATES
        for beta in HEAD_RATES
    }


def together(steps: int, records: int = RECORDS) -> float:
    """Seconds of all runs as one training."""
    began = time.perf_counter()
    every = max(1, steps // records)
    bilevel.compare(friedman1(), grid(), seeds=SEEDS, steps=steps, batch_size=BATCH, every=every)
    return time.perf_counter() - began


def alone(number: int, steps: int) -> float:
    """Seconds of one of the runs."""
    strategies = list(grid().values())
    began = time.perf_counter()
    bilevel.solve(
        friedman1(),
        strategies[number * 7 % len(strategies)],
        steps=steps,
        seeds=[number % SEEDS],
        batch_size=BATCH,
        every=max(1, steps // RECORDS),
    )
    return time.perf_counter() - began


def compare_times(steps: int) -> None:
    """Print both times, and their ratio."""
    alone(0, 20)  # lazy set-up
    singles = [alone(number, steps) for number in range(SAMPLE // 2)]
    whole = together(steps)
    singles += [alone(number, steps) for number in range(SAMPLE // 2, SAMPLE)]
    runs, single = len(grid()) * SEEDS, statistics.median(singles)
    print(f"{runs} runs of {steps} steps: one `compare` {whole:.0f} s")
    print(f"one run at a time {single:.2f} s, {runs} of them {runs * single:.0f} s", end=": ")
    print(f"{whole / (runs * single):.3f} of the time ({runs * single / whole:.0f} x)", flush=True)


def record_many_rows() -> None:
    """4 runs that record twice on 60,000 shared rows."""
    bilevel.solve(Images(rows=60_000), bilevel.TwoTimescale(5e-4, 5e-3), steps=1, seeds=4)


def print_peak(part: str) -> None:
    """Print the peak memory of a part in a process of its own."""
    command = [sys.executable, __file__, part, "--here"]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    print(found.stdout.strip(), flush=True)


def main() -> None:
    """Print what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ["grid-memory", "rows-memory", "time"]
    parser.add_argument("parts", nargs="*", default=names, help=f"of {names}")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--here", action="store_true", help="measure this process")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for part in sorted(options.parts):  # memory first: a child's peak starts at its parent's
        if part == "time":
            compare_times(options.steps)
        elif not options.here:
            print_peak(part)
        else:
            start = peak()
            record_many_rows() if part == "rows-memory" else together(MEMORY_STEPS, 2)
            what = "records on 60,000 rows" if part == "rows-memory" else "the 500 runs"
            print(f"memory of {what}: peak {peak():,.0f} MB, {start:,.0f} MB of it after importing")


def peak() -> float:
    """The largest memory of this process so far, in MB."""
    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes, on macOS bytes
    return found / 1e6 if sys.platform == "darwin" else found * 1024 / 1e6


if __name__ == "__main__":
    main()
