"""Ridge regression as a function of tensors."""

from collections.abc import Callable

import torch
from torch import Tensor

from bilevel.exact.arguments import given
from bilevel.exact.factored import Found
from bilevel.exact.operators import HEAD, RidgeHead


def ridge_head(
    features: Tensor,
    targets: Tensor,
    ridge: float | Tensor,
    *,
    row_weights: Tensor | None = None,
    fit_bias: bool = False,
    penalize_bias: bool = False,
) -> Tensor:
    r"""The exact head of a ridge regression.

    $$
    \theta^* = \arg\min_\theta \frac{1}{2n} \sum_i s_i\, \lVert z_i\theta - t_i\rVert^2
        + \tfrac12\, \theta^\top \operatorname{diag}(p)\, \theta
    $$

    Differentiable in all four tensors, any number of times, in reverse mode: one Cholesky
    factorisation in float64 serves the head and its derivatives. Works under `torch.func.vmap`,
    `grad` and `jacrev`; first derivatives also under `torch.compile(fullgraph=True)` (torch
    compiles no second ones). `torch.autocast` changes nothing.

    Leading axes are batches: tasks, folds, runs. Axes that are broadcast are written as 1. With
    fewer rows than features, all of them penalised, the kernel of the rows is factored; beside a
    free bias features and targets are counted from their means. (scikit-learn's `Ridge(alpha)` is
    `ridge = alpha / n`.)

    Args:
        features: z, (..., n, M).
        targets: t, (..., n), or (..., n, K) for K outputs.
        ridge: p >= 0: a number, or a tensor () or (..., M), (M,) for all batches; with
            `penalize_bias` it has an entry more, for the bias.
        row_weights: s >= 0, (..., n); None: 1. The sum is divided by n all the same.
        fit_bias: whether a constant feature is added; its coefficient is the last one.
        penalize_bias: whether `ridge` covers it.

    Returns:
        $\theta^*$, (..., M[+ 1]) or (..., M[+ 1], K), in the wider type of features and targets.

    Raises:
        SingularHeadError: $Z^\top S Z/n + \operatorname{diag}(p)$ is numerically singular, or not
            finite. Under `vmap` and `compile`, where values cannot raise, such heads are NaN.
        ArgumentError: `ridge` is negative.
        ShapeError: shapes do not fit each other.
        DataError: a tensor is not floating point.

    Source: Golub and Van Loan, Matrix Computations (4th ed. 2013), sections 4.2 and 5.3; as a layer
    of a network: Bertinetto et al. 2019 (arXiv 1805.08136). Differs from the source in: 1. the
    smaller of Gram matrix and kernel is factored.

    Examples:
        >>> import torch
        >>> from bilevel.exact import ridge_head
        >>> z = torch.tensor([[1.0], [2.0]], requires_grad=True)
        >>> theta = ridge_head(z, torch.tensor([1.0, 2.0]), 0.5)    # 2.5 / (2.5 + 0.5)
        >>> theta.detach()
        tensor([0.8333])
        >>> theta.sum().backward(); z.grad
        tensor([[-0.1111],
                [-0.2222]])
    """
    options = {"fit_bias": fit_bias, "penalize_bias": penalize_bias}
    compiling = torch.compiler.is_compiling()
    made = given(features, targets, ridge, row_weights, **options, alone=not compiling)
    form = "auto"
    if compiling:  # the shape of the factor must not depend on values
        penalised = not isinstance(ridge, Tensor) and ridge > 0 and made.bias != "free"
        form = "dual" if penalised and made.design.shape[1] < made.design.shape[2] else "primal"
    at = (made.design, made.targets, made.penalty, made.weights, made.bias)
    solve: Callable[..., Found] = HEAD if compiling else RidgeHead.apply
    theta = solve(*at, form, not compiling)[0]
    return made.head(theta, flat=targets.ndim < features.ndim)
