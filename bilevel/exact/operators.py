"""The exact head of squared error, and its adjoint, as operators of torch.

Both have one leading axis, compute in float64, and are each other's derivative: with x the adjoint
H^{-1} (d loss / d theta) and e = t - Z theta,

    dZ = s o (e x' - (Z x) theta') / n    dt = s o Z x / n    ds = e o Z x / n    dp = -theta o x

and for the adjoint v = H^{-1} c itself the same with e = -Z v, theta = v and dc = x. torch does not
look inside of an operator: with what it decides on values it is mapped and compiled, too.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.status import Status
from bilevel.derivatives.linear_parts import LinearParts
from bilevel.errors import ArgumentError, SingularHeadError
from bilevel.linear.factor import CentredFactor, DualFactor, Factor, PrimalFactor
from bilevel.linear.systems import AbstractSystem, DualSystem, linear_system

SURE, DOUBTFUL = 1e-2, 1e-8
"""What is left of each diagonal entry where a matrix is well conditioned, and where it may be
singular: its eigenvalues tell."""
Found = tuple[Tensor, Tensor, Tensor, Tensor]


def head_of_rows(
    design: Tensor,
    targets: Tensor,
    penalty: Tensor,
    weights: Tensor | None,
    bias: str | None,
    form: str,
    check: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """theta of B heads, and their factors.

    Args:
        design: Z, (B, n, m), any floating type.
        targets: t, (B, n, K).
        penalty: p, (B, m).
        weights: s, (B, n); None: 1.
        bias: "free" or "penalised" where the last feature is the constant one.
        form: of the system, "primal" or "dual"; "auto" looks at the numbers.
        check: whether heads that are not determined raise; otherwise they are NaN.

    Returns:
        theta (B, m, K), float64; the factor L, (B, m, m), or (B, n, n) of the dual form; H, (B, m,
        m), or (B, 0) of the dual form and where solutions need no refinement; and the origin that
        features were counted from, (B, m) or (B, 0).
    """
    least = float(penalty.min())
    if check and least < 0:
        raise ArgumentError(f"`ridge` must be at least 0, got {least:.4g}.")
    if form == "auto" and bias is None and weights is None:
        quick = _quickly(design.double(), targets, penalty)
        if quick is not None and least >= 0:
            return quick
    parts = LinearParts(design, targets, weights, penalty)
    dual = form == "dual" or (form == "auto" and least > 0 and design.shape[1] < design.shape[2])
    known: Any = bias
    system = linear_system(parts, penalised=dual, bias=known)
    if form == "auto" and isinstance(system, DualSystem) and system.unbalanced():
        system = linear_system(parts, penalised=False, bias=known)
    theta, status, factor = system.factorised()
    if not (_sure(status, factor, least) and math.isfinite(theta.sum())):
        wrong = (status != int(Status.CONVERGED)) | ~trees.finite(theta)
        if not least > 0:
            wrong |= ~system.definite() | (penalty < 0).any(1)
        if check and bool(wrong.any()):
            raise _refused(system, status, wrong, least)
        theta = theta.masked_fill(wrong.reshape(-1, 1, 1), torch.nan)
    nothing = theta.new_empty(len(theta), 0)
    inner = factor.inner if isinstance(factor, CentredFactor) else factor
    hessian = inner.hessian[:, 0] if isinstance(inner, PrimalFactor) else nothing
    origin = factor.origin if isinstance(factor, CentredFactor) else nothing.clone()
    cholesky = inner.cholesky[:, 0].mT.contiguous().mT  # as LAPACK leaves it
    return theta.contiguous(), cholesky, hessian.contiguous(), origin


def adjoint_of_rows(
    columns: Tensor,
    design: Tensor,
    penalty: Tensor,
    weights: Tensor | None,
    cholesky: Tensor,
    hessian: Tensor,
    origin: Tensor,
) -> Tensor:
    """H^{-1} c for columns c (B, m, K), float64, by the factors of `head_of_rows`."""
    factor: Factor
    if hessian.numel():
        factor = PrimalFactor(cholesky.unsqueeze(1), hessian.unsqueeze(1))
        factor = CentredFactor(factor, origin) if origin.numel() else factor
    elif design.shape[1] >= design.shape[2]:
        return torch.cholesky_solve(columns, cholesky)
    else:
        rows = design.double()
        rows = rows if weights is None else rows * weights.double().sqrt().unsqueeze(2)
        factor = DualFactor(cholesky.unsqueeze(1), rows, penalty.double().unsqueeze(1))
    return factor.solve(columns).contiguous()


def pulled(
    needs: tuple[bool, ...], design: Tensor, weights: Tensor | None, *at: Tensor
) -> tuple[Tensor | None, ...]:
    """What features, targets, penalties and weights get, see the top, as far as it is needed.

    Args:
        needs: which of the four.
        design: Z, (B, n, m).
        weights: s, (B, n), or None.
        at: theta and x, (B, m, K); e, Z x and C Z x, (B, n, K), where C is the second derivative of
            the loss of a row and e the negative first one.
    """
    theta, x, error, along, curved = at
    n, in_design = design.shape[1], None
    in_weights = (error * along).sum(2) / n if needs[3] and weights is not None else None
    if weights is not None:
        error, curved = (weights.unsqueeze(2) * side for side in (error, curved))
    if needs[0]:
        sides = torch.cat([x, -theta], 2).mT / n
        in_design = (torch.cat([error, curved], 2) @ sides).to(design.dtype)
    in_targets = curved / n if needs[1] else None
    in_penalty = -(theta * x).sum(2) if needs[2] else None
    return in_design, in_targets, in_penalty, in_weights


def _fake_head(
    design: Tensor,
    targets: Tensor,
    penalty: Tensor,
    weights: Tensor | None,
    bias: str | None,
    form: str,
    check: bool,
) -> Found:
    """Shapes; compiled code names the form."""
    runs, n, m = design.shape
    dual = form == "dual"
    shapes = [
        (runs, m, targets.shape[2]),
        (runs, n, n) if dual else (runs, m, m),
        (runs, 0) if dual else (runs, m, m),
        (runs, m) if bias is not None and m > 1 and not dual else (runs, 0),
    ]
    theta, *factor = (design.new_empty(shape, dtype=torch.float64) for shape in shapes)
    return theta, factor[0].mT, factor[1], factor[2]


def _mapped(
    head: Callable[..., Found], size: int, dims: tuple[Any, ...], given: tuple[Any, ...]
) -> tuple[Found, tuple[int, ...]]:
    """`head` under `vmap`: further heads of one call; values cannot raise."""
    found = head(*flattened(size, dims, given)[:6], False)
    theta, *factor = (x.reshape(size, len(x) // size, *x.shape[1:]) for x in found)
    return (theta, factor[0], factor[1], factor[2]), (0, 0, 0, 0)


def flattened(size: int, dims: tuple[Any, ...], given: tuple[Any, ...]) -> list[Any]:
    """Arguments with the mapped axis in the first one."""
    found = []
    for value, dim in zip(given, dims, strict=True):
        if isinstance(value, Tensor):
            moved = value.expand(size, *value.shape) if dim is None else value.movedim(dim, 0)
            value = moved.flatten(0, 1)
        found.append(value)
    return found


def _quickly(design: Tensor, targets: Tensor, penalty: Tensor) -> Found | None:
    """The heads by few operations, if no pivot is small: each takes as long as a small head.

    Refinement would change no digit that counts; `PrimalSystem` makes it for all others.
    """
    n, m = design.shape[1:]
    if n < m:
        return None
    hessian = design.mT @ design / n
    hessian.diagonal(dim1=1, dim2=2).add_(penalty)
    cholesky, info = torch.linalg.cholesky_ex(hessian)
    pivots, entries = (x.diagonal(dim1=1, dim2=2) for x in (cholesky, hessian))
    if bool(info.any()) or not float((pivots.square() / entries).min()) > SURE:
        return None
    theta = torch.cholesky_solve((targets.mT @ design / n).mT, cholesky)
    if not math.isfinite(theta.sum()):
        return None
    nothing = theta.new_empty(2, len(theta), 0)
    return theta, cholesky, nothing[0], nothing[1]


def _sure(status: Tensor, factor: Factor, least: float) -> bool:
    """Whether all heads are determined for sure.

    Where a pivot is small and no penalty answers for it, only the eigenvalues tell.
    """
    if bool((status != int(Status.CONVERGED)).any()):
        return False
    if least > 0:
        return True
    inner = factor.inner if isinstance(factor, CentredFactor) else factor
    assert isinstance(inner, PrimalFactor)
    pivots, entries = (x.diagonal(dim1=2, dim2=3) for x in (inner.cholesky, inner.hessian))
    return bool((pivots.square() >= DOUBTFUL * entries).all())


def _refused(
    system: AbstractSystem, status: Tensor, wrong: Tensor, least: float
) -> SingularHeadError:
    """The error about the first head that is not determined."""
    which, count = int(wrong.nonzero()[0]), len(wrong)
    where = f" of head {which} (of {count}, leading axes flattened)" if count > 1 else ""
    low, high = (float(x[which]) for x in system.primal().curvature())
    if low != low or (least > 0 and int(status[which]) == int(Status.CONVERGED)):
        return SingularHeadError(
            f"The system{where} is not finite: check features and targets for NaN and "
            "infinite values, and that no row weight is negative."
        )
    remedy = "Pass a larger `ridge`" if least > 0 else "Pass a positive `ridge`"
    return SingularHeadError(
        f"Z'SZ/n + diag(p){where} has smallest eigenvalue {low:.2g} (largest {high:.2g}): the head "
        f"has no unique minimiser, as far as float64 can tell. {remedy}, or fewer features than "
        "rows."
    )


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

    @staticmethod
    def forward(
        design: Tensor,
        targets: Tensor,
        penalty: Tensor,
        weights: Tensor | None,
        bias: str | None,
        form: str,
        check: bool,
    ) -> Found:
        """theta and the factors."""
        return head_of_rows(design, targets, penalty, weights, bias, form, check)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Found) -> None:
        """Keep what the adjoint needs."""
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs[:4], *output)

    @staticmethod
    def backward(ctx: Any, slope: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        """See the top."""
        if slope is None:
            return (None,) * 7
        design, targets, penalty, weights, theta, *factor = ctx.saved_tensors
        x = _adjoint(slope, design, penalty, weights, *factor)
        rows = design.double()
        error, along = torch.baddbmm(targets, rows, theta, alpha=-1), rows @ x
        at = (theta, x, error, along, along)
        return *pulled(ctx.needs_input_grad, design, weights, *at), None, None, None

    @staticmethod
    def vmap(info: Any, dims: tuple[Any, ...], *given: Any) -> tuple[Found, tuple[int, ...]]:
        """Mapped heads are further heads of one call; values cannot raise."""
        return _mapped(RidgeHead.apply, info.batch_size, dims, given)


class RidgeAdjoint(torch.autograd.Function):
    """`adjoint_of_rows` with its derivatives and under `vmap`."""

    @staticmethod
    def forward(
        columns: Tensor,
        design: Tensor,
        penalty: Tensor,
        weights: Tensor | None,
        cholesky: Tensor,
        hessian: Tensor,
        origin: Tensor,
    ) -> Tensor:
        """H^{-1} c."""
        return adjoint_of_rows(columns, design, penalty, weights, cholesky, hessian, origin)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep it for another solve by the same factor."""
        ctx.save_for_backward(*inputs[1:], output)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        """See the top."""
        design, penalty, weights, *factor, v = ctx.saved_tensors
        x = _adjoint(slope, design, penalty, weights, *factor)
        rows, needs = design.double(), ctx.needs_input_grad
        along, wanted = rows @ x, (needs[1], False, needs[2], needs[3])
        z, _, p, s = pulled(wanted, design, weights, v, x, -(rows @ v), along, along)
        return x, z, p, s, None, None, None

    @staticmethod
    def vmap(info: Any, dims: tuple[Any, ...], *given: Any) -> tuple[Tensor, int]:
        """Mapped columns alone, as of a Jacobian, are further columns of one factor."""
        solve: Callable[..., Tensor] = RidgeAdjoint.apply
        if dims[0] is not None and all(dim is None for dim in dims[1:]):
            columns = given[0].movedim(dims[0], 2)
            found = solve(columns.flatten(2), *given[1:])
            return found.reshape(columns.shape), 2
        found = solve(*flattened(info.batch_size, dims, given))
        size = info.batch_size
        return found.reshape(size, len(found) // size, *found.shape[1:]), 0


HEAD = torch.library.custom_op("bilevel::ridge_head", head_of_rows, mutates_args=())
HEAD.register_fake(_fake_head)
HEAD.register_autograd(RidgeHead.backward, setup_context=RidgeHead.setup_context)
HEAD.register_vmap(lambda info, dims, *given: _mapped(HEAD, info.batch_size, dims, given))
ADJOINT = torch.library.custom_op("bilevel::ridge_adjoint", adjoint_of_rows, mutates_args=())
ADJOINT.register_fake(lambda columns, *_: columns.new_empty(columns.shape))

# torch binds the arguments of `forward` to its signature at every call, which takes longer than to
# solve a small head
ANY = inspect.Signature([inspect.Parameter("given", inspect.Parameter.VAR_POSITIONAL)])
for function in (RidgeHead.forward, RidgeAdjoint.forward):
    function.__dict__["__signature__"] = ANY
