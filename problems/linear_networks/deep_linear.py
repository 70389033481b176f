"""Deep linear networks of any depth and shape: exact gradients, descent, step polynomials."""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from bilevel.core.checks import check_flag, is_ordered, single
from bilevel.errors import ArgumentError, DataError, ShapeError, spell
from problems.linear_networks.rates import Steps, checked_steps
from problems.linear_networks.step_polynomial import Constraint, OptimalRates, StepPolynomial


@dataclasses.dataclass(frozen=True, eq=False)
class DeepLinearProblem:
    r"""$f(x) = \kappa x W_1 \dots W_L$, trained on moments of the data by gradient descent.

    $$
    \begin{aligned}
    \text{train loss} &: \tfrac12 \operatorname{tr}(W^\top \kappa^2 \Sigma W)
        - \operatorname{tr}(\kappa W^\top C) + \text{constant}
        = \tfrac{1}{2n} \lVert f(X) - Y\rVert^2 \\
    \text{test loss} &: \operatorname{tr}(E^\top \Sigma_{\text{test}} E), \quad E = \kappa W - \beta
    \end{aligned}
    $$

    with $W = W_1 \dots W_L$. (The test loss has no 1/2 and no noise.) The gradient of the train
    loss in $W_k$, with $A = W_1 \dots W_{k-1}$ and $B = W_{k+1} \dots W_L$, is

    $$\kappa A^\top (\kappa \Sigma W - C) B^\top = \text{signal} + \text{self-interaction}$$

    where the signal is $-\kappa A^\top C B^\top$ and the self-interaction
    $\kappa^2 A^\top \Sigma W B^\top$. All layers move at once. A frozen layer is one with rate 0.

    Args:
        weights: W_1 (d, h_1), ..., W_L (h_{L-1}, K).
        Sigma: $X^\top X / n$, (d, d).
        C: $X^\top Y / n$, (d, K). It holds the noise of the targets, if there is any.
        beta: the map to learn, (d, K): the noiseless targets are $X \beta$.
        kappa: the prefactor, positive.
        Sigma_test: the covariance of the test inputs, (d, d); None: the identity.

    Raises:
        ShapeError: the shapes do not fit together.
        DataError: an entry is not finite, or a covariance is not symmetric.
        ArgumentError: `kappa` is not positive, or there is no layer.

    Source: arXiv 2606.00340 and the authors' code. Differs from the source in: 1. any depth,
    shapes, covariance and noise.

    Examples:
        >>> import torch
        >>> one = torch.ones(1, 1)
        >>> net = DeepLinearProblem([2 * one, one], Sigma=one, C=one, beta=one)  # f(x) = 2 x
        >>> [g.item() for g in net.gradients()]
        [1.0, 2.0]
        >>> losses, weights = net.gd([(0.0, 0.25)])  # the first layer is frozen
        >>> losses
        tensor([1., 0.], dtype=torch.float64)
    """

    weights: Sequence[Tensor]
    Sigma: Tensor
    C: Tensor
    beta: Tensor
    kappa: float = 1.0
    Sigma_test: Tensor | None = None

    def __post_init__(self) -> None:
        if isinstance(self.weights, str | bytes | Tensor) or not isinstance(self.weights, Iterable):
            raise ArgumentError(f"`weights` must be a list of matrices, got {spell(self.weights)}.")
        object.__setattr__(self, "weights", list(self.weights))
        if len(self.weights) == 0:
            raise ArgumentError("A network needs at least one layer: `weights` is empty.")
        single(self.kappa, "`kappa`")
        object.__setattr__(self, "weights", tuple(
            _matrix(f"weights[{k}]", weight) for k, weight in enumerate(self.weights)
        ))  # fmt: skip
        for name in ("Sigma", "C", "beta"):
            object.__setattr__(self, name, _matrix(name, getattr(self, name)))
        if self.Sigma_test is not None:
            object.__setattr__(self, "Sigma_test", _matrix("Sigma_test", self.Sigma_test))
        self._check_shapes()

    def _check_shapes(self) -> None:
        rows, columns = self.weights[0].shape[0], self.weights[-1].shape[1]
        for k, (left, right) in enumerate(itertools.pairwise(self.weights)):
            if left.shape[1] != right.shape[0]:
                raise ShapeError(
                    f"weights[{k}] is {tuple(left.shape)} and weights[{k + 1}] is "
                    f"{tuple(right.shape)}: they cannot be multiplied."
                )
        expected = {"Sigma": (rows, rows), "C": (rows, columns), "beta": (rows, columns),
                    "Sigma_test": (rows, rows)}  # fmt: skip
        for name, shape in expected.items():
            found = getattr(self, name)
            if found is None:
                continue
            if tuple(found.shape) != shape:
                raise ShapeError(
                    f"`{name}` must be {shape} for weights of {rows} inputs and {columns} outputs, "
                    f"got {tuple(found.shape)}."
                )
            if name.startswith("Sigma") and not torch.allclose(found, found.T, rtol=1e-10):
                raise DataError(f"`{name}` is a covariance and must be symmetric.")

    @classmethod
    def from_data(
        cls,
        inputs: Tensor,
        targets: Tensor,
        weights: Sequence[Tensor],
        beta: Tensor,
        kappa: float = 1.0,
        Sigma_test: Tensor | None = None,
    ) -> "DeepLinearProblem":
        r"""From rows: $\Sigma = X^\top X / n$ and $C = X^\top Y / n$.

        Args:
            inputs: X, (n, d).
            targets: Y, (n, K), noisy or not.
            weights: as in the class.
            beta: as in the class; it is not estimated, since the test loss is without noise.
            kappa: as in the class.
            Sigma_test: as in the class.
        """
        x, y = _matrix("inputs", inputs), _matrix("targets", targets)
        if len(x) != len(y):
            raise ShapeError(f"There are {len(x)} rows of inputs and {len(y)} of targets.")
        return cls(weights, x.T @ x / len(x), x.T @ y / len(x), beta, kappa, Sigma_test)

    def product(self) -> Tensor:
        """W = W_1 ... W_L, (d, K)."""
        return chain(self.weights)

    def signal(self) -> list[Tensor]:
        """-kappa A' C B' for each layer: what draws the network to the targets."""
        return self._gradients(self.weights, signal_only=True)

    def self_interaction(self) -> list[Tensor]:
        r"""$\kappa^2 A^\top \Sigma W B^\top$ for each layer."""
        return self._to_layers(self.weights, self.kappa * self.Sigma @ self.product())

    def gradients(self, signal_only: bool = False) -> list[Tensor]:
        """Of the train loss, one for each layer; of the signal alone in the approximation.

        Args:
            signal_only: leave out the self-interaction.
        """
        return self._gradients(self.weights, signal_only)

    def loss(self) -> Tensor:
        """The test loss, 0-dim."""
        return self._loss(self.weights)

    def train_loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        r"""$\tfrac{1}{2n} \lVert f(X) - Y\rVert^2$ on rows X, (n, d), and Y, (n, K)."""
        x, y = _matrix("inputs", inputs), _matrix("targets", targets)
        expected = (len(x), self.beta.shape[1])
        if x.shape[1] != len(self.beta) or tuple(y.shape) != expected:
            raise ShapeError(
                f"Rows must be (n, {len(self.beta)}) and (n, {self.beta.shape[1]}), got "
                f"{tuple(x.shape)} and {tuple(y.shape)}."
            )
        value: Tensor = (self.kappa * x @ self.product() - y).square().sum() / (2 * len(x))
        return value

    def gd(self, lrs: Steps, signal_only: bool = False) -> tuple[Tensor, list[Tensor]]:
        """Gradient descent with a rate for each layer and step; differentiable in the rates.

        Args:
            lrs: T steps, each with L rates of at least 0: floats or 0-dim tensors.
            signal_only: descend along the signal alone.

        Returns:
            The test losses before the first step and after each, (T + 1,), and the last weights.
        """
        weights, losses = list(self.weights), [self.loss()]
        for rates in checked_steps(lrs, len(weights)):
            gradients = self._gradients(weights, signal_only)
            weights = [w - lr * g for w, lr, g in zip(weights, rates, gradients, strict=True)]
            losses.append(self._loss(weights))
        return torch.stack(losses), weights

    def step_polynomial(
        self, layers: tuple[int, int] = (0, 1), signal_only: bool = False
    ) -> StepPolynomial:
        """The test loss after one step as a polynomial in the rates of two layers.

        With $G$ the gradients, $E = E_0 - x D_i - y D_j + x y D_{ij}$, where $D_i$ has $W_i$ in the
        product replaced by $G_i$. The other layers stay as they are.

        Args:
            layers: two different layers, counted from 0.
            signal_only: of a step along the signal alone.
        """
        first, second = self._checked_layers(layers)
        gradients = self.gradients(signal_only)
        parts = {}  # the error's coefficients of x^i y^j
        for i, j in itertools.product((0, 1), repeat=2):
            factors = list(self.weights)
            if i:
                factors[first] = -gradients[first]
            if j:
                factors[second] = -gradients[second]
            parts[i, j] = self.kappa * chain(factors)
        parts[0, 0] = parts[0, 0] - self.beta
        coefficients = torch.zeros(3, 3, dtype=torch.float64)
        for (i, j), left in parts.items():
            for (k, m), right in parts.items():
                coefficients[i + k, j + m] += self._inner(left, right)
        return StepPolynomial(coefficients)

    def optimal_rates(
        self,
        layers: tuple[int, int] = (0, 1),
        constraint: Constraint = "nonneg",
        *,
        S: float | None = None,
    ) -> OptimalRates:
        """The rates of two layers with the lowest test loss after one exact step.

        Args:
            layers: two different layers, counted from 0; the others are frozen.
            constraint: "free", "nonneg", or "budget" for rates of at least 0 with the sum S.
            S: the budget.
        """
        return self.step_polynomial(layers).minimise(constraint, S)

    def _checked_layers(self, layers: tuple[int, int]) -> tuple[int, int]:
        known = range(len(self.weights))
        if not isinstance(layers, tuple | list) or not all(
            isinstance(k, int | np.integer) for k in layers
        ):
            raise ArgumentError(f"`layers` must be two numbers of layers, got {spell(layers)}.")
        if len(set(layers)) != 2 or not set(layers) <= set(known):
            raise ArgumentError(
                f"`layers` must be two different numbers from 0 to {len(known) - 1}, got {layers}."
            )
        return layers

    def _gradients(self, weights: Sequence[Tensor], signal_only: bool) -> list[Tensor]:
        check_flag(signal_only, "signal_only")
        if signal_only:
            return self._to_layers(weights, -self.C)
        return self._to_layers(weights, self.kappa * self.Sigma @ chain(weights) - self.C)

    def _to_layers(self, weights: Sequence[Tensor], at_product: Tensor) -> list[Tensor]:
        """kappa A' (at_product) B' for each layer."""
        found = []
        for k in range(len(weights)):
            gradient = self.kappa * at_product
            if k > 0:
                gradient = chain(weights[:k]).T @ gradient
            if k + 1 < len(weights):
                gradient = gradient @ chain(weights[k + 1 :]).T
            found.append(gradient)
        return found

    def _loss(self, weights: Sequence[Tensor]) -> Tensor:
        error = self.kappa * chain(weights) - self.beta
        return self._inner(error, error)

    def _inner(self, left: Tensor, right: Tensor) -> Tensor:
        """tr(left' Sigma_test right)."""
        return (left * (right if self.Sigma_test is None else self.Sigma_test @ right)).sum()


def chain(factors: Sequence[Tensor]) -> Tensor:
    """The product of one or more matrices."""
    return functools.reduce(torch.matmul, factors)


def _matrix(name: str, value: Tensor) -> Tensor:
    """A finite float64 matrix."""
    if not isinstance(value, Tensor) or value.ndim != 2 or value.numel() == 0:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ShapeError(
            f"`{name}` must be a tensor with two axes, got {shape}. A vector of h weights or "
            "targets is a matrix with one column: `x[:, None]`."
        )
    if not is_ordered(value) or not bool(value.detach().isfinite().all()):
        raise DataError(f"`{name}` has entries that are not finite real numbers.")
    return value.double()
