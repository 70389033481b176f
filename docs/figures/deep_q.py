"""The figure of docs/problems/deep-q.md, from a results folder of `bilevel compare cartpole`.

    bilevel compare cartpole --output results/cartpole
    python docs/figures/deep_q.py results/cartpole

writes docs/assets/deep-q.svg and prints the tables of the page.
"""

import itertools
import sys

import matplotlib as mpl
import numpy as np
from look import ASSETS, COLOURS, LOOK, svg
from matplotlib import pyplot

import bilevel
from bilevel.comparison.statistics.paired import mean_interval

PANELS = (
    ("uniform slow", "uniform sqrt", "swapped", "uniform fast", "two-timescale"),
    ("two-timescale", "five head steps", "head refitted", "head exact"),
)
ORDER = ("two-timescale", "uniform fast", "swapped", "uniform sqrt", "uniform slow",
         "five head steps", "head refitted", "head exact")  # fmt: skip
METRICS = ("last_return", "area_return")
COLOUR = dict(zip(ORDER, (*COLOURS, *COLOURS[1:4]), strict=True))


def interval(values: np.ndarray) -> str:
    """A mean with its interval."""
    mean = mean_interval(values)
    return f"{mean.value:.0f} [{mean.low:.0f}, {mean.high:.0f}]"


def tables(found: bilevel.Comparison) -> None:
    """Means of both returns, and the pairs that differ."""
    final = {metric: found.final(metric) for metric in METRICS}
    others = {metric: found.final(metric) for metric in ("mean_max_q", "feature_rank", "head_gap")}
    for name in found.strategies:
        last, area = (interval(final[metric][name]) for metric in METRICS)
        gap = others["head_gap"][name].mean()
        q, rank = (others[metric][name].mean() for metric in ("mean_max_q", "feature_rank"))
        best = final["last_return"][name].max()
        print(f"| {name} | {last} | {best:.0f} | {area} | {q:.1f} | {rank:.0f} | {gap:.3f} |")
    for metric, each in itertools.chain((m, x) for m in METRICS for x in found.paired(m)):
        ends = f"{each.effect:.0f} [{each.low:.0f}, {each.high:.0f}]"
        mark = "*" if each.significant else " "
        print(f"{mark} {metric}: {each.strategy} - {each.baseline} {ends}, p {each.p_adjusted:.2g}")


def curves(found: bilevel.Comparison) -> pyplot.Figure:
    """The return of the latest episode: means over seeds, with intervals as bands."""
    figure, axes = pyplot.subplots(1, 2, figsize=(7.6, 3.2), sharey=True)
    for panel, names in zip(axes, PANELS, strict=True):
        for name in names:
            table = found.history[name]
            steps, values = table["agent_steps"].mean(1), table["latest_return"]
            means = [mean_interval(row) for row in values]
            low, high = ([getattr(mean, end) for mean in means] for end in ("low", "high"))
            colour = COLOUR[name]
            panel.fill_between(steps, low, high, color=colour, alpha=0.13, linewidth=0)
            panel.plot(steps, values.mean(1), color=colour, label=name)
        panel.set_xlabel("agent steps")
        panel.legend(loc="lower right", frameon=False, fontsize=8)
    axes[0].set_ylabel("return of the latest episode")
    return figure


def main() -> None:
    """Draw and print."""
    found = bilevel.Comparison.load(sys.argv[1])
    tables(found)
    with mpl.rc_context(LOOK):
        figure = curves(found)
        (ASSETS / "deep-q.svg").write_text(svg(figure), encoding="utf-8")


if __name__ == "__main__":
    main()
