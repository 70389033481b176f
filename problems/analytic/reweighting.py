"""A10: the body weighs two training rows."""

import math
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from bilevel import Batch
from problems.analytic.base import AnalyticProblem, Curvature, Lipschitz, Optimum, double


class Reweighting(AnalyticProblem):
    """A10: F = (theta - 1/4)^2 / 2, g = [(1 - s) theta^2 + s (theta - 1)^2] / 2, s = sigmoid(w).

        theta*(w) = s,   Phi'(w) = (s - 1/4) s (1 - s),   optimum w = -ln 3, Phi = 0

    The rows 0 and 1 are data: g is the mean over them of q_i (theta - t_i)^2 / 2 with the weights
    q = (2 - 2s, 2s), F the mean over the validation row 1/4.

    Source: A unit test of this library.
    """

    name = "A10"
    source = "A unit test of this library."
    start = double(0.0)
    start_value = 0.03125
    start_gradient = double(0.0625)
    solution = Optimum(double(-math.log(3)), 0.0)
    note = "The body weighs two rows; the inputs say which row it is."

    def data(self, seed: int | None = None) -> dict[str, Any]:
        """Two rows to train on, one to validate on."""
        return {
            "train": Batch(double(0.0, 1.0), double(0.0, 1.0)),
            "validation": Batch(double(0.0).reshape(1), double(0.25).reshape(1)),
        }

    @override
    def head_objective(self, body: Tensor, head: Tensor, batch: dict[str, Any]) -> Tensor:
        which, targets = batch["train"]
        weights = 2 * ((1 - which) * torch.sigmoid(-body) + which * torch.sigmoid(body))
        value: Tensor = (weights * (head - targets) ** 2).mean() / 2
        return value

    @override
    def body_objective(self, body: Tensor, head: Tensor, batch: dict[str, Any]) -> Tensor:
        value: Tensor = ((head - batch["validation"].targets) ** 2).mean() / 2
        return value

    @override
    def best_response(self, body: Tensor) -> Tensor:
        return torch.sigmoid(body)

    @override
    def phi_gradient(self, body: Tensor) -> Tensor:
        s = torch.sigmoid(body)
        return (s - 0.25) * s * (1 - s)

    def curvature(self, body: Tensor) -> Curvature:
        """1: the weights add up to it."""
        return Curvature(1.0, 1.0)

    def lipschitz(self, body: Tensor, radius: float = math.inf) -> Lipschitz:
        """d2_{w theta} g = -s (1 - s), whatever the head is."""
        s = float(torch.sigmoid(body))
        return Lipschitz(0.0, 1.0, 0.0, 0.0, s * (1 - s))
