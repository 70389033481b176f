"""Draw figures of the concepts in docs/assets/concepts: one small problem, looked at in four ways.

    g(w, theta) = (w theta - 1)^2 / 2 + theta^2 / 2 + mu w^2 / 2,    theta*(w) = w / (w^2 + 1)

It is `problems.toy` with lambda = 1, of Lemma 4.1 in arXiv 2605.15530; mu = .1.

    python docs/figures/concepts.py
"""

from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
from look import ASSETS, BLUE, GREEN, GREY, LOOK, ORANGE, svg
from matplotlib.axes import Axes
from matplotlib.figure import Figure

MU = 0.1
TARGET = ASSETS / "concepts"


def g(w: Any, theta: Any) -> Any:
    """The objective of both levels."""
    return 0.5 * (w * theta - 1) ** 2 + 0.5 * theta**2 + 0.5 * MU * w**2


def best(w: Any) -> Any:
    """The head that answers to the body."""
    return w / (w**2 + 1)


def phi(w: Any) -> Any:
    """What the body minimises, once the head has answered."""
    return g(w, best(w))


def g_w(w: float, theta: float) -> float:
    """The partial derivative in the body."""
    return theta * (w * theta - 1) + MU * w


def g_theta(w: float, theta: float) -> float:
    """The partial derivative in the head."""
    return w * (w * theta - 1) + theta


def contours(axes: Axes, widths: tuple[float, float], heights: tuple[float, float]) -> None:
    """Level lines of g, evenly spaced in its logarithm."""
    w, theta = np.meshgrid(np.linspace(*widths, 200), np.linspace(*heights, 200))
    levels = np.geomspace(0.27, 8, 14)
    axes.contour(w, theta, g(w, theta), levels, colors="#868e9c", linewidths=0.8)
    axes.set(xlim=widths, ylim=heights, xlabel="body w", ylabel=r"head $\theta$")


def two_levels() -> Figure:
    """Valleys of g over the head at three bodies, and what is left of them: Phi."""
    figure = Figure(figsize=(6.4, 3.1))
    left, right = figure.subplots(1, 2)
    contours(left, (0.2, 3), (-0.2, 1.3))
    w = np.linspace(0.2, 3, 200)
    left.plot(w, best(w), color=ORANGE, label=r"$\theta^*(w)$, the best head")
    right.plot(w, phi(w), color=BLUE, label=r"$\Phi(w) = g(w, \theta^*(w))$")
    for body in (0.6, 1.47, 2.6):
        left.plot([body, body], [-0.2, 1.3], color=GREY, linewidth=1, linestyle=":")
        left.plot(body, best(body), "o", color=ORANGE)
        right.plot(body, phi(body), "o", color=BLUE)
    left.set_title(r"$g(w, \theta)$: a head for each body")
    right.set_title("what the body sees")
    right.set(xlabel="body w", ylabel=r"$\Phi$", xlim=(0.2, 3))
    left.legend(loc="upper right", frameon=True, framealpha=1, edgecolor="none")
    right.legend(loc="upper right", frameon=False)
    return figure


def best_response() -> Figure:
    """Phi is the lower envelope of g with heads that are held: they touch with one slope."""
    figure = Figure(figsize=(6.4, 3.1))
    axes = figure.subplots()
    w = np.linspace(0.2, 3, 300)
    for at in (0.35, 0.6, 1.47, 2.1, 2.8):
        axes.plot(w, g(w, best(at)), color="#868e9c", linewidth=1)
    body = 0.9
    axes.plot(w, g(w, best(body)), color=ORANGE, label=r"$g(w, \theta^*(0.9))$: the head is held")
    axes.plot(w, phi(w), color=BLUE, linewidth=2.4, label=r"$\Phi(w)$: the head answers")
    slope, near = g_w(body, best(body)), np.array([-0.45, 0.45])
    axes.plot(body + near, phi(body) + slope * near, color=GREY, linewidth=1.4, linestyle="--",
              label="one slope for both, at 0.9")  # fmt: skip
    axes.plot(body, phi(body), "o", color=GREY)
    axes.set(xlabel="body w", ylabel="objective", xlim=(0.2, 3), ylim=(0.2, 0.95))
    axes.legend(loc="upper right", frameon=True, framealpha=1, edgecolor="none")
    return figure


def implicit_term() -> Figure:
    """Problem A5: F is not g, and F with the head held crosses Phi."""
    figure = Figure(figsize=(6.4, 3.1))
    left, right = figure.subplots(1, 2)
    w, body = np.linspace(-0.2, 3, 200), 1.7
    left.plot(w, (w - 1) ** 2, color=BLUE, linewidth=2.4, label=r"$\Phi$: the head answers")
    left.plot(w, w * body - 2 * w + 1, color=ORANGE, label=r"$F(w, \theta^*(1.7))$: it is held")
    left.plot(body, (body - 1) ** 2, "o", color=GREY)
    left.set(xlabel="body w", ylabel="objective", xlim=(-0.2, 3), ylim=(-0.3, 4.4))
    left.set_title("two slopes at one body")
    left.legend(loc="upper center", frameon=False)
    right.axhline(0, color="#868e9c", linewidth=1)
    right.plot(w, 2 * w - 2, color=BLUE, linewidth=2.4, label=r"slope of $\Phi$: both terms")
    right.plot(w, w - 2, color=ORANGE, label=r"slope of $F$, held: one")
    right.plot([1, 2], [0, 0], "o", color=GREY)
    right.annotate("the optimum", (1, 0), (0.2, 1.2), arrowprops={"arrowstyle": "-", "color": GREY})
    right.annotate("alternation\nstops here", (2, 0), (1.9, -1.6),
                   arrowprops={"arrowstyle": "-", "color": GREY})  # fmt: skip
    right.set(xlabel="body w", ylabel="slope", xlim=(-0.2, 3), ylim=(-2.4, 4))
    right.set_title("where they vanish")
    right.legend(loc="upper left", frameon=False)
    return figure


def path(alpha: float, head: Callable[[float, float], float], steps: int) -> np.ndarray:
    """Steps of the body with rate alpha; the head then moves as `head(w, theta)` says."""
    w, theta = 0.35, 1.1
    points = [(w, theta)]
    for _ in range(steps):
        w = w - alpha * g_w(w, theta)
        theta = head(w, theta)
        points.append((w, theta))
    return np.array(points)


def two_time_scales() -> Figure:
    """Three ways down: one rate, a fast head, the exact head."""
    figure = Figure(figsize=(6.4, 3.4))
    axes = figure.subplots()
    contours(axes, (0.2, 1.9), (0.1, 1.2))
    w = np.linspace(0.2, 1.9, 200)
    axes.plot(w, best(w), color=GREY, linewidth=1, linestyle="--", label=r"$\theta^*(w)$")
    alpha = 0.1
    paths = {
        "one rate: .1 and .1": (
            path(alpha, lambda w, t: t - alpha * g_theta(w, t), 300), ORANGE, "o"),
        "two time scales: .1 and .4": (
            path(alpha, lambda w, t: t - 0.4 * g_theta(w, t), 300), BLUE, "s"),
        "best response: .1 and solved": (path(alpha, lambda w, _: best(w), 300), GREEN, "^"),
    }  # fmt: skip
    for name, (points, colour, marker) in paths.items():
        axes.plot(
            *points.T,
            color=colour,
            marker=marker,
            markersize=3.5,
            markevery=3,
            linewidth=1,
            label=name,
        )
    axes.plot(1.470468517231, best(1.470468517231), "*", color="black", markersize=11)
    axes.legend(loc="upper right", frameon=True, framealpha=1, edgecolor="none")
    return figure


FIGURES = {
    "two-levels": two_levels,
    "best-response": best_response,
    "implicit-term": implicit_term,
    "two-time-scales": two_time_scales,
}

if __name__ == "__main__":
    TARGET.mkdir(exist_ok=True)
    for name, draw in FIGURES.items():
        with mpl.rc_context(LOOK):
            (TARGET / f"{name}.svg").write_text(svg(draw()), encoding="utf-8")
