"""Conjugate gradients for R systems at once."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.checks import Number, check_positive_integer, positive
from bilevel.core.cost import Cost
from bilevel.core.status import Status
from bilevel.core.waiting import all_done
from bilevel.errors import ArgumentError
from bilevel.linear.base import AbstractLinearSolver, LinearSolution
from bilevel.linear.operator import Operator, normalised, to_tree, to_vectors
from bilevel.trees import Tree

GOING = -1
"""The code of a run that is not finished."""


@dataclasses.dataclass(frozen=True, eq=False)
class CG(AbstractLinearSolver):
    r"""$Hv = b$ by conjugate gradients: P numbers take at most P steps but for rounding.

    A run stops when $\lVert b - Hv\rVert \le \text{rtol}\, \lVert b\rVert$. Whenever the recursion
    says so, the residual is computed from v itself, which takes a product; while it is larger, the
    run restarts from it. A run that gains less than a factor of 2 by that has reached the rounding
    of its products. It counts as converged if its residual is at most
    $10\,\varepsilon\, \lVert H\rVert\, \lVert v\rVert$ and $\sqrt{\varepsilon}\, \lVert b\rVert$,
    with $\varepsilon$ the precision of the type and $\lVert H\rVert$ as seen in the products. Of
    all iterates whose residual was computed, the best one is returned.

    Statuses: `INDEFINITE` when a direction of negative curvature was met; `SINGULAR` when one of
    none was, up to rounding, and b cannot be reached; `ADJOINT_NOT_CONVERGED`; `DIVERGED`. A
    singular system that has solutions gives the shortest one (from zeros), and CG does not notice:
    it sees H only where b leads it. A b of zero gives exactly zero.

    It computes in the type of b: in float32 the residual seldom falls below
    $10^{-6} \lVert b\rVert$.

    Args:
        rtol: of the residual relative to $\lVert b\rVert$, between 0 and 1; a number or (R,)
            numbers.
        max_steps: the largest number of products, those of checks included, but for the product
            of a start and the check at the end; None: 10 P + 10 for heads of P numbers.

    Raises:
        ArgumentError: `rtol` is not between 0 and 1, or `max_steps` is not a positive integer.

    Source: Hestenes and Stiefel, Methods of conjugate gradients for solving linear systems (1952),
    section 3. Differs from the source in: 1. b is scaled by a power of two, so that squares neither
    overflow nor vanish. 2. Restarts from the true residual, as above. 3. A start whose residual is
    not below $\lVert b\rVert$ is replaced by zeros.

    Examples:
        >>> import torch
        >>> from bilevel import CG
        >>> from bilevel.linear import Operator
        >>> matrix = torch.tensor([[[2.0, 0.5], [0.5, 1.0]]]).double()
        >>> b = torch.tensor([[1.0, 4.0]]).double()
        >>> CG().solve(Operator.from_matrix(matrix, b), b).value.round(decimals=6)
        tensor([[-0.5714,  4.2857]], dtype=torch.float64)
    """

    rtol: Number = 1e-10
    max_steps: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "rtol", positive(self.rtol, "`rtol`"))
        if bool(torch.as_tensor(self.rtol >= 1).any()):
            raise ArgumentError(f"`rtol` must be below 1, where zeros are a solution: {self.rtol}.")
        if self.max_steps is not None:
            check_positive_integer(self.max_steps, "`max_steps`")

    @torch.no_grad()
    def solve(self, operator: Operator, right: Tree, start: Tree | None = None) -> LinearSolution:
        """The solutions; finished runs stand still while others go on."""
        b, scale = normalised(trees.flatten(right).detach())
        product = operator.on_vectors(right)
        state = _begin(b)
        guess = None if start is None else to_vectors(start, b) / scale
        if guess is not None and bool(guess.any()):
            state = _take_start(state, guess, b - product(guess))
        rtol = trees.per_run(self.rtol, b[:, 0])
        limit = 10 * b.shape[1] + 10 if self.max_steps is None else int(self.max_steps)
        for k in range(limit + 1):
            state = state._replace(done=state.done | (state.best_norm <= rtol * state.size))
            if all_done(state.done, k):
                break
            state = _advance(state, product, b, rtol, last=k == limit)
        status = _status(state, rtol)
        value, residual = state.best * scale, state.best_norm * scale[:, 0]
        lost = (status == int(Status.DIVERGED)) | ~value.isfinite().all(1)
        value = value.masked_fill(lost.unsqueeze(1), torch.nan)
        status = status.masked_fill(lost, int(Status.DIVERGED))
        return LinearSolution(to_tree(value, right), residual.masked_fill(lost, torch.nan), status)

    @property
    def cost(self) -> Cost:
        """The most with `max_steps`, start and last check; else the least, a step and a check.

        How many steps CG takes without `max_steps` depends on H. Give it where budgets in gradients
        are compared.
        """
        return Cost(products=2 if self.max_steps is None else self.max_steps + 2)


class _State(NamedTuple):
    """What evolves; vectors (R, P), all else (R,).

    Attributes:
        v: the iterate.
        r: the residual b - H v of the recursion.
        p: the direction.
        best: of the iterates whose residual was computed from them, the best one.
        best_norm: its |b - H v|.
        size: |b|.
        largest: the largest |H x| / |x| so far, a lower bound on |H|.
        image: |H best|.
        checking: whether the next product is for the true residual.
        done: whether the run is finished.
        code: why the run cannot go on, or GOING.
    """

    v: Tensor
    r: Tensor
    p: Tensor
    best: Tensor
    best_norm: Tensor
    size: Tensor
    largest: Tensor
    image: Tensor
    checking: Tensor
    done: Tensor
    code: Tensor


def _begin(b: Tensor) -> _State:
    """From zeros, whose residual is b."""
    size, zeros, nothing = trees.norm(b), torch.zeros_like(b), torch.zeros_like(b[:, 0])
    bad = ~b.isfinite().all(1)
    code = torch.full_like(size, GOING, dtype=torch.int64)
    return _State(
        v=zeros, r=b, p=b, best=zeros, best_norm=size, size=size, largest=nothing, image=nothing,
        checking=torch.zeros_like(bad), done=bad, code=code.masked_fill(bad, int(Status.DIVERGED)),
    )  # fmt: skip


def _take_start(state: _State, guess: Tensor, residual: Tensor) -> _State:
    """From a guess, in the runs where it is better than zeros."""
    norm, image = trees.norm(residual), trees.norm(state.r - residual)
    started = state._replace(
        v=guess, r=residual, p=residual, best=guess, best_norm=norm,
        image=image, largest=_ratio(image, guess),
    )  # fmt: skip
    return trees.where(norm < state.best_norm, started, state)  # type: ignore[no-any-return]


def _advance(
    state: _State, product: Callable[[Tensor], Tensor], b: Tensor, rtol: Number, *, last: bool
) -> _State:
    """One product for all runs: of the direction, or of the iterate where a run is checking."""
    active = ~state.done
    checking = active & (state.checking | last)
    stepping = active & ~checking
    probe = torch.where(checking.unsqueeze(1), state.v, state.p)
    image = product(probe.masked_fill(state.done.unsqueeze(1), 0.0))
    length = trees.norm(image)
    largest = torch.where(active, state.largest.fmax(_ratio(length, probe)), state.largest)
    state = state._replace(largest=largest)
    state = _check(state, checking, b - image, length)
    return _step(state, stepping, image, rtol)


def _check(state: _State, checking: Tensor, residual: Tensor, image: Tensor) -> _State:
    """The true residual of v: keep v if it is the best, and restart if that is worth it."""
    norm = trees.norm(residual)
    better = checking & (norm < state.best_norm)
    stalled = ~(norm < 0.5 * state.best_norm)
    code = state.code.masked_fill(checking & ~norm.isfinite(), int(Status.DIVERGED))
    restart = checking.unsqueeze(1)
    return state._replace(
        best=torch.where(better.unsqueeze(1), state.v, state.best),
        best_norm=torch.where(better, norm, state.best_norm),
        image=torch.where(better, image, state.image),
        r=torch.where(restart, residual, state.r),
        p=torch.where(restart, residual, state.p),
        checking=state.checking & ~checking,
        done=state.done | (checking & (stalled | (code != GOING))),
        code=code,
    )


def _step(state: _State, stepping: Tensor, image: Tensor, rtol: Number) -> _State:
    """One step of the recursion, and whether the true residual is due."""
    square, size = trees.dot(state.r, state.r), trees.norm(state.p)
    curvature = trees.dot(state.p, image)
    rounding = _margin(image) * state.largest * size.square()
    flat = stepping & (curvature <= rounding)
    moving = (stepping & ~flat).unsqueeze(1)
    rate = (square / curvature).unsqueeze(1)
    v = torch.where(moving, state.v + rate * state.p, state.v)
    r = torch.where(moving, state.r - rate * image, state.r)
    left = trees.dot(r, r)
    p = torch.where(moving, r + (left / square).unsqueeze(1) * state.p, state.p)
    lost = stepping & ~(curvature.isfinite() & left.isfinite() & trees.finite(v))
    code = state.code.masked_fill(flat, int(Status.SINGULAR))
    code = code.masked_fill(flat & (curvature < -rounding), int(Status.INDEFINITE))
    floor = torch.finfo(v.dtype).eps * state.largest * trees.norm(v)
    reached = stepping & (left.sqrt() <= torch.maximum(rtol * state.size, floor))
    return state._replace(
        v=v, r=r, p=p, code=code.masked_fill(lost, int(Status.DIVERGED)), done=state.done | lost,
        checking=state.checking | flat | reached,
    )  # fmt: skip


def _status(state: _State, rtol: Number) -> Tensor:
    """The codes, by the residual that was computed from the value."""
    eps = torch.finfo(state.best.dtype).eps
    length = state.largest * trees.norm(state.best)
    floor = torch.minimum(10 * eps * length, eps**0.5 * state.size)
    solved = state.best_norm <= torch.maximum(rtol * state.size, floor)
    flat = state.image <= _margin(state.best) * length  # so |H v| is zero up to rounding
    status = torch.full_like(state.code, int(Status.ADJOINT_NOT_CONVERGED))
    status = status.masked_fill(flat & (length > 0), int(Status.SINGULAR))
    status = torch.where(state.code == GOING, status, state.code)
    hopeless = (state.code == int(Status.INDEFINITE)) | (state.code == int(Status.DIVERGED))
    solved = solved & ~hopeless
    return status.masked_fill(solved, int(Status.CONVERGED))


def _margin(vectors: Tensor) -> float:
    """How small a curvature is zero, relative to |H|: P eps, as in a factorisation."""
    return max(10, vectors.shape[1]) * torch.finfo(vectors.dtype).eps


def _ratio(length: Tensor, vectors: Tensor) -> Tensor:
    """|H x| / |x|, 0 for a vector of zeros."""
    size = trees.norm(vectors)
    return torch.where(size > 0, length / size, torch.zeros_like(size))
