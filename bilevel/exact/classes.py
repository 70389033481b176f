"""The heads of classes as functions of tensors."""

import torch
from torch import Tensor

from bilevel.core.checks import check_positive_integer
from bilevel.errors import ArgumentError, DataError, ShapeError
from bilevel.exact.arguments import Given, check_tensor, given
from bilevel.exact.curved import solved_head


def softmax_head(
    features: Tensor,
    targets: Tensor,
    ridge: float | Tensor,
    *,
    row_weights: Tensor | None = None,
    fit_bias: bool = False,
    penalize_bias: bool = False,
    classes: int | None = None,
    start: Tensor | None = None,
) -> Tensor:
    r"""The exact head of a softmax regression, for labels of K classes.

    $$
    \theta^* = \arg\min_\theta \frac1n \sum_i s_i\, c(z_i\theta, y_i)
        + \tfrac12\, \theta^\top \operatorname{diag}(p)\, \theta
    $$

    with $c(u, y) = \log \sum_k e^{u_k} - u_y$, as `bilevel.SoftmaxLoss`. Solved by
    `bilevel.Newton`, to rounding, and differentiable once in features, penalties and row weights: a
    backward pass is a solve with the last factor of Newton's method, refined to 1e-12. `vmap`,
    `torch.compile`, `torch.autocast` and leading axes are as in `ridge_head`.

    With a free bias the biases of the classes are determined but for their sum, which is made zero.

    Args:
        features: z, (..., n, M).
        targets: int64 labels $y$, (..., n), from 0 to K - 1.
        ridge: p, as in `ridge_head`; the same for all classes.
        row_weights: s >= 0, (..., n); None: 1.
        fit_bias: whether a constant feature is added; its coefficients are the last row.
        penalize_bias: whether `ridge` covers it.
        classes: K; None: that of `start`, or else the largest label and one more, which neither
            `vmap` nor `torch.compile(fullgraph=True)` can see.
        start: a head near the answer, shaped like it: it saves time and changes nothing else.

    Returns:
        $\theta^*$, (..., M[+ 1], K), in the type of the features.

    Raises:
        SingularHeadError: there is no unique minimiser: features depend on each other, or separate
            the classes, and nothing penalises what is not determined. NaN instead under `vmap` and
            `compile`.
        ShapeError: shapes do not fit each other.
        DataError: labels are not int64, or not among the classes (when the head is solved, under
            `vmap` and `compile`, too).
        ArgumentError: `ridge` is negative, or `classes` is missing where labels cannot be seen.
        IncompatibleError: from a second derivative, or its graph.

    Source: Newton's method, Boyd and Vandenberghe, Convex Optimization (2004), section 9.5, and the
    implicit function theorem. Differs from the source in: see `bilevel.Newton`.

    Examples:
        >>> import torch
        >>> from bilevel.exact import softmax_head
        >>> softmax_head(torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 1]), 0.5)
        tensor([[ 0.5213, -0.5213]])
    """
    made = _made(features, targets, ridge, row_weights, (fit_bias, penalize_bias))
    if classes is not None:
        check_positive_integer(classes, "`classes`")
    elif start is None:
        classes = _count(targets)
    else:
        check_tensor(start, "start")
        classes = start.shape[-1] if start.ndim else 1
    return _solved("softmax", made, start, classes)


def logistic_head(
    features: Tensor,
    targets: Tensor,
    ridge: float | Tensor,
    *,
    row_weights: Tensor | None = None,
    fit_bias: bool = False,
    penalize_bias: bool = False,
    start: Tensor | None = None,
) -> Tensor:
    r"""The exact head of a logistic regression, for labels of two classes.

    $$
    \theta^* = \arg\min_\theta \frac1n \sum_i s_i\, c(z_i\theta, y_i)
        + \tfrac12\, \theta^\top \operatorname{diag}(p)\, \theta
    $$

    with $c(u, y) = \log(1 + e^u) - y u$, as `bilevel.LogisticLoss`. All else is as in
    `softmax_head`.

    Args:
        features: z, (..., n, M).
        targets: int64 labels y, (..., n), 0 or 1.
        ridge: p, as in `ridge_head`.
        row_weights: s >= 0, (..., n); None: 1.
        fit_bias: whether a constant feature is added; its coefficient is the last one.
        penalize_bias: whether `ridge` covers it.
        start: a head near the answer, shaped like it.

    Returns:
        $\theta^*$, (..., M[+ 1]), in the type of the features.

    Raises:
        SingularHeadError: there is no unique minimiser, see `softmax_head`.
        ShapeError: shapes do not fit each other.
        DataError: labels are not int64, or neither 0 nor 1, see `softmax_head`.
        ArgumentError: `ridge` is negative.

    Source: see `softmax_head`. Differs from the source in: None.

    Examples:
        >>> import torch
        >>> from bilevel.exact import logistic_head
        >>> logistic_head(torch.tensor([[1.0], [-1.0]]), torch.tensor([1, 0]), 0.5)
        tensor([0.6748])
    """
    made = _made(features, targets, ridge, row_weights, (fit_bias, penalize_bias))
    return _solved("logistic", made, start, None)


def _count(labels: Tensor) -> int:
    """How many classes there are, by the largest label."""
    try:
        return int(labels.max()) + 1
    except RuntimeError as error:
        raise ArgumentError(
            "`classes` is missing: under `vmap` labels cannot be looked at. Pass their number."
        ) from error


def _made(
    features: Tensor,
    targets: Tensor,
    ridge: float | Tensor,
    row_weights: Tensor | None,
    bias: tuple[bool, bool],
) -> Given:
    check_tensor(targets, "targets")
    if targets.dtype != torch.int64:
        raise DataError(
            f"`targets` must be class labels of type int64, got {targets.dtype}. Convert them with "
            "`.long()`; for real targets use `ridge_head`."
        )
    fit, penalise = bias
    options = {"fit_bias": fit, "penalize_bias": penalise, "labels": True}
    return given(features, targets, ridge, row_weights, **options)


def _solved(kind: str, made: Given, start: Tensor | None, classes: int | None) -> Tensor:
    size = made.design.shape[2]
    if start is None:
        begin = made.penalty.new_zeros(len(made.design), size, classes or 1)
    else:
        check_tensor(start, "start")
        own = (*made.shape, size) if classes is None else (*made.shape, size, classes)
        if start.shape != own:
            raise ShapeError(
                f"`start` must have the shape of the head, {own}, got {tuple(start.shape)}."
            )
        begin = start.detach().double().reshape(-1, size, classes or 1)
    return solved_head(kind, made, begin, None, flat=classes is None)
