"""Are the expectations of wide linear networks quick enough?

Expected losses at width 1000 must take less than 50 ms, a curve of 201 shares less than 1 s. The
first call is counted as it is, the others are medians of 20.

Run: `make bench BENCH=linear_networks`, or `python benchmarks/linear_networks.py`.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch

from problems.linear_networks import equal_window, three_layer_orthogonal, two_layer_orthogonal
from problems.linear_networks.share_curves import ShareCurves

EXPECTATION, CURVE = 0.050, 1.0  # seconds allowed
REPEATS = 20
PAIR, SMALL = (22500.0, 22500.0), (32.5, 32.5)
CASES: dict[str, tuple[float, Callable[[], object]]] = {
    "two layers, 2 steps": (
        EXPECTATION,
        lambda: two_layer_orthogonal.expected_loss(1000, [PAIR] * 2),
    ),
    "two layers, 8 steps": (
        EXPECTATION,
        lambda: two_layer_orthogonal.expected_loss(1000, [PAIR] * 8),
    ),
    "three layers, 2 steps": (
        EXPECTATION,
        lambda: three_layer_orthogonal.expected_loss(1000, [SMALL] * 2),
    ),
    "three layers, Gaussian a and beta, 2 steps": (
        EXPECTATION,
        lambda: three_layer_orthogonal.expected_loss(1000, [SMALL] * 2, ensemble="gaussian"),
    ),
    "201 shares, two layers": (CURVE, lambda: ShareCurves.of(2, 1000, 45000.0)),
    "201 shares, three layers": (CURVE, lambda: ShareCurves.of(3, 1000, 65.0)),
    "window of equal rates, exact": (CURVE, lambda: equal_window(1000, signal_only=False)),
}


def seconds(call: Callable[[], object]) -> float:
    """Of one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def main() -> int:
    """Print the times beside what is allowed; 1 if one is too long."""
    torch.set_num_threads(1)
    slow = 0
    print(f"{'width 1000':44} {'first':>9} {'median':>9} {'allowed':>9}")
    for name, (allowed, call) in CASES.items():
        first = seconds(call)
        usual = statistics.median(seconds(call) for _ in range(REPEATS))
        slow += max(first, usual) > allowed
        note = "" if max(first, usual) <= allowed else "  TOO SLOW"
        times = " ".join(f"{1e3 * value:6.1f} ms" for value in (first, usual, allowed))
        print(f"{name:44} {times}{note}")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
