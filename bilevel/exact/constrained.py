"""Ridge regression between bounds as a function of tensors."""

import torch
from torch import Tensor

from bilevel.core.checks import check_instance
from bilevel.errors import IncompatibleError
from bilevel.exact.arguments import given
from bilevel.exact.curved import solved_head
from bilevel.problem.sets import ConvexSet


def constrained_head(
    features: Tensor,
    targets: Tensor,
    ridge: float | Tensor,
    set: ConvexSet,
    *,
    row_weights: Tensor | None = None,
    fit_bias: bool = False,
    penalize_bias: bool = False,
) -> Tensor:
    r"""The head of `ridge_head` between bounds.

    $$\theta^* = \arg\min_{\text{low} \le \theta \le \text{high}} g(\theta)$$

    Solved by `bilevel.ProjectedNewton`, to rounding, and differentiable once in features, targets,
    penalties and row weights: numbers that a bound holds stay there, the others move. (Where a
    number touches its bound without being pushed against it, $\theta^*$ has a kink, and this is one
    of its one-sided derivatives.) All else is as in `ridge_head`.

    Args:
        features: z, (..., n, M).
        targets: t, (..., n), or (..., n, K) for K outputs.
        ridge: p, as in `ridge_head`.
        set: a `Box`, `Nonnegative()` or another set with bounds, for the head of one batch: they
            are those of all leading axes, and of the bias too.
        row_weights: s >= 0, (..., n); None: 1.
        fit_bias: whether a constant feature is added; its coefficient is the last one.
        penalize_bias: whether `ridge` covers it.

    Returns:
        $\theta^*$, (..., M[+ 1]) or (..., M[+ 1], K), in the wider type of features and targets.

    Raises:
        IncompatibleError: the set has no bounds, or bounds that require gradients, which they would
            not get; or from a second derivative.
        ArgumentError: `ridge` is negative.
        SingularHeadError: $Z^\top S Z/n + \operatorname{diag}(p)$ is numerically singular, or not
            finite; NaN instead under `vmap` and `compile`.
        ShapeError: shapes do not fit each other, or the bounds do not fit the head.
        DataError: a tensor is not floating point.

    Source: Bertsekas, Projected Newton methods for optimization problems with simple constraints
    (1982), and the implicit function theorem on the free numbers. Differs from the source in: see
    `bilevel.ProjectedNewton`.

    Examples:
        >>> import torch, bilevel
        >>> from bilevel.exact import constrained_head
        >>> z, t = torch.eye(2), torch.tensor([1.0, -1.0])
        >>> constrained_head(z, t, 0.5, bilevel.Nonnegative())
        tensor([0.5000, 0.0000])
    """
    check_instance(set, ConvexSet, "set", "Nonnegative()")
    options = {"fit_bias": fit_bias, "penalize_bias": penalize_bias}
    made = given(features, targets, ridge, row_weights, **options)
    flat = targets.ndim < features.ndim
    rows, outputs = made.design.shape[2], made.targets.shape[2]
    start = made.penalty.new_zeros(len(made.design), rows, outputs)
    one = start[0, :, 0] if flat else start[0]
    set.check(one)
    bounds = set.bounds(one)
    if bounds is None:
        raise IncompatibleError(
            f"{type(set).__name__} has no bounds low <= theta <= high, and other sets have no "
            "derivative here. Use a Box or Nonnegative(), or the whole space with `ridge_head`."
        )
    given_bounds = (getattr(set, name, None) for name in ("low", "high"))
    if torch.is_grad_enabled() and any(
        isinstance(bound, Tensor) and bound.requires_grad for bound in (*bounds, *given_bounds)
    ):
        raise IncompatibleError(
            "The bounds of the set require gradients, and `constrained_head` has none in them. "
            "Make the set of `bound.detach()`."
        )
    low, high = (bound.double().expand_as(one).reshape(rows, outputs) for bound in bounds)
    return solved_head("box", made, start, torch.stack([low, high]), flat=flat)
