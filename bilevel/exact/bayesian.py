"""The Gaussian posterior of which a ridge head is the mean."""

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

from bilevel.core.checks import check_flag, check_instance, check_positive_integer, positive
from bilevel.errors import ArgumentError, DataError, ShapeError
from bilevel.exact.arguments import Given, check_tensor, given
from bilevel.exact.factored import Found
from bilevel.exact.operators import RidgeAdjoint, RidgeHead


@dataclasses.dataclass(frozen=True, eq=False)
class BayesianHead:
    r"""$\theta \sim N(\theta^*, \sigma^2 H^{-1} / n)$: a linear head with its uncertainty, by `of`.

    The targets are taken as $t_i = z_i\theta + e_i$ with independent $e_i \sim N(0, \sigma^2)$, and
    $\theta$ as $N(0, \sigma^2 / (n p))$ before they were seen; where $p$ is 0, as uniform. Then
    $n g / \sigma^2$ is the negative logarithm of the posterior but for a constant, $\theta^*$ is
    the ridge head and $H$, of which it has a factor, the Hessian of $g$.

    All numbers are differentiable in features, targets, ridge and noise.

    Attributes:
        head: $\theta^*$, (..., M[+ 1]) or (..., M[+ 1], K).
        noise: $\sigma^2$, a variance, (...) or (..., K).

    Source: Bishop, Pattern Recognition and Machine Learning (2006), sections 3.3 and 3.5. Differs
    from the source in: 1. a penalty for each coefficient, 0 among them; 2. g is a mean over rows.

    Examples:
        >>> import torch
        >>> from bilevel.exact import BayesianHead
        >>> z = torch.tensor([[1.0], [2.0], [3.0]])
        >>> found = BayesianHead.of(z, torch.tensor([1.1, 1.9, 3.2]), 0.1, noise=0.04)
        >>> found.mean(torch.tensor([[2.0]])), found.variance(torch.tensor([[2.0]]))
        (tensor([2.0280]), tensor([0.0512]))
    """

    head: Tensor
    noise: Tensor
    _made: Given = dataclasses.field(repr=False)
    _found: Found = dataclasses.field(repr=False)
    _flat: bool = dataclasses.field(repr=False)

    @classmethod
    def of(
        cls,
        features: Tensor,
        targets: Tensor,
        ridge: float | Tensor,
        noise: float | Tensor | None = None,
        *,
        fit_bias: bool = False,
        penalize_bias: bool = False,
    ) -> "BayesianHead":
        """The posterior of the head of `ridge_head`.

        Args:
            features: z, (..., n, M).
            targets: t, (..., n), or (..., n, K) for K outputs; no class labels.
            ridge: p, as in `ridge_head`.
            noise: sigma^2, a number or a tensor that broadcasts to (...) or (..., K). None: the
                value that maximises the evidence, for each output by itself: 2 g(theta*) where all
                p are positive, 2 n g(theta*) / (n - q) with q that are 0.
            fit_bias: whether a constant feature is added; its coefficient is the last one.
            penalize_bias: whether `ridge` covers it.

        Raises:
            DataError: the targets are class labels, or a tensor is not floating point.
            ArgumentError: `noise` or `ridge` is not a number that it can be, or no rows are left
                to estimate the noise from.
            SingularHeadError: see `ridge_head`.
            ShapeError: shapes do not fit each other.
        """
        check_tensor(targets, "targets")
        if not targets.is_floating_point():
            raise DataError(
                f"`targets` are {targets.dtype}, such as class labels, and this posterior is that "
                "of real targets with Gaussian noise. Convert counts with `.double()`; the heads "
                "of classes are `softmax_head` and `logistic_head`."
            )
        options = {"fit_bias": fit_bias, "penalize_bias": penalize_bias}
        made = given(features, targets, ridge, None, **options)
        parts = (made.design, made.targets, made.penalty)
        found: Found = RidgeHead.apply(*parts, None, made.bias, "auto", True)
        flat = targets.ndim < features.ndim
        theta, shape = found[0], (*made.shape, *([] if flat else [targets.shape[-1]]))
        if noise is None:
            left = made.design.shape[1] - _unpenalised(made)
            if bool((left <= 0).any()):
                raise ArgumentError(
                    f"{made.design.shape[1]} rows determine {int(_unpenalised(made).max())} "
                    "coefficients without a penalty, and leave nothing to estimate the noise from. "
                    "Pass `noise`, or a positive `ridge`."
                )
            sizes = 2 * made.design.shape[1] * _objective(made, theta) / left.unsqueeze(1)
            variances = sizes.reshape(shape)
        else:
            variances = _variances(noise, made, shape)
        return cls(made.head(theta, flat=flat), variances.to(made.dtype), made, found, flat)

    def mean(self, rows: Tensor) -> Tensor:
        """Predictions z theta*, (..., r) or (..., r, K), for features (..., r, M)."""
        theta = self._found[0]
        theta = theta.reshape(*self._made.shape, *theta.shape[1:])
        found = self._design(rows) @ theta
        return (found.squeeze(-1) if self._flat else found).to(self._made.dtype)

    def variance(self, rows: Tensor, with_noise: bool = True) -> Tensor:
        """Of predictions: sigma^2 z H^{-1} z' / n, and sigma^2 for a new target's noise.

        Args:
            rows: z, (..., r, M).
            with_noise: whether that of a target is asked for, or that of z theta alone.

        Returns:
            (..., r) or (..., r, K).
        """
        check_flag(with_noise, "with_noise")
        design = self._design(rows)
        r, m = design.shape[-2:]
        wide = design.expand(*self._made.shape, r, m).reshape(-1, r, m)
        found = (wide.mT * self._solve(wide.mT)).sum(1)
        found = found.reshape(*self._made.shape, -1) + float(with_noise)
        noise = self.noise.double()
        if self._flat:
            return (found * noise.unsqueeze(-1)).to(self._made.dtype)
        return (found.unsqueeze(-1) * noise.unsqueeze(-2)).to(self._made.dtype)

    @property
    def log_evidence(self) -> Tensor:
        """log p(targets | ridge, noise), for each output, (...) or (..., K).

        -(n - q)/2 log(2 pi sigma^2) - n g(theta*)/sigma^2 - 1/2 log(det H / prod p) - q/2 log n,
        the product and q about the penalties that are positive, and the q that are 0: coefficients
        without a penalty are integrated out. Its gradients in ridge and noise lead to the values
        that maximise it.
        """
        made, n = self._made, self._made.design.shape[1]
        free, outputs = _unpenalised(made).unsqueeze(1), made.targets.shape[2]
        noise = self.noise.double().reshape(-1, outputs)
        fit = n * _objective(made, self._found[0]) / noise
        known = -(n - free) / 2 * (2 * math.pi * noise).log() - free / 2 * math.log(n)
        found = known - fit - _determinant(made).unsqueeze(1) / 2
        return found.reshape(self.noise.shape).to(made.dtype)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Heads drawn from the posterior, (n, ..., M[+ 1]) or (n, ..., M[+ 1], K)."""
        check_positive_integer(n, "`n`")
        check_instance(generator, torch.Generator | None, "generator", "torch.Generator()")
        made, (rows, m) = self._made, self._made.design.shape[1:]
        heads, outputs = len(made.design), made.targets.shape[2]
        normal = torch.randn(
            heads,
            rows + m,
            n * outputs,
            generator=generator,
            dtype=torch.float64,
            device=made.design.device if generator is None else generator.device,
        ).to(made.design.device)
        # Z'e + sqrt(n p) e has the covariance n H: no root of H is needed
        right = made.design.double().mT @ normal[:, :rows]
        right = right + (made.penalty * rows).sqrt().unsqueeze(2) * normal[:, rows:]
        moved = self._solve(right).reshape(heads, m, n, outputs).permute(2, 0, 1, 3)
        noise = self.noise.double().reshape(heads, 1, outputs)
        drawn = self._found[0] + noise.sqrt() * moved
        own = (m,) if self._flat else (m, outputs)
        return drawn.reshape(n, *made.shape, *own).to(made.dtype)

    def _solve(self, columns: Tensor) -> Tensor:
        """(n H)^{-1} c for (B, m, C)."""
        solve: Callable[..., Tensor] = RidgeAdjoint.apply
        made = self._made
        return solve(columns, made.design, made.penalty, None, *self._found[1:])

    def _design(self, rows: Tensor) -> Tensor:
        """Features with the constant one, float64."""
        m = self._made.design.shape[2] - (self._made.bias is not None)
        check_tensor(rows, "rows")
        if rows.ndim < 2 or rows.shape[-1] != m:
            raise ShapeError(f"`rows` must be (..., r, {m}), got {tuple(rows.shape)}.")
        rows = rows.double()
        if self._made.bias is None:
            return rows
        return torch.cat([rows, torch.ones_like(rows[..., :1])], -1)


def _objective(made: Given, theta: Tensor) -> Tensor:
    """g of each output, (B, K)."""
    error = made.targets - made.design.double() @ theta
    penalty = (made.penalty.unsqueeze(2) * theta.square()).sum(1)
    return 0.5 * (error.square().mean(1) + penalty)


def _unpenalised(made: Given) -> Tensor:
    """q, (B,)."""
    return (made.penalty == 0).sum(1)


def _determinant(made: Given) -> Tensor:
    """log(det H / prod p), the product over positive penalties, (B,)."""
    design, penalty = made.design.double(), made.penalty
    n, m = design.shape[1:]
    held = penalty > 0
    if n < m and bool(held.all()):  # det(P + Z'Z/n) = det P det(I + Z P^{-1} Z'/n)
        kernel = design / penalty.unsqueeze(1) @ design.mT / n
        return _log_det(kernel + torch.eye(n, dtype=kernel.dtype, device=kernel.device))
    if made.bias == "free":  # counted from any origin, H has the same determinant
        centre = design.detach().mean(1, keepdim=True)
        centre[..., -1] = 0.0
        design = design - centre
    whole = _log_det(design.mT @ design / n + torch.diag_embed(penalty))
    return whole - torch.where(held, penalty, 1.0).log().sum(1)


def _log_det(matrix: Tensor) -> Tensor:
    found: Tensor = 2 * torch.linalg.cholesky(matrix).diagonal(dim1=1, dim2=2).log().sum(1)
    return found


def _variances(noise: float | Tensor, made: Given, shape: tuple[int, ...]) -> Tensor:
    """`noise` of every output, checked."""
    if not isinstance(noise, Tensor):
        noise = torch.tensor(positive(noise, "`noise`"), dtype=torch.float64)
    check_tensor(noise, "noise")
    noise = noise.to(made.design.device, torch.float64)
    if not bool(((noise > 0) & noise.isfinite()).all()):
        raise ArgumentError(f"`noise` is a variance, positive and finite, got {noise}.")
    try:
        return noise.expand(shape)
    except RuntimeError:
        raise ShapeError(
            f"`noise` must be a number, or broadcast to {shape}, got {tuple(noise.shape)}."
        ) from None
