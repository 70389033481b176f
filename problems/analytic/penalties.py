"""A15: penalties of a linear regression, chosen on validation rows."""

import math
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from bilevel import Batch, Box, LinearHeadProblem
from bilevel.errors import ArgumentError
from problems.analytic.base import AnalyticProblem, Curvature, Lipschitz, double, solved, spectral


def regression(seed: int, sizes: dict[str, int], inputs: int) -> dict[str, Batch]:
    """Gaussian inputs, and noisy linear targets of unequal coefficients."""
    source = torch.Generator().manual_seed(seed)
    truth = torch.linspace(1.5, 0.0, inputs, dtype=torch.float64)
    groups = {}
    for name, rows in sizes.items():
        x = torch.randn(rows, inputs, generator=source, dtype=torch.float64)
        noise = torch.randn(rows, generator=source, dtype=torch.float64)
        groups[name] = Batch(x, x @ truth + noise)
    return groups


class PenalisedRegression(LinearHeadProblem, AnalyticProblem):
    """F = |X_v theta - t_v|^2 / (2 n_v), g = |X theta - t|^2 / (2 n) + theta' diag(p(w)) theta / 2.

        theta*(w) = (X'X / n + diag(p))^-1 X't / n
        grad Phi  = -p'(w) (theta* (X'X / n + diag(p))^-1 d_theta F)

    Args:
        inputs: d.
        train: n.
        validation: n_v.
        seed: of the data.

    Raises:
        ArgumentError: a size below 1.

    Source: A unit test of this library.
    """

    name = "A15"
    source = "A unit test of this library."
    note = "Drawn rows with a fixed seed."
    body_free_features = True

    def __init__(
        self, inputs: int = 5, train: int = 23, validation: int = 11, seed: int = 0
    ) -> None:
        if min(inputs, train, validation) < 1:
            raise ArgumentError(
                f"All sizes must be at least 1, got {inputs=}, {train=}, {validation=}."
            )
        self.inputs = inputs
        self.groups = regression(seed, {"train": train, "validation": validation}, inputs)

    def data(self, seed: int | None = None) -> dict[str, Any]:
        """The same rows for every seed."""
        return dict(self.groups)

    @override
    def features(self, inputs: Tensor) -> Tensor:  # type: ignore[override] # no body: body_free
        return inputs

    @override
    def body_objective(self, body: Tensor, head: Tensor, batch: dict[str, Any]) -> Tensor:
        rows = batch["validation"]
        residual: Tensor = rows.inputs @ head - rows.targets
        return residual.square().mean() / 2

    def gram(self, body: Tensor) -> Tensor:
        """X'X / n + diag(p)."""
        x = self.groups["train"].inputs.to(body)
        return x.T @ x / len(x) + torch.diag(
            torch.as_tensor(self.penalty(body)).expand(self.inputs)
        )

    @override
    def best_response(self, body: Tensor) -> Tensor:
        x, t = (part.to(body) for part in self.groups["train"])
        return solved(self.gram(body), x.T @ t / len(x))

    def implicit_term(self, body: Tensor) -> Tensor:
        """-theta* times the adjoint, entry by entry, (d,)."""
        x, t = (part.to(body) for part in self.groups["validation"])
        theta = self.best_response(body)
        slope = x.T @ (x @ theta - t) / len(x)
        return -theta * solved(self.gram(body), slope)

    @override
    def curvature(self, body: Tensor) -> Curvature:
        found = torch.linalg.eigvalsh(self.gram(body))
        return Curvature(float(found[0]), float(found[-1]))

    def validation_curvature(self) -> float:
        """|X_v'X_v| / n_v, the Lipschitz constant of d_theta F."""
        x = self.groups["validation"].inputs
        return spectral(x) ** 2 / len(x)


class RidgePenalty(PenalisedRegression):
    """A15 with one penalty w >= 0 for all coefficients: p = w; see `PenalisedRegression`."""

    name = "A15-ridge"
    body_set = Box(0.0, math.inf)
    start = double(0.7)

    @override
    def penalty(self, body: Tensor) -> Tensor:
        return body

    def phi_gradient(self, body: Tensor) -> Tensor:
        """-theta*' (X'X / n + w I)^-1 d_theta F."""
        return self.implicit_term(body).sum()

    @override
    def lipschitz(self, body: Tensor, radius: float = math.inf) -> Lipschitz:
        norm = float(self.best_response(body).norm()) + radius
        return Lipschitz(0.0, self.validation_curvature(), 1.0, 0.0, norm)


class LogPenalties(PenalisedRegression):
    """A15 with one log-penalty per coefficient: p_i = e^{w_i}; see `PenalisedRegression`."""

    name = "A15-log"

    def __init__(
        self, inputs: int = 5, train: int = 23, validation: int = 11, seed: int = 0
    ) -> None:
        super().__init__(inputs, train, validation, seed)
        self.start = torch.linspace(-1.5, 0.5, inputs, dtype=torch.float64)

    @override
    def penalty(self, body: Tensor) -> Tensor:
        return body.exp()

    def phi_gradient(self, body: Tensor) -> Tensor:
        """e^w times the implicit term of each coefficient."""
        return body.exp() * self.implicit_term(body)

    def lipschitz(self, body: Tensor, radius: float = math.inf) -> Lipschitz:
        """d2_{w theta} g = diag(e^w theta)."""
        scale, theta = body.exp(), self.best_response(body).abs()
        norm = float((scale * (theta + radius)).max())
        return Lipschitz(0.0, self.validation_curvature(), float(scale.max()), 0.0, norm)
