"""How the exact head of squared error, and its adjoint, are solved.

A factor is one tensor, (q, q) or more, or with a leading axis: the rows of L', and below them where
it has them those of H, to refine solutions with, and the origin that features were counted from.
"""

import math
from typing import Any

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.status import Status
from bilevel.derivatives.linear_parts import LinearParts
from bilevel.errors import ArgumentError, SingularHeadError
from bilevel.linear.dual import DualSystem, linear_system
from bilevel.linear.factor import CentredFactor, DualFactor, Factor, PrimalFactor
from bilevel.linear.systems import AbstractSystem

SURE, DOUBTFUL = 1e-2, 1e-8
"""What is left of each diagonal entry where a matrix is well conditioned, and where it may be
singular: its eigenvalues tell."""
Found = tuple[Tensor, Tensor]


def head_of_rows(
    design: Tensor,
    targets: Tensor,
    penalty: Tensor,
    weights: Tensor | None,
    bias: str | None,
    form: str,
    check: bool,
) -> Found:
    """theta of one head or of B, and their factors.

    Args:
        design: Z, (n, m) or (B, n, m), any floating type.
        targets: t, (n, K) or (B, n, K).
        penalty: p, (m,) or (B, m), or an axis less, or 1, for all features.
        weights: s, (n,) or (B, n); None: 1.
        bias: "free" or "penalised" where the last feature is the constant one.
        form: of the system, "primal" or "dual"; "auto" looks at the numbers.
        check: whether heads that are not determined raise; otherwise they are NaN.

    Returns:
        theta (m, K), float64, and its factor, both with the leading axis if there is one: that of
        n H, (m, m), where solutions need no refinement, else of H; (n, n) of the dual form.
    """
    least = smallest(penalty, check)
    if form == "auto" and bias is None and weights is None and least >= 0:
        quick = _quickly(design.double(), targets, penalty)
        if quick is not None:
            return quick
    if design.ndim > 2:
        return _carefully(design, targets, penalty, weights, bias, form, check)
    z, t, p, s = _with_axis(design, targets, penalty, weights)
    theta, factor = _carefully(z, t, p, s, bias, form, check)
    return theta[0], factor[0]


def smallest(penalty: Tensor, check: bool) -> float:
    """The smallest penalty; with `check`, none may be negative."""
    least = float(penalty.min())
    if check and least < 0:
        raise ArgumentError(f"`ridge` must be at least 0, got {least:.4g}.")
    return least


def adjoint_of_rows(
    columns: Tensor, design: Tensor, penalty: Tensor, weights: Tensor | None, factor: Tensor
) -> Tensor:
    """(n H)^{-1} c for c (m, K) or (B, m, K), float64, by the factor of `head_of_rows`."""
    n, m = design.shape[-2:]
    height, size = factor.shape[-2:]
    if height == m:
        return torch.cholesky_solve(columns, factor.mT)
    if columns.ndim == 2:
        return adjoint_of_rows(*_with_axis(columns, design, penalty, weights, factor))[0]
    cholesky, *below = factor.unsqueeze(1).split(size, 2)  # type: ignore[no-untyped-call]
    known: Factor
    if below:
        known = PrimalFactor(cholesky.mT, below[0])
        known = CentredFactor(known, below[1][:, 0, 0]) if len(below) > 1 else known
    else:
        rows = design.double()
        rows = rows if weights is None else rows * weights.double().sqrt().unsqueeze(2)
        known = DualFactor(cholesky.mT, rows, penalty.expand(len(rows), m).unsqueeze(1))
    return known.solve(columns / n).contiguous()


def _with_axis(*given: Tensor | None) -> list[Any]:
    return [None if x is None else x.unsqueeze(0) for x in given]


def _quickly(design: Tensor, targets: Tensor, penalty: Tensor) -> Found | None:
    """The heads by few operations, if no pivot is small: each takes as long as a small head.

    Refinement would change no digit that counts; `PrimalSystem` makes it for all others.
    """
    n, m = design.shape[-2:]
    if n < m:
        return None
    columns = design.mT
    matrix = columns @ design
    entries = matrix.diagonal(dim1=-2, dim2=-1)
    entries.add_(penalty, alpha=n)
    cholesky, info = torch.linalg.cholesky_ex(matrix)
    left = cholesky.diagonal(dim1=-2, dim2=-1).square() / entries
    if int(info.max()) or not float(left.min()) > SURE:
        return None
    theta = torch.cholesky_solve(columns @ targets, cholesky)
    if not math.isfinite(theta.sum()):
        return None
    return theta, cholesky.mT


def _carefully(
    design: Tensor,
    targets: Tensor,
    penalty: Tensor,
    weights: Tensor | None,
    bias: Any,
    form: str,
    check: bool,
) -> Found:
    """B heads by their system, which refines, counts from the means and tells why it cannot."""
    least, penalty = float(penalty.min()), penalty.expand(len(design), design.shape[2])
    parts = LinearParts(design, targets, weights, penalty)
    dual = form == "dual" or (form == "auto" and least > 0 and design.shape[1] < design.shape[2])
    system = linear_system(parts, penalised=dual, bias=bias)
    if form == "auto" and isinstance(system, DualSystem) and system.unbalanced():
        system = linear_system(parts, penalised=False, bias=bias)
    theta, status, factor = system.factorised()
    if not (_sure(status, factor, least) and math.isfinite(theta.sum())):
        wrong = (status != int(Status.CONVERGED)) | ~trees.finite(theta)
        if not least > 0:
            wrong |= ~system.definite() | (penalty < 0).any(1)
        if check and bool(wrong.any()):
            raise _refused(system, status, wrong, least)
        theta = theta.masked_fill(wrong.reshape(-1, 1, 1), torch.nan)
    inner = factor.inner if isinstance(factor, CentredFactor) else factor
    rows = [inner.cholesky[:, 0].mT]
    rows += [inner.hessian[:, 0]] if isinstance(inner, PrimalFactor) else []
    rows += [factor.origin.unsqueeze(1)] if isinstance(factor, CentredFactor) else []
    return theta.contiguous(), torch.cat(rows, 1)


def _sure(status: Tensor, factor: Factor, least: float) -> bool:
    """Whether all heads are determined for sure.

    Where a pivot is small and no penalty answers for it, only the eigenvalues tell.
    """
    if least < 0 or bool((status != int(Status.CONVERGED)).any()):
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
