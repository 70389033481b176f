"""Draw docs/assets/alternation.svg: problem A5 with and without the implicit term.

    F(w, theta) = w theta - 2 w + 1,   g(w, theta) = (theta - w)^2,   Phi(w) = (w - 1)^2

The same steps in both: along grad Phi, or along d_w F alone with a head step after each body step.

Run: python benchmarks/alternation_figure.py
"""

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

BODY_LR, HEAD_LR, STEPS, START = 0.1, 0.4, 80, (0.0, 0.0)
TARGET = Path(__file__).parent.parent / "docs" / "assets" / "alternation.svg"


def alternation() -> list[float]:
    """The body, when it follows d_w F = theta - 2."""
    w, theta = START
    path = [w]
    for _ in range(STEPS):
        w -= BODY_LR * (theta - 2)
        theta -= HEAD_LR * 2 * (theta - w)
        path.append(w)
    return path


def with_implicit_term() -> list[float]:
    """The body, when it follows grad Phi = 2 w - 2."""
    w = START[0]
    path = [w]
    for _ in range(STEPS):
        w -= BODY_LR * (2 * w - 2)
        path.append(w)
    return path


def main() -> None:
    """Write the figure; the same bytes every time."""
    paths = {
        "with the implicit term": (with_implicit_term(), "#0072b2", "-"),
        "alternation, without it": (alternation(), "#d55e00", "--"),
    }
    with mpl.rc_context({"svg.hashsalt": "alternation", "svg.fonttype": "path", "font.size": 9}):
        figure = Figure(figsize=(7, 2.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        for label, (path, colour, style) in paths.items():
            left.plot(path, style, color=colour, label=label)
            right.plot([(w - 1) ** 2 for w in path], style, color=colour)
        left.axhline(1, color="#808080", linewidth=0.8, zorder=0)
        left.set(xlabel="step", ylabel="body $w$", ylim=(-0.1, 2.2))
        right.set(xlabel="step", ylabel=r"$\Phi(w)$", ylim=(-0.06, 1.1))
        left.legend(frameon=False, loc="lower right")
        for axes in (left, right):
            axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(TARGET, facecolor="white", metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main()
