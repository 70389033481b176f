"""The arguments of the exact heads: checked, broadcast, and with one leading axis."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.checks import check_flag, check_instance, positive
from bilevel.derivatives.oracles import Bias
from bilevel.errors import DataError, ShapeError


class Given(NamedTuple):
    """What a head is made of, B heads side by side; all but the features in float64.

    Without that axis where a head is `alone`, see `given`.

    Attributes:
        design: features, the constant one included, (B, n, m).
        targets: (B, n, K); class labels (B, n).
        penalty: (B, m), a zero for a free bias.
        weights: of the rows, (B, n); None: 1.
        bias: how the constant feature is treated; None: there is none.
        shape: the leading axes.
        dtype: of what is returned.
    """

    design: Tensor
    targets: Tensor
    penalty: Tensor
    weights: Tensor | None
    bias: Bias | None
    shape: torch.Size
    dtype: torch.dtype

    def head(self, theta: Tensor, *, flat: bool) -> Tensor:
        """theta (B, m, K) with the leading axes, without an axis of outputs if `flat`."""
        own = theta.shape[-2:-1] if flat else theta.shape[-2:]
        found = theta if theta.shape == self.shape + own else theta.reshape(*self.shape, *own)
        return found.to(self.dtype)


def given(
    features: Tensor,
    targets: Tensor,
    ridge: float | Tensor,
    row_weights: Tensor | None,
    *,
    fit_bias: bool,
    penalize_bias: bool,
    labels: bool = False,
    alone: bool = False,
) -> Given:
    """The arguments of an exact head, see `ridge_head`; `labels`: targets are class labels.

    With `alone`, a head without leading axes gets none, nor its penalty one if that is a number.
    """
    plain = alone and row_weights is None and fit_bias is False and penalize_bias is False
    if plain and isinstance(ridge, Tensor) and _fits(features, targets, ridge):
        # what follows would take a tenth of the time of a small head
        columns = targets if targets.ndim == 2 else targets.unsqueeze(1)
        return Given(features, columns, ridge, None, None, torch.Size(), features.dtype)
    _check(features, targets, row_weights, labels)
    check_flag(fit_bias, "fit_bias")
    check_flag(penalize_bias, "penalize_bias")
    m, held = features.shape[-1], fit_bias and penalize_bias
    ridge = torch.as_tensor(_number(ridge), dtype=torch.float64, device=features.device)
    if ridge.ndim and (ridge.shape[-1] != m + held or ridge.ndim not in (1, features.ndim - 1)):
        more = " and the bias" if held else ""
        raise ShapeError(
            f"`ridge` must be a number, or end in ({m + held},) for the {m} features{more}, with "
            f"the leading axes of `features` or none before it, got {tuple(ridge.shape)} for "
            f"features of shape {tuple(features.shape)}."
        )
    leads = [features.shape[:-2], targets.shape[: features.ndim - 2], ridge.shape[:-1]]
    leads += [] if row_weights is None else [row_weights.shape[:-1]]
    shape = _broadcast(leads) if leads[0] else leads[0]
    penalty, design = ridge, features
    bias: Bias | None = None
    if fit_bias:
        bias = "penalised" if held else "free"
        penalty = ridge if ridge.ndim else ridge.expand(m + held)
        design = torch.cat([features, torch.ones_like(features[..., :1])], -1)
        penalty = penalty if held else torch.nn.functional.pad(penalty, (0, 1))
    dtype = features.dtype
    if not labels:
        dtype = torch.promote_types(dtype, targets.dtype)
        targets = targets.double()
        targets = targets.unsqueeze(-1) if targets.ndim < features.ndim else targets
    weights = None if row_weights is None else row_weights.double()
    if shape or not alone:  # views that small heads would feel
        n, size = design.shape[-2:]
        lead = shape or (1,)
        aims = targets.shape[features.ndim - 2 :]
        design = design.expand(*lead, n, size).reshape(-1, n, size)
        targets = targets.expand(*lead, *aims).reshape(-1, *aims)
        penalty = penalty.expand(*lead, size).reshape(-1, size)
        weights = None if weights is None else weights.expand(*lead, n).reshape(-1, n)
    return Given(design, targets, penalty, weights, bias, shape, dtype)


def _broadcast(leads: list[torch.Size]) -> torch.Size:
    """What leading axes broadcast to."""
    try:
        shape: torch.Size = torch.broadcast_shapes(*leads)  # type: ignore[no-untyped-call]
    except RuntimeError:
        raise ShapeError(
            "The leading axes of `features`, `targets`, `ridge` and `row_weights` must be the "
            f"same, or 1, got {[tuple(lead) for lead in leads]}."
        ) from None
    return shape


def _fits(features: Tensor, targets: Tensor, ridge: Tensor) -> bool:
    """Whether it is one head, of tensors that need no further check and no conversion."""
    for x in (features, targets, ridge):
        if type(x) is not Tensor or x.dtype is not torch.float64 or x.layout is not torch.strided:
            return False
        if x.is_meta or x.is_nested or x.device != features.device or not x.numel():
            return False
    if features.ndim != 2 or targets.ndim not in (1, 2) or ridge.ndim > 1:
        return False
    n, m = features.shape
    return targets.shape[0] == n and (ridge.ndim == 0 or ridge.shape[0] == m)


def _number(ridge: float | Tensor) -> float | Tensor:
    """Tensors as they are, and all in compiled code: values are looked at where they can be."""
    if isinstance(ridge, Tensor) or torch.compiler.is_compiling():
        check_tensor(ridge, "ridge")
        return ridge
    return positive(ridge, "`ridge`", zero_allowed=True)


def check_tensor(given: Any, name: str) -> None:
    """Raise unless it is a tensor that holds numbers; compiled code has been looked at before."""
    if torch.compiler.is_compiling():
        return
    check_instance(given, Tensor, name, "torch.ones(5, 2)")
    wrong = trees.unusable(given)
    if wrong:
        raise DataError(f"`{name}` is {wrong}.")


def _check(features: Tensor, targets: Tensor, row_weights: Tensor | None, labels: bool) -> None:
    """Types and shapes."""
    rows_of = {"features": features, "targets": targets}
    rows_of |= {} if row_weights is None else {"row_weights": row_weights}
    for name, tensor in rows_of.items():
        check_tensor(tensor, name)
        if not tensor.is_floating_point() and not (labels and name == "targets"):
            raise DataError(f"`{name}` must be floating point, got {tensor.dtype}.")
    if features.ndim < 2 or 0 in features.shape:
        raise ShapeError(
            f"`features` must be (..., n, M), at least one row of numbers, got "
            f"{tuple(features.shape)}."
        )
    rows, axes = features.shape[-2], features.ndim - 1
    allowed = (axes,) if labels else (axes, axes + 1)
    if targets.ndim not in allowed or targets.shape[axes - 1] != rows or 0 in targets.shape:
        more = "" if labels else f", or (..., {rows}, K) for K outputs"
        raise ShapeError(
            f"`targets` must be (..., {rows}){more}, with the leading axes of `features` "
            f"(1 where they are broadcast), got {tuple(targets.shape)} for features of shape "
            f"{tuple(features.shape)}."
        )
    if row_weights is not None and (row_weights.ndim != axes or row_weights.shape[-1] != rows):
        raise ShapeError(
            f"`row_weights` must be (..., {rows}), one weight for each row, with the leading axes "
            f"of `features` (1 where they are broadcast), got {tuple(row_weights.shape)} for "
            f"features of shape {tuple(features.shape)}."
        )
