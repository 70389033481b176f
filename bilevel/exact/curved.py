"""Exact heads that are no linear system: of classes, and between bounds.

They are solved by the solvers of problem classes and differentiated as `operators` says, with C the
second derivative of the loss of a row: C Z x stands in the place of Z x, and x, the solution of
H x = d loss / d theta, is zero on the numbers that a bound holds.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bilevel.errors import IncompatibleError
from bilevel.exact.arguments import Given
from bilevel.exact.operators import mapped, pulled
from bilevel.exact.solvers import Adjoint, Found, curved_adjoint, curved_heads, factor_shape


class CurvedHead(torch.autograd.Function):
    """`curved_heads` with its first derivatives and under `vmap`."""

    forward = staticmethod(curved_heads)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Found) -> None:
        """Keep what the adjoint needs."""
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])
        ctx.form = inputs[6]
        ctx.save_for_backward(*inputs[:4], *output, inputs[5])

    @staticmethod
    def backward(ctx: Any, slope: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        """See the top."""
        if slope is None:
            return (None,) * 8
        design, targets, penalty, weights, theta, *rest = ctx.saved_tensors
        solve: Callable[..., Adjoint] = CurvedAdjoint.apply
        if torch.compiler.is_compiling():
            solve = ADJOINT
        at = (theta, *solve(slope, design, targets, penalty, weights, theta, *rest, ctx.form))
        return *pulled(ctx.needs_input_grad, design, penalty, weights, *at), None, None, None, None

    @staticmethod
    def vmap(info: Any, dims: tuple[Any, ...], *given: Any) -> tuple[Found, tuple[int, ...]]:
        """Mapped heads are further heads of one call; values cannot raise."""
        return _mapped(CurvedHead.apply, info.batch_size, dims, given)


class CurvedAdjoint(torch.autograd.Function):
    """`curved_adjoint` under `vmap`; it has no derivatives."""

    forward = staticmethod(curved_adjoint)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Adjoint) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        """Refused: a gradient without this part would be wrong."""
        raise IncompatibleError(
            "Heads of classes and heads between bounds have first derivatives only; `ridge_head` "
            "has further ones."
        )

    @staticmethod
    def vmap(info: Any, dims: tuple[Any, ...], *given: Any) -> tuple[Adjoint, tuple[int, ...]]:
        """Further heads of one call."""
        solve: Callable[..., Adjoint] = CurvedAdjoint.apply
        return mapped(lambda *each: solve(*each, *given[8:]), info.batch_size, dims[:8], given[:8])


def _mapped(
    head: Callable[..., Found], size: int, dims: tuple[Any, ...], given: tuple[Any, ...]
) -> tuple[Found, tuple[int, ...]]:
    return mapped(lambda *each: head(*each, *given[5:7], False), size, dims[:5], given[:5])


def solved_head(
    kind: str, made: Given, start: Tensor, limits: Tensor | None, *, flat: bool
) -> Tensor:
    """The head of what was given, see `curved_heads`; `flat`: without an axis of outputs."""
    compiling = torch.compiler.is_compiling()
    solve: Callable[..., Found] = HEADS if compiling else CurvedHead.apply
    form = kind if made.bias is None else f"{kind} {made.bias}"
    parts = (made.design, made.targets, made.penalty, made.weights)
    return made.head(solve(*parts, start, limits, form, not compiling)[0], flat=flat)


def _fake_heads(design: Tensor, *given: Any) -> Found:
    start, _, form, _ = given[3:]
    theta = torch.empty_like(start)
    usable = start.new_empty(len(start), dtype=torch.bool)
    return theta, start.new_empty(factor_shape(start, form)), usable


def _fake_adjoint(columns: Tensor, design: Tensor, *_: Any) -> Adjoint:
    shape = (*design.shape[:2], columns.shape[2])
    error, along, curved = (columns.new_empty(shape) for _ in range(3))
    return columns.new_empty(columns.shape), error, along, curved


HEADS = torch.library.custom_op("bilevel::curved_heads", curved_heads, mutates_args=())
HEADS.register_fake(_fake_heads)
HEADS.register_autograd(CurvedHead.backward, setup_context=CurvedHead.setup_context)
HEADS.register_vmap(lambda info, dims, *given: _mapped(HEADS, info.batch_size, dims, given))
ADJOINT = torch.library.custom_op("bilevel::curved_adjoint", curved_adjoint, mutates_args=())
ADJOINT.register_fake(_fake_adjoint)
