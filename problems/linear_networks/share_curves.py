"""Test loss against the share of the first layer, for a fixed sum of both rates."""

import dataclasses
import math

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from bilevel.errors import ArgumentError
from bilevel.report.svg import FAINT, style
from problems.linear_networks import three_layer_orthogonal as three
from problems.linear_networks import two_layer_orthogonal as two
from problems.linear_networks.initial import checked_size
from problems.linear_networks.rates import Steps, checked_rate

POINTS = 201
EXACT, SURROGATE = "#0072b2", "#d55e00"


def expected_loss(depth: int, width: int, lrs: Steps, *, signal_only: bool = False) -> Tensor:
    """The expected loss of the paper's networks of depth 2, or of depth 3 with |a| = |beta| = 1."""
    if depth not in (2, 3):
        raise ArgumentError(
            f"There are closed forms for `depth` 2 and 3, got {depth!r}. `DeepLinearProblem` takes "
            "any depth."
        )
    if depth == 2:
        return two.expected_loss(width, lrs, signal_only=signal_only)
    return three.expected_loss(width, lrs, signal_only=signal_only)


@dataclasses.dataclass(frozen=True, eq=False)
class ShareCurves:
    """Expected losses after one and two steps with the same pair (f S, (1 - f) S) at both.

    Attributes:
        depth: 2 or 3.
        width: h.
        budget: S.
        shares: f, (201,).
        exact: (2, 201), of exact descent.
        surrogate: (2, 201), of signal-only descent.
        script: (2, 201), by the formulas of the authors' scripts.
    """

    depth: int
    width: int
    budget: float
    shares: Tensor
    exact: Tensor
    surrogate: Tensor
    script: Tensor

    @classmethod
    def of(cls, depth: int, width: int, budget: float) -> "ShareCurves":
        """The curves for a budget.

        Raises:
            ArgumentError: there is no closed form for this depth; the width is below 2; the budget
                is negative or not finite.
        """
        checked_size("width", width, least=2)
        checked_rate("budget", budget)
        shares = torch.linspace(0, 1, POINTS, dtype=torch.float64)
        pair = (shares * budget, (1 - shares) * budget)
        exact, surrogate = (
            expected_loss(depth, width, [pair, pair], signal_only=signal_only)[1:]
            for signal_only in (False, True)
        )
        formula = two.script_formula if depth == 2 else three.script_formula
        script = torch.stack([formula(width, *pair, step) for step in (1, 2)])
        return cls(depth, width, float(budget), shares, exact, surrogate, script)

    def best_share(self, step: int) -> float:
        """The share with the lowest exact loss after a step; the larger one of a tie.

        Losses that differ by rounding only are a tie: with d = h a share f is as good as 1 - f.
        """
        losses = self.exact[step - 1]
        tied = losses <= losses.min() + 1e-12
        return float(self.shares[tied].max())

    def alternating(self) -> tuple[float, float]:
        """The losses after (S, 0), then (0, S), and the other way round.

        They are the same for depth 2. For depth 3 it is better to begin with the second layer.
        """
        pairs = [(self.budget, 0.0), (0.0, self.budget)]
        first = expected_loss(self.depth, self.width, pairs)[-1]
        second = expected_loss(self.depth, self.width, pairs[::-1])[-1]
        return float(first), float(second)

    def best_pairs(self) -> tuple[float, float, float]:
        """Shares of the first layer at step 1 and 2 with the lowest loss, on the grid; the loss."""
        first, second = torch.meshgrid(self.shares[::2], self.shares[::2], indexing="ij")
        pairs = [(f * self.budget, (1 - f) * self.budget) for f in (first, second)]
        losses = expected_loss(self.depth, self.width, pairs)[-1]
        best = int(losses.argmin())
        return float(first.flatten()[best]), float(second.flatten()[best]), float(losses.min())

    def figure(self) -> Figure:
        """Two panels, after one and after two steps; matplotlib without pyplot."""
        with style():
            figure = Figure(figsize=(7.6, 3.3), layout="constrained")
            panels = figure.subplots(1, 2)
            for step, axes in enumerate(panels, start=1):
                self._draw(axes, step)
            handles, labels = panels[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        return figure

    def _draw(self, axes: Axes, step: int) -> None:
        shares, row = self.shares.numpy(), step - 1
        steps = "one step" if step == 1 else "two steps, the same pair at both"
        axes.set_title(f"After {steps}")
        axes.plot(shares, self.exact[row].numpy(), color=EXACT, linewidth=1.8, label="exact")
        axes.plot(shares, self.surrogate[row].numpy(), color=SURROGATE, dashes=(5, 2),
                  label="signal only")  # fmt: skip
        losses = self.exact[row].numpy()
        best = np.flatnonzero(losses <= losses.min() + 1e-12)
        axes.plot(shares[best], losses[best], "o", color=EXACT, markersize=6, clip_on=False,
                  zorder=5, label="lowest exact loss")  # fmt: skip
        axes.axvline(0.5, color=FAINT, linewidth=0.8, zorder=0)
        height = 0.9 if losses[len(losses) // 2] < losses.mean() else 0.4  # where no curve is
        axes.text(0.51, height, "equal", transform=axes.get_xaxis_transform(), color=FAINT)
        axes.set_xlim(0, 1)
        axes.ticklabel_format(useOffset=False)
        axes.set_xlabel("share of the first layer in the sum of the rates")
        if step == 1:
            axes.set_ylabel("expected test loss")


def usual_budgets(depth: int, width: int) -> tuple[float, ...]:
    """The budgets of the paper's figures at width 1000, in the scale of the depth elsewhere.

    Weights move by O(1) where the rates are of order h^(3/2) for depth 2 and h^(1/2) for depth 3.
    """
    if depth == 2:
        return tuple(budget * (width / 1000) ** 1.5 for budget in (27000.0, 45000.0, 63000.0))
    return tuple(budget * math.sqrt(width / 1000) for budget in (30.0, 65.0, 100.0))
