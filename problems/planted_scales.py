"""Problems whose levels need rates that are known factors apart: built for advice on rates.

A body W = s_b V and a head theta = s_h phi of a plain problem; V and phi are what is trained. A
step of SGD with the rates (a / s_b^2, b / s_h^2) moves W and theta as one with (a, b) does on the
plain problem; one of RMSProp with (a / s_b, b / s_h), but for its eps.
"""

import math
from typing import Any

import torch
from sklearn.datasets import make_friedman1
from torch import Tensor
from typing_extensions import override

import bilevel
from bilevel.problem.network.hidden_layers import Network
from bilevel.trees import Tree, tree_map
from problems.regression import Regression
from problems.splits import Splits, last_rows


class PlantedScales(Regression):
    """Friedman 1 and a network with one hidden layer, its weights and its head in other units.

    The head's bias is the weight of a constant feature, in the head's units and penalised.

    Args:
        body_scale: s_b: W = s_b V, and V starts where W = s_b V is a usual start.
        head_scale: s_h.
        width: of the hidden layer.
        ridge: of theta: phi is penalised by s_h^2 of it.
    """

    fit_bias = False

    def __init__(
        self,
        body_scale: float = 1.0,
        head_scale: float = 1.0,
        width: int = 64,
        ridge: float = 1e-4,
    ) -> None:
        self.body_scale, self.head_scale = body_scale, head_scale
        sizes = {"test": 1000, "validation": 200}

        def draw(seed: int) -> Splits:
            inputs, targets = make_friedman1(2000, random_state=seed, noise=1.0)
            return last_rows(inputs, targets, sizes)

        super().__init__(draw, Network(width, 1, "relu"), ridge * head_scale**2)

    @override
    def init_body(self, generator: torch.Generator) -> Tree:
        return tree_map(lambda leaf: leaf / self.body_scale, super().init_body(generator))

    @override
    def init_head(self, generator: torch.Generator) -> Tensor:
        return super().init_head(generator) / self.head_scale

    @override
    def features(self, body: Tree, inputs: Tensor) -> Tensor:
        weights = tree_map(lambda leaf: leaf * self.body_scale, body)
        hidden = super().features(weights, inputs)
        return self.head_scale * torch.cat([hidden, torch.ones_like(hidden[..., :1])], -1)


class Pretrained(bilevel.LinearHeadProblem):
    """A body that is nearly right under a new head, and few rows.

    t = relu(x W*) theta* + noise; the body starts near W*, the head at zero.

    Args:
        head_scale: s_h.
        rows: for training.
    """

    criterion = bilevel.SquaredError()
    redraws_data = True
    columns, units, deviation, spread = 20, 32, 0.5, 0.3

    def __init__(self, head_scale: float = 1.0, rows: int = 150) -> None:
        self.head_scale, self.rows = head_scale, rows
        self.ridge = 1e-3 * head_scale**2
        made = torch.Generator().manual_seed(12345)
        size = (self.columns, self.units)
        self.weights = torch.randn(size, generator=made, dtype=torch.float64)
        self.weights *= math.sqrt(2 / self.columns)
        self.theta = torch.randn(self.units, generator=made, dtype=torch.float64)
        self.theta /= math.sqrt(self.units)

    @override
    def data(self, seed: int | None = None) -> dict[str, Any]:
        made = torch.Generator().manual_seed(777 + (seed or 0))
        groups = {}
        for name, count in (("train", self.rows), ("validation", 200), ("test", 1000)):
            inputs = torch.randn(count, self.columns, generator=made, dtype=torch.float64)
            noise = torch.randn(count, generator=made, dtype=torch.float64)
            targets = torch.relu(inputs @ self.weights) @ self.theta + self.deviation * noise
            groups[name] = bilevel.Batch(inputs, targets)
        return groups

    @override
    def init_body(self, generator: torch.Generator) -> Tensor:
        away = torch.randn(self.weights.shape, generator=generator, dtype=torch.float64)
        return self.weights + self.spread * away / math.sqrt(self.columns)

    @override
    def init_head(self, generator: torch.Generator) -> Tensor:
        return torch.zeros(self.units, dtype=torch.float64)

    @override
    def features(self, body: Tensor, inputs: Tensor) -> Tensor:
        return self.head_scale * torch.relu(inputs @ body)
