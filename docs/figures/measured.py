"""Draw figures of the concepts in docs/assets/concepts that the library measures itself.

python docs/figures/measured.py bounds fairness      half a minute
python docs/figures/measured.py runs                 times: on a machine that does nothing else
"""

import os
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib as mpl
import numpy as np
import torch
from concepts import TARGET
from look import BLUE, GREY, LOOK, ORANGE, svg
from matplotlib.figure import Figure

import bilevel


def bounds() -> tuple[Figure, str]:
    """Heads that a first-order solver stops at, their true errors and their bounds."""
    problem = bilevel.load_problem("friedman1", width=8, ridge=1e-2)
    body = problem.init_body(torch.Generator().manual_seed(0))
    body = {name: leaf.double() for name, leaf in body.items()}
    exact = bilevel.best_response(problem, body)
    steps = np.unique(np.geomspace(1, 2000, 24).round().astype(int))
    errors, kept = [], []
    for count in steps:
        solver = bilevel.FastSGD(0.1, steps=int(count))
        found = bilevel.best_response(problem, body, solver=solver)
        errors.append(float((found.head - exact.head).norm()))
        kept.append(float(found.bound))
    assert (np.array(errors) <= np.array(kept)).all()
    figure = Figure(figsize=(6.4, 3.0))
    axes = figure.subplots()
    axes.loglog(steps, kept, color=ORANGE, marker="s", label="the bound, which you see")
    axes.loglog(steps, errors, color=BLUE, marker="o", label="the error, which you do not")
    axes.set(xlabel="steps of the head solver", ylabel="distance from the best head")
    axes.legend(frameon=False)
    loosest = max(bound / error for bound, error in zip(kept, errors, strict=True))
    return figure, f"FastSGD on friedman1 with 8 units; bound over error at most {loosest:.1f}"


def fairness() -> tuple[Figure, str]:
    """The same twelve numbers of two strategies, unpaired and paired."""
    problem = bilevel.load_problem("friedman1", ridge=1e-2)
    names = ("uniform sqrt", "best response")
    strategies = bilevel.preset_strategies(5e-3, 1e-2, names=names)
    final = bilevel.compare(problem, strategies, seeds=12, steps=300).final("test_mse")
    first, second = (final[name] for name in names)
    figure = Figure(figsize=(6.4, 3.2))
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    for one, other in zip(first, second, strict=True):
        left.plot([0, 1], [one, other], color="#868e9c", linewidth=1)
    for place, values, colour in ((0, first, ORANGE), (1, second, BLUE)):
        left.plot(np.full(len(values), place), values, "o", color=colour)
    left.set_xticks([0, 1], names)
    left.set(xlim=(-0.4, 1.4), ylabel="test MSE")
    left.set_title("a line for each seed")
    ratios = second / first
    right.axhline(1, color=GREY, linewidth=1, linestyle="--")
    right.plot(np.linspace(-0.2, 0.2, len(ratios)), np.sort(ratios), "o", color=BLUE)
    right.set_xticks([])
    right.set(xlim=(-0.6, 0.6), ylabel="ratio of the two")
    right.set_title("the same, seed by seed")
    overlap = int((second > first.min()).sum())
    lower = int((ratios < 1).sum())
    return figure, (
        f"friedman1, 300 steps, {len(ratios)} seeds: the exact head is lower on {lower} of them; "
        f"{overlap} of its values are above the other's lowest; ratios {ratios.min():.2f} to "
        f"{ratios.max():.2f}"
    )


def runs() -> tuple[Figure, str]:
    """CPU seconds of R runs, together and one after another, interleaved."""
    problem = bilevel.load_problem("friedman1")
    strategy = bilevel.TwoTimescale(5e-4, 5e-3)

    def seconds(seeds: list[int]) -> float:
        begin = time.process_time()
        bilevel.solve(problem, strategy, steps=200, every=200, seeds=seeds)
        return time.process_time() - begin

    seconds([0])
    counts = [1, 2, 5, 10, 20, 50, 100]
    single, together = [], {count: [] for count in counts}
    for _ in range(3):
        for count in counts:
            together[count].append(seconds(list(range(count))))
            single.append(seconds([count]))
    one = float(np.median(single))
    medians = [float(np.median(together[count])) for count in counts]
    figure = Figure(figsize=(6.4, 3.0))
    axes = figure.subplots()
    axes.loglog(counts, [one * count for count in counts], color=ORANGE, marker="s",
                label="one after another (one run, times their number)")  # fmt: skip
    axes.loglog(counts, medians, color=BLUE, marker="o", label="as one training")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set(xlabel="runs", ylabel="CPU seconds of 200 steps")
    axes.legend(frameon=False)
    factors = ", ".join(
        f"{count}: {one * count / took:.1f}" for count, took in zip(counts, medians, strict=True)
    )
    return figure, f"times faster than one after another, by the number of runs: {factors}"


if __name__ == "__main__":
    for name in sys.argv[1:] or ("bounds", "fairness"):
        with mpl.rc_context(LOOK):
            figure, note = {"bounds": bounds, "fairness": fairness, "runs": runs}[name]()
            (TARGET / f"{name}.svg").write_text(svg(figure, note), encoding="utf-8")
        sys.stdout.write(f"{name}: {note}\n")
