"""A16: features that the body makes, with a linear head of several outputs."""

import math
from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import override

from bilevel import Batch, LinearHeadProblem
from bilevel.errors import ArgumentError
from problems.analytic.base import AnalyticProblem, Curvature, Lipschitz, grown, solved, spectral


class FeatureRegression(LinearHeadProblem, AnalyticProblem):
    """A16: F = |Z Theta - Y|^2 / (2 n), g the same plus lambda/2 |Theta|^2, Z = sigma(X W).

    g is on the training rows, F on the validation or the training rows (without the penalty).

        Theta*(W) = (Z'Z / n + lambda I)^-1 Z'Y / n
        grad Phi  = d_W F - X'[sigma'(X W) * (Z V Theta' + R V')] / n,  R = Z Theta* - Y
        V         = (Z'Z / n + lambda I)^-1 d_Theta F

    Args:
        train: n, at least 2.
        features: d; above n, Z'Z is singular and lambda alone makes the head unique.
        outputs: k.
        inputs: columns of X.
        activation: sigma, "linear" or "tanh".
        rank: how many different training inputs there are, so that Z has at most that rank; None:
            n.
        ridge: lambda, positive.
        upper: the rows of F.
        validation: n_v.
        seed: of the data.

    Raises:
        ArgumentError: an option out of range.

    Source: A unit test of this library.
    """

    name = "A16"
    source = "A unit test of this library."
    note = "Drawn rows with a fixed seed."

    def __init__(
        self,
        train: int = 23,
        features: int = 5,
        outputs: int = 2,
        inputs: int = 3,
        *,
        activation: Literal["linear", "tanh"] = "tanh",
        rank: int | None = None,
        ridge: float = 0.1,
        upper: Literal["train", "validation"] = "validation",
        validation: int = 11,
        seed: int = 0,
    ) -> None:
        distinct = train if rank is None else rank
        if not (min(features, outputs, inputs, validation) >= 1 and train >= 2 and ridge > 0):
            raise ArgumentError(
                "Sizes must be at least 1, train at least 2 and ridge positive, got "
                f"{train=}, {features=}, {outputs=}, {inputs=}, {validation=}, {ridge=}."
            )
        if not 1 <= distinct <= train:
            raise ArgumentError(f"`rank` must be from 1 to train={train}, got {rank}.")
        if activation not in ("linear", "tanh") or upper not in ("train", "validation"):
            raise ArgumentError(
                'activation is "linear" or "tanh" and upper "train" or "validation", got '
                f"{activation=}, {upper=}."
            )
        self.outputs, self.ridge, self.upper = outputs, ridge, upper
        self.tanh = activation == "tanh"
        source = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=source, dtype=torch.float64)

        x = normal(distinct, inputs)[torch.arange(train) % distinct]
        truth = normal(inputs, outputs)
        self.groups = {
            name: Batch(rows, torch.sin(rows @ truth) + 0.3 * normal(len(rows), outputs))
            for name, rows in (("train", x), ("validation", normal(validation, inputs)))
        }
        self.start = normal(inputs, features) / inputs**0.5

    def data(self, seed: int | None = None) -> dict[str, Any]:
        """The same rows for every seed."""
        return dict(self.groups)

    @override
    def features(self, body: Tensor, inputs: Tensor) -> Tensor:
        return (inputs @ body).tanh() if self.tanh else inputs @ body

    @override
    def body_objective(self, body: Tensor, head: Tensor, batch: dict[str, Any]) -> Tensor:
        rows = batch[self.upper]
        residual: Tensor = self.features(body, rows.inputs) @ head - rows.targets
        return residual.square().sum() / (2 * len(residual))

    def gram(self, body: Tensor) -> Tensor:
        """Z'Z / n + lambda I."""
        z, _, _ = self.parts(body, "train")
        return z.T @ z / len(z) + self.ridge * torch.eye(z.shape[1]).to(z)

    def parts(self, body: Tensor, group: str) -> tuple[Tensor, Tensor, Batch]:
        """Z, sigma'(X W) and the rows of a group."""
        rows = Batch(*(part.to(body) for part in self.groups[group]))
        z = self.features(body, rows.inputs)
        return z, 1 - z**2 if self.tanh else torch.ones_like(z), rows

    @override
    def best_response(self, body: Tensor) -> Tensor:
        z, _, rows = self.parts(body, "train")
        return solved(self.gram(body), z.T @ rows.targets / len(z))

    def phi_gradient(self, body: Tensor) -> Tensor:
        """The formula of the class docstring."""
        theta = self.best_response(body)
        z, bend, rows = self.parts(body, self.upper)
        residual = z @ theta - rows.targets
        direct = rows.inputs.T @ (bend * (residual @ theta.T)) / len(z)
        adjoint = solved(self.gram(body), z.T @ residual / len(z))
        z, bend, rows = self.parts(body, "train")
        residual = z @ theta - rows.targets
        moved = z @ adjoint @ theta.T + residual @ adjoint.T
        return direct - rows.inputs.T @ (bend * moved) / len(z)

    def curvature(self, body: Tensor) -> Curvature:
        """lambda plus the extreme eigenvalues of Z'Z / n."""
        found = torch.linalg.eigvalsh(self.gram(body))
        return Curvature(float(found[0]), float(found[-1]))

    def lipschitz(self, body: Tensor, radius: float = math.inf) -> Lipschitz:
        """Upper bounds, with the spectral norm of each factor.

        For a change H of the head, d_W |Z Theta - Y|^2 / (2n) changes at the rate
        X'[sigma' * (Z H Theta' + R H')] / n: at most max|sigma'| |X| (|Z| |Theta| + |R|) |H| / n,
        and this rate itself changes by at most 2 max|sigma'| |X| |Z| / n per unit of the head.
        """
        theta = self.best_response(body)

        def bounds(group: str) -> tuple[float, float, float]:
            z, bend, rows = self.parts(body, group)
            scale = float(bend.abs().max()) * spectral(rows.inputs) / len(z)
            size, off = spectral(z), spectral(z @ theta - rows.targets)
            slope = 2 * scale * size
            return grown(scale * (size * spectral(theta) + off), slope, radius), slope, size

        cross_norm, cross, _ = bounds("train")
        body_gradient, _, size = bounds(self.upper)
        head_gradient = size**2 / len(self.groups[self.upper].targets)
        return Lipschitz(body_gradient, head_gradient, cross, 0.0, cross_norm)
