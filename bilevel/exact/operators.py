"""The exact head of squared error, and its adjoint, as operators of torch.

Both compute in float64, one head or B of them with a leading axis, and are each other's derivative:
with H = Z'SZ/n + diag(p), the adjoint x = (n H)^{-1} (d loss / d theta) and e = t - Z theta,

    dZ = s o (e x' - (Z x) theta')    dt = s o Z x    ds = e o Z x    dp = -n theta o x

and for the adjoint v = (n H)^{-1} c itself the same with e = -Z v, theta = v and dc = x. torch does
not look inside of an operator: with what it decides on values it is mapped and compiled, too.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bilevel.exact.factored import Found, adjoint_of_rows, head_of_rows


def pulled(
    needs: tuple[bool, ...], design: Tensor, penalty: Tensor, weights: Tensor | None, *at: Tensor
) -> tuple[Tensor | None, ...]:
    """What features, targets, penalties and weights get, see the top, as far as it is needed.

    Args:
        needs: which of the four.
        design: Z, (n, m) or (B, n, m).
        penalty: p, and
        weights: s, see `head_of_rows`.
        at: theta and x, (m, K) or (B, m, K); e, Z x and C Z x, (n, K) or (B, n, K), where C is the
            second derivative of the loss of a row and e the negative first one.
    """
    theta, x, error, along, curved = at
    in_design = in_weights = None
    if weights is not None:
        in_weights = (error * along).sum(-1) if needs[3] else None
        error, curved = (weights.unsqueeze(-1) * side for side in (error, curved))
    if needs[0]:
        both = torch.cat([error, curved], -1) @ torch.cat([x, -theta], -1).mT
        in_design = both.to(design.dtype)
    in_penalty = None
    if needs[2]:
        in_penalty = ((theta * x).sum(-1) * -design.shape[-2]).sum_to_size(penalty.shape)
    return in_design, curved if needs[1] else None, in_penalty, in_weights


def _fake_head(design: Tensor, targets: Tensor, *given: Any) -> Found:
    """Shapes; compiled code names the form."""
    bias, form, _ = given[2:]
    runs, n, m = design.shape
    factor = (n, n) if form == "dual" else (2 * m + (bias is not None and m > 1), m)
    theta = design.new_empty(runs, m, targets.shape[2], dtype=torch.float64)
    return theta, theta.new_empty(runs, *factor)


def mapped(
    heads: Callable[..., tuple[Tensor, ...]],
    size: int,
    dims: tuple[Any, ...],
    given: tuple[Any, ...],
) -> tuple[Any, tuple[int, ...]]:
    """A function of heads under `vmap`: the mapped axis is their leading one, or part of it."""
    alone = given[0].ndim - (dims[0] is not None) == 2
    values = []
    for value, dim in zip(given, dims, strict=True):
        if isinstance(value, Tensor):
            moved = value.expand(size, *value.shape) if dim is None else value.movedim(dim, 0)
            value = moved if alone else moved.flatten(0, 1)
            value = value.unsqueeze(1) if value.ndim == 1 else value  # a penalty for all features
        values.append(value)
    found = tuple(
        x if alone else x.reshape(size, len(x) // size, *x.shape[1:]) for x in heads(*values)
    )
    return found, (0,) * len(found)


def _adjoint(*given: Tensor) -> Tensor:
    """`adjoint_of_rows`, or `RidgeAdjoint` where there may be further derivatives."""
    solve: Callable[..., Tensor] = adjoint_of_rows
    if torch.compiler.is_compiling():
        solve = ADJOINT
    elif torch.is_grad_enabled():
        solve = RidgeAdjoint.apply
    return solve(*given)


class RidgeHead(torch.autograd.Function):
    """`head_of_rows` with its derivatives and under `vmap`."""

    forward = staticmethod(head_of_rows)

    @classmethod
    def apply(cls, *given: Any) -> Any:
        """Outside of transforms without what torch does to bind arguments: it takes too long."""
        active: bool = torch._C._are_functorch_transforms_active()  # as the inherited one asks
        inherited: Any = super() if active else super(torch.autograd.Function, cls)
        return inherited.apply(*given)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Found) -> None:
        """Keep what the adjoint needs."""
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs[:4], *output)

    @staticmethod
    def backward(ctx: Any, slope: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        """See the top."""
        if slope is None:
            return (None,) * 7
        design, targets, penalty, weights, theta, factor = ctx.saved_tensors
        x = _adjoint(slope, design, penalty, weights, factor)
        rows = design.double()
        along = rows @ x
        at = (theta, x, targets - rows @ theta, along, along)
        return *pulled(ctx.needs_input_grad, design, penalty, weights, *at), None, None, None

    @staticmethod
    def vmap(info: Any, dims: tuple[Any, ...], *given: Any) -> tuple[Found, tuple[int, ...]]:
        """Mapped heads are further heads of one call."""
        return _mapped_heads(RidgeHead.apply, info.batch_size, dims, given)


class RidgeAdjoint(torch.autograd.Function):
    """`adjoint_of_rows` with its derivatives and under `vmap`."""

    forward = staticmethod(adjoint_of_rows)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep it for another solve by the same factor."""
        ctx.save_for_backward(*inputs[1:], output)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        """See the top."""
        design, penalty, weights, factor, v = ctx.saved_tensors
        x = _adjoint(slope, design, penalty, weights, factor)
        rows, needs = design.double(), ctx.needs_input_grad
        along, wanted = rows @ x, (needs[1], False, needs[2], needs[3])
        z, _, p, s = pulled(wanted, design, penalty, weights, v, x, -(rows @ v), along, along)
        return x, z, p, s, None

    @staticmethod
    def vmap(info: Any, dims: tuple[Any, ...], *given: Any) -> tuple[Tensor, int]:
        """Mapped columns alone, as of a Jacobian, are further columns of one factor."""
        solve: Callable[..., Tensor] = RidgeAdjoint.apply
        if dims[0] is not None and all(dim is None for dim in dims[1:]):
            columns = given[0].movedim(dims[0], -2)
            return solve(columns.flatten(-2), *given[1:]).reshape(columns.shape), columns.ndim - 2
        found, _ = mapped(lambda *each: (solve(*each),), info.batch_size, dims, given)
        return found[0], 0


def _mapped_heads(
    solve: Callable[..., Found], size: int, dims: tuple[Any, ...], given: tuple[Any, ...]
) -> tuple[Found, tuple[int, ...]]:
    """Mapped heads are not checked: values cannot raise."""
    return mapped(lambda *each: solve(*each[:6], False), size, dims, given)


HEAD = torch.library.custom_op("bilevel::ridge_head", head_of_rows, mutates_args=())
HEAD.register_fake(_fake_head)
HEAD.register_autograd(RidgeHead.backward, setup_context=RidgeHead.setup_context)
HEAD.register_vmap(lambda info, dims, *given: _mapped_heads(HEAD, info.batch_size, dims, given))
ADJOINT = torch.library.custom_op("bilevel::ridge_adjoint", adjoint_of_rows, mutates_args=())
ADJOINT.register_fake(lambda columns, *_: columns.new_empty(columns.shape))
