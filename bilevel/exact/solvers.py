"""How the exact heads of classes, and between bounds, are solved, and their adjoints.

By the solvers of problem classes: B heads are the runs of one problem whose parts are given.
"""

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from bilevel import trees
from bilevel.core.status import Status
from bilevel.data.rows import Rows
from bilevel.derivatives.head_point import HeadPoint
from bilevel.derivatives.linear_parts import LinearParts
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import BilevelError, InexactHeadError, SingularHeadError
from bilevel.exact.factored import smallest
from bilevel.heads.default import default_solver
from bilevel.heads.objectives.linear import count_blocks
from bilevel.heads.quadratic import quadratic_system
from bilevel.hypergradients.condition import Condition
from bilevel.linear.cholesky import factorise
from bilevel.linear.factor import BlockFactor, Factor, PrimalFactor
from bilevel.problem.base import Batch, Groups
from bilevel.problem.criteria import AbstractCriterion, LogisticLoss, SoftmaxLoss, SquaredError
from bilevel.problem.linear_head import LinearHeadProblem
from bilevel.problem.sets import Box
from bilevel.trees import Tree

CRITERIA: dict[str, AbstractCriterion] = {
    "softmax": SoftmaxLoss(),
    "logistic": LogisticLoss(),
    "box": SquaredError(),
}
Found = tuple[Tensor, Tensor, Tensor]
Adjoint = tuple[Tensor, Tensor, Tensor, Tensor]


class _Plain(LinearHeadProblem):
    """The problem whose body is what the functions of this package are given.

    Args:
        form: the name of the criterion, and "free" or "penalised" after it with a bias.
        outputs: K.
        limits: the bounds of the head, (2, m, K), or None.
    """

    def __init__(self, form: str, outputs: int, limits: Tensor | None) -> None:
        kind, *bias = form.split()
        self.criterion = CRITERIA[kind]
        self.outputs = None if kind == "logistic" else outputs
        self.fit_bias, self.penalize_bias = bool(bias), bias == ["penalised"]
        if limits is not None:
            self.head_set = Box(limits[0], limits[1])

    def data(self, seed: int | None = None) -> Groups:
        return {}  # rows are given beside it

    init_body = init_head = data  # type: ignore[assignment]

    def features(self, body: Tree, inputs: Tensor) -> Tensor:
        return inputs

    def penalty(self, body: Tree) -> Tensor:
        return body["penalty"]  # type: ignore[no-any-return]


class _Parts(Oracles):
    """Oracles of heads whose parts are given: nothing is mapped, as operators allow no `vmap`."""

    @override
    def bare_parts(self, body: Tree, rows: Rows) -> LinearParts:
        train = rows.groups["train"]
        return LinearParts(train.inputs, train.targets, body.get("weights"), body["penalty"])

    @override
    def linear_penalty(self, body: Tree, like: Tensor) -> Tensor:
        return body["penalty"]  # type: ignore[no-any-return]


def curved_heads(
    design: Tensor,
    targets: Tensor,
    penalty: Tensor,
    weights: Tensor | None,
    start: Tensor,
    limits: Tensor | None,
    form: str,
    check: bool,
) -> Found:
    """theta of B heads, and the factors that they were solved with.

    Args:
        design: Z, (B, n, m), the constant feature included.
        targets: labels (B, n), or t, (B, n, K).
        penalty: p, (B, m).
        weights: s, (B, n); None: 1.
        start: heads to start from, (B, m, K), float64.
        limits: bounds of the heads, (2, m, K); None: there are none.
        form: see `_Plain`.
        check: whether heads that are not determined raise; otherwise they are NaN.

    Returns:
        theta (B, m, K), float64; the blocks of a factor (B, J, q, q), or (B, 0, 0, 0) between
        bounds; and whether there is one, (B,).
    """
    point = _point(design, targets, penalty, weights, start, limits, form)
    smallest(penalty, check)
    if limits is None:  # where values cannot raise, too: they are numbers here, and others no class
        outputs = None if form.startswith("logistic") else start.shape[2]
        CRITERIA[form.split()[0]].check_targets(targets.flatten(), outputs)
    solver, at = default_solver(point.problem), (point.oracles, point.body, point.head, point.rows)
    try:
        found = solver.solve(*at, solver.init(*at), 0)
    except SingularHeadError:
        if check:
            raise
        return _one_by_one(design, targets, penalty, weights, start, limits, form)
    wrong = (found.status != int(Status.CONVERGED)) | (penalty < 0).any(1)
    if check and bool(wrong.any()):
        raise _failed(wrong, found.status, trees.finite([design, penalty, *_real(targets)]))
    theta = trees.nan_where(wrong, found.head).reshape(start.shape)
    if limits is None:
        return theta, found.factor.cholesky, found.factor.usable
    return theta, theta.new_empty(len(theta), 0, 0, 0), torch.zeros_like(wrong)


def curved_adjoint(
    columns: Tensor,
    design: Tensor,
    targets: Tensor,
    penalty: Tensor,
    weights: Tensor | None,
    theta: Tensor,
    cholesky: Tensor,
    usable: Tensor,
    limits: Tensor | None,
    form: str,
) -> Adjoint:
    """x = (n H)^{-1} c on the free numbers of the heads for c (B, m, K), see `curved_heads`.

    Returns:
        x, (B, m, K); the negative slopes of the losses of the rows, Z x and C Z x, (B, n, K).
    """
    point = _point(design, targets, penalty, weights, theta, limits, form)
    if limits is not None:
        x = _between_bounds(point, columns)
    else:
        right = columns.reshape(point.head.shape)
        found = Condition(point).solve(right, factor=BlockFactor(cholesky, usable))
        x = found.value.reshape(columns.shape)
    rows, x = design.double(), x / design.shape[1]
    along = rows @ x
    return x, *_of_rows(form.split()[0], rows @ theta, targets, along)


def _between_bounds(point: HeadPoint, columns: Tensor) -> Tensor:
    """By the factor of H, or of its free rows and columns, another matrix for each output."""
    system = quadratic_system(point, penalised=False)
    primal = system.primal()
    free: Tensor = point.problem.head_set.free(point.head, -primal.slope(point.head))  # type: ignore[assignment]
    factor: Factor
    if bool(free.all()):
        factor = system.factorised()[2]
        return factor.solve(columns)
    kept = free.mT.unsqueeze(3)
    entries = primal.hessian.diagonal(dim1=2, dim2=3).expand(*free.mT.shape)
    matrix = torch.where(kept & kept.mT, primal.hessian, 0.0)
    matrix = matrix + torch.diag_embed(torch.where(free.mT, 0.0, entries))
    factor = PrimalFactor(*factorise(matrix)[:2])
    return free * factor.solve(free * columns)


def _point(
    design: Tensor,
    targets: Tensor,
    penalty: Tensor,
    weights: Tensor | None,
    head: Tensor,
    limits: Tensor | None,
    form: str,
) -> HeadPoint:
    """The heads of `_Plain` problems, B runs."""
    problem = _Plain(form, head.shape[2], limits)
    body = {"penalty": penalty} if weights is None else {"penalty": penalty, "weights": weights}
    rows = Rows({"train": Batch(design.double(), targets)}, {"train": 0})
    return HeadPoint(_Parts(problem), body, head if problem.outputs else head.squeeze(2), rows)


def _of_rows(
    kind: str, predictions: Tensor, targets: Tensor, along: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The negative slopes of all rows, `along`, and their curvatures times it, (B, n, K)."""
    if kind == "box":
        return targets - predictions, along, along.clone()
    shape, criterion = predictions.shape, CRITERIA[kind]
    flat = predictions.reshape(-1) if kind == "logistic" else predictions.flatten(0, 1)
    slope = criterion.slope(flat, targets.flatten())
    curvature = criterion.curvature(flat, targets.flatten())
    assert slope is not None
    assert curvature is not None
    curved = curvature.diagonal.reshape(shape) * along
    if curvature.outer is not None:
        outer = curvature.outer.reshape(shape)
        curved = curved - outer * (outer * along).sum(2, keepdim=True)
    return -slope.reshape(shape), along, curved


def _one_by_one(*given: Any) -> Found:
    """Where some head is not determined: NaN for it, and the others as they are."""
    design, targets, penalty, weights, start, limits, form = given
    runs = len(design)
    if runs == 1:
        nothing = start.new_full(start.shape, torch.nan), start.new_zeros(factor_shape(start, form))
        return *nothing, torch.zeros(1, dtype=torch.bool, device=start.device)
    parts = []
    for i in range(runs):
        z, t, p, begin = (x[i : i + 1] for x in (design, targets, penalty, start))
        s = None if weights is None else weights[i : i + 1]
        parts.append(curved_heads(z, t, p, s, begin, limits, form, False))
    theta, cholesky, usable = (torch.cat(x) for x in zip(*parts, strict=True))
    return theta, cholesky, usable


def factor_shape(head: Tensor, form: str) -> tuple[int, ...]:
    """That of the factor of B heads (B, m, K)."""
    runs, m, outputs = head.shape
    if form.startswith("box"):
        return runs, 0, 0, 0
    blocks = count_blocks(m, outputs, form.startswith("softmax"))
    return runs, blocks, m * outputs // blocks, m * outputs // blocks


def _failed(wrong: Tensor, status: Tensor, finite: Tensor) -> BilevelError:
    """The error about the first head that has no answer."""
    which, count = int(wrong.nonzero()[0]), len(wrong)
    code = Status(int(status[which]))
    where = f"Head {which} (of {count}, leading axes flattened)" if count > 1 else "The head"
    if not bool(finite[which]):
        return SingularHeadError(f"{where}: features, targets or penalties are not finite.")
    if code == Status.NOT_CONVERGED:
        return InexactHeadError(f"{where} was not solved to rounding: {code.message}")
    return SingularHeadError(f"{where} has no minimiser that is known: {code.message}")


def _real(targets: Tensor) -> list[Tensor]:
    return [targets] if targets.is_floating_point() else []
