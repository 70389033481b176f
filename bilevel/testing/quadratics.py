"""Small problems with quadratic heads to check parts on: numbers, vectors, trees, linear ones."""

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from bilevel.core.generators import generator
from bilevel.problem.base import Batch, StackelbergProblem
from bilevel.problem.linear_head import LinearHeadProblem
from bilevel.trees import Tree


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers, float64."""
    return torch.randn(*shape, generator=generator(seed, "testing", *shape), dtype=torch.float64)


class _Quadratic(StackelbergProblem):
    """Body and head start at normal numbers of these shapes."""

    shapes: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())

    def init_body(self, generator: torch.Generator) -> Tree:
        return torch.randn(self.shapes[0], generator=generator, dtype=torch.float64)

    def init_head(self, generator: torch.Generator) -> Tree:
        return torch.randn(self.shapes[1], generator=generator, dtype=torch.float64)


class ScalarHead(_Quadratic):
    """F = (theta - 1)^2 / 2, g = (theta - w)^2 / 2 + theta^2 / 2: the direct gradient is 0."""

    def data(self, seed: int | None = None) -> dict[str, Any]:
        return {}

    def head_objective(self, body: Tensor, head: Tensor, batch: Any) -> Tensor:
        return (head - body) ** 2 / 2 + head**2 / 2

    def body_objective(self, body: Tensor, head: Tensor, batch: Any) -> Tensor:
        return (head - 1) ** 2 / 2


class VectorHead(_Quadratic):
    """g = (1 + |w|^2 / 4) theta'H theta / 2 - theta'C w, F = |theta - t|^2 / 2 + w_0 theta_0.

    H has the eigenvalues 1/2 to 4, or is the identity times 2.
    """

    shapes = ((3,), (4,))
    isotropic = False

    def __init__(self) -> None:
        basis = torch.linalg.qr(normal(4, 4))[0]
        values = torch.full((4,), 2.0) if self.isotropic else torch.tensor([0.5, 1.0, 2.0, 4.0])
        self.hessian = basis @ torch.diag(values.double()) @ basis.T
        self.coupling, self.target = normal(4, 3), normal(4)

    def data(self, seed: int | None = None) -> dict[str, Any]:
        return {}

    def vectors(self, body: Tree, head: Tree) -> tuple[Tensor, Tensor]:
        return body, head

    def head_objective(self, body: Tree, head: Tree, batch: Any) -> Tensor:
        w, theta = self.vectors(body, head)
        bent = theta @ (self.hessian.to(theta) @ theta) / 2
        value: Tensor = (1 + w.square().sum() / 4) * bent - theta @ (self.coupling.to(w) @ w)
        return value

    def body_objective(self, body: Tree, head: Tree, batch: Any) -> Tensor:
        w, theta = self.vectors(body, head)
        return (theta - self.target.to(theta)).square().sum() / 2 + w[0] * theta[0]


class IsotropicHead(VectorHead):
    """The same with a Hessian that is a multiple of the identity."""

    isotropic = True


class TreeHead(VectorHead):
    """The same with dicts for both levels, 0-dim tensors among their leaves."""

    @override
    def init_body(self, generator: torch.Generator) -> Tree:
        drawn = super().init_body(generator)
        return {"first": drawn[0].clone(), "others": drawn[1:].clone()}

    @override
    def init_head(self, generator: torch.Generator) -> Tree:
        drawn = super().init_head(generator)
        return {"first": drawn[0].clone(), "others": drawn[1:].reshape(3, 1).clone()}

    def vectors(self, body: Tree, head: Tree) -> tuple[Tensor, Tensor]:
        w, theta = (
            torch.cat([tree["first"].reshape(1), tree["others"].flatten()]) for tree in (body, head)
        )
        return w, theta


class PenaltyBody(_Quadratic, LinearHeadProblem):
    """Ridge regression on 4 features, p_i = e^{w_i}; F is the squared error on other rows."""

    shapes = ((4,), (4,))
    body_free_features = True

    @override
    def data(self, seed: int | None = None) -> dict[str, Any]:
        truth = normal(4)
        groups = {}
        for i, (name, n) in enumerate({"train": 17, "validation": 11}.items()):
            x = normal(n, 4, seed=i)
            groups[name] = Batch(x, x @ truth + 0.5 * normal(n, seed=i))
        return groups

    @override
    def init_body(self, generator: torch.Generator) -> Tree:
        return super().init_body(generator) - 1

    def features(self, inputs: Tensor) -> Tensor:  # type: ignore[override] # no body: body_free
        return inputs

    @override
    def penalty(self, body: Tensor) -> Tensor:
        return body.exp()

    def body_objective(self, body: Tensor, head: Tensor, batch: Any) -> Tensor:
        rows = batch["validation"]
        residual: Tensor = rows.inputs @ head - rows.targets
        return residual.square().mean() / 2


class TanhFeatures(_Quadratic, LinearHeadProblem):
    """Two outputs, linear in tanh features and a bias; F is g."""

    shapes = ((2, 3), (4, 2))
    outputs, ridge, fit_bias, penalize_bias = 2, 0.3, True, True

    @override
    def data(self, seed: int | None = None) -> dict[str, Any]:
        x = normal(13, 2)
        return {"train": Batch(x, torch.sin(2 * x) + 0.1 * normal(13, 2, seed=1))}

    @override
    def features(self, body: Tensor, inputs: Tensor) -> Tensor:
        return torch.tanh(inputs @ body)


def quadratics() -> list[StackelbergProblem]:
    """One of each."""
    kinds = (ScalarHead, VectorHead, IsotropicHead, TreeHead, PenaltyBody, TanhFeatures)
    return [kind() for kind in kinds]
