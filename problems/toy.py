"""The scalar product problem of Lemma 4.1: convex after the head has answered, not before."""

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

import bilevel
from bilevel.core.checks import single


class ScalarProduct(bilevel.StackelbergProblem):
    """f(w, theta) = 1/2 (w theta - 1)^2 + lambda/2 theta^2 + mu/2 w^2 on scalars.

        theta*(w) = w / (w^2 + lambda)
        Phi(w)    = lambda / (2 (w^2 + lambda)) + mu/2 w^2
        Phi''(w)  = mu + lambda (3 w^2 - lambda) / (w^2 + lambda)^3

    f is not convex in (w, theta), but Phi is strongly convex where |w| >= sqrt(lambda/3). With
    lambda = 1 and mu = 0.1 the minimiser is w* = 1.470468517231 with Phi* = 0.2662277660168.

    Args:
        ridge: lambda, positive.
        curvature: mu, at least 0.
        noise_scale: standard deviation of the Gaussian noise added to both partial derivatives.

    Source: arXiv 2605.15530, Lemma 4.1. Differs from the source in: 1. W = [0.6, 3] and Theta =
    [-1, 1] are boxes that contain the solution, so that projections are exercised.
    """

    body_set = bilevel.Box(0.6, 3.0)
    head_set = bilevel.Box(-1.0, 1.0)
    note = "f(w, theta) = 1/2 (w theta - 1)^2 + lambda/2 theta^2 + mu/2 w^2, no data."

    def __init__(
        self, ridge: float = 1.0, curvature: float = 0.1, noise_scale: float = 0.0
    ) -> None:
        self.ridge = single(ridge, "`ridge`")
        self.curvature = single(curvature, "`curvature`", zero_allowed=True)
        self.noise_scale = single(noise_scale, "`noise_scale`", zero_allowed=True)

    @override
    def data(self, seed: int | None = None) -> dict[str, Any]:
        return {}

    @override
    def init_body(self, generator: torch.Generator) -> Tensor:
        return 0.6 + 2.4 * torch.rand((), generator=generator, dtype=torch.float64)

    @override
    def init_head(self, generator: torch.Generator) -> Tensor:
        return 2 * torch.rand((), generator=generator, dtype=torch.float64) - 1

    def head_objective(self, body: Tensor, head: Tensor, batch: dict[str, Any]) -> Tensor:
        """f, and a linear term in both levels whose slope is the noise."""
        value = 0.5 * (body * head - 1) ** 2
        value = value + 0.5 * self.ridge * head**2 + 0.5 * self.curvature * body**2
        if "noise" in batch:
            value = value + batch["noise"][0] * body + batch["noise"][1] * head
        return value

    def noise(self, generator: torch.Generator, steps: int) -> Tensor | None:
        """(steps, 2) Gaussian slopes, if there is noise."""
        if self.noise_scale == 0:
            return None
        return self.noise_scale * torch.randn(steps, 2, generator=generator, dtype=torch.float64)

    def metrics(self, body: Tensor, head: Tensor, data: dict[str, Any]) -> dict[str, Tensor]:
        """Squared distances to the solution, where it is known: for the default lambda and mu."""
        if (self.ridge, self.curvature) != (1.0, 0.1):
            return {}
        best = 1.470468517231
        return {
            "body_error": (body - best) ** 2,
            "head_error": (head - best / (best**2 + 1)) ** 2,
        }


def scalar_product(
    ridge: float = 1.0, curvature: float = 0.1, noise_scale: float = 0.0
) -> ScalarProduct:
    """Lemma 4.1: a scalar problem with a known optimum.

    Args:
        ridge: lambda, positive.
        curvature: mu, at least 0.
        noise_scale: standard deviation of the noise that is added to both partial derivatives.

    Raises:
        ArgumentError: a number is out of its range.

    Examples:
        >>> import bilevel, torch
        >>> problem = bilevel.load_problem("scalar-product", ridge=2.0)
        >>> bilevel.best_response(problem, torch.tensor(1.0)).head    # w / (w^2 + ridge)
        tensor(0.3333)
    """
    return ScalarProduct(ridge, curvature, noise_scale)
