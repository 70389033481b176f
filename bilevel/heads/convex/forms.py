"""The heads of R runs, as values for compiled cvxpy problems and as derivatives."""

import abc
import dataclasses
import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from bilevel import trees
from bilevel.core.status import Status
from bilevel.data.rows import Rows
from bilevel.derivatives.head_point import HeadPoint
from bilevel.derivatives.linear_parts import LinearParts
from bilevel.derivatives.oracles import Oracles
from bilevel.heads.convex.compiled import Compiled, GramForm, Kept, RowsForm
from bilevel.heads.objectives.base import AbstractObjective
from bilevel.heads.objectives.linear import LinearObjective
from bilevel.heads.objectives.quadratic import QuadraticObjective
from bilevel.heads.objectives.view import head_objective, linear_objective, seen_from_means
from bilevel.heads.quadratic import all_penalised, quadratic_system, refuse_singular
from bilevel.heads.rows_used import Decided, FullData
from bilevel.linear.centre import Centre, by_output
from bilevel.linear.cholesky import factorise
from bilevel.linear.dual import linear_system
from bilevel.linear.factor import CentredFactor, PrimalFactor, merge_outputs, split_outputs
from bilevel.linear.systems import CentredSystem, PrimalSystem
from bilevel.problem.linear_head import LinearHeadProblem
from bilevel.trees import Tree

ALL_ROWS = FullData()


class ConvexHeads(abc.ABC):
    """g of a linear head in R runs at their bodies; all tensors float64."""

    status: Tensor  # before anything is solved, (R,): failed where numbers are not finite
    factor: Any = None  # of the Hessian, for adjoints
    largest: Tensor  # about the largest curvature, (R,), positive
    objective: AbstractObjective  # g on vectors

    @abc.abstractmethod
    def task(self, run: int, kept: Kept, *shared: Any) -> Compiled:
        """The compiled problem of a run; `shared` are the arguments of every `Compiled`."""

    @abc.abstractmethod
    def values(self, run: int) -> dict[str, np.ndarray]:
        """What its parameters are in a run."""

    @abc.abstractmethod
    def slope(self, head: Tensor) -> Tensor:
        """d_theta g, shaped like the heads."""

    @abc.abstractmethod
    def hessian(self, head: Tensor) -> Tensor:
        """d2_{theta theta} g, (R, P, P)."""

    @abc.abstractmethod
    def from_means(self) -> "tuple[ConvexHeads, Centre | None]":
        """The heads theta_c, where features lie far from zero; no set may hold theta."""

    @property
    def penalised(self) -> Tensor:
        """Whether a penalty keeps the head from running away, (R,)."""
        return self.objective.penalised.expand(len(self.status))

    def settled(self, head: Tensor) -> Tensor:
        """Heads with what g does not determine settled."""
        found: Tensor = self.objective.head(self.objective.vector(head))
        return found

    def reach(self, head: Tensor, step: Tensor) -> Tensor:
        """How much a prediction moves with a step at most, (R,), see `AbstractObjective`."""
        vector = self.objective.vector
        return self.objective.reach(self.objective.at(vector(head)), vector(step))

    def scale(self, head: Tensor) -> Tensor:
        """The size of what cancels in the slope at some heads, (R,)."""
        return trees.norm(self.slope(torch.zeros_like(head))) + self.largest * trees.norm(head)

    def derivatives(self, head: Tree) -> tuple[Tensor, Tensor]:
        """Slope and Hessian."""
        return self.slope(head), self.hessian(head)


def convex_heads(
    oracles: Oracles, body: Tree, head: Tensor, rows: Rows, state: Any = None
) -> tuple[ConvexHeads, Any]:
    """The heads on all rows, and the state for the next call.

    Args:
        oracles: of the problem.
        body: leaves (R, ...).
        head: (R, M) or (R, M, K).
        rows: of the step.
        state: of the call before; None: check once what can be checked, at initial points.

    Raises:
        SingularHeadError: a quadratic head has no unique minimiser.
    """
    problem = oracles.problem
    assert isinstance(problem, LinearHeadProblem)
    if not problem.criterion.quadratic:
        body, head = trees.cast((body, head), torch.float64)
        point = HeadPoint(oracles, body, head, rows.full.cast(torch.float64))
        parts = oracles.linear_parts(body, point.rows)
        if state is None and not all_penalised(point):
            refuse_singular(linear_system(parts, penalised=False, bias=oracles.bias), point)
        return RowsHeads(problem, parts, head_objective(point)), ()
    point = HeadPoint(oracles, body, head, rows)
    if state is None:
        state = ALL_ROWS.init(point)
    if isinstance(state, Decided):  # H itself is needed, not the kernel of the rows
        system = quadratic_system(point.full, penalised=False)
    else:
        system, state = ALL_ROWS.system(point, state)
    assert isinstance(system, PrimalSystem | CentredSystem)
    return GramHeads(system, outputs=None if head.ndim == 2 else head.shape[2]), state


@dataclasses.dataclass(frozen=True, eq=False)
class GramHeads(ConvexHeads):
    """1/2 theta' H theta - b' theta."""

    system: PrimalSystem | CentredSystem
    outputs: int | None  # K, or None for heads (R, M)

    @functools.cached_property
    def _factorised(self) -> tuple[PrimalFactor, Tensor]:
        """Of H, or as seen from the centre."""
        cholesky, hessian, status = factorise(self._inner.hessian)
        return PrimalFactor(cholesky, hessian), status

    @property
    def _inner(self) -> PrimalSystem:
        return self.system.inner if isinstance(self.system, CentredSystem) else self.system

    @property
    def _centre(self) -> Centre | None:
        return self.system.centre if isinstance(self.system, CentredSystem) else None

    @functools.cached_property
    def status(self) -> Tensor:  # type: ignore[override]
        """CONVERGED or JITTERED; DIVERGED where there is no factor, or b is no number."""
        lost = ~self._inner.moment.flatten(1).isfinite().all(1)
        code = self._factorised[1]
        return torch.where(lost, code.clamp(min=int(Status.DIVERGED)), code)

    @property
    @override
    def factor(self) -> PrimalFactor | CentredFactor:
        inner, centre = self._factorised[0], self._centre
        return inner if centre is None else CentredFactor(inner, centre.origin)

    def from_means(self) -> tuple[ConvexHeads, Centre | None]:
        """Those of the system that is seen from there."""
        if not (isinstance(self.system, CentredSystem) and self.system.far()):
            return self, None
        return GramHeads(self.system.inner, self.outputs), self.system.centre

    @functools.cached_property
    def objective(self) -> QuadraticObjective:  # type: ignore[override]
        """1/2 theta' H theta - b' theta, as seen from the centre."""
        inner = self._inner
        return QuadraticObjective(inner.hessian, merge_outputs(inner.moment), self.outputs)

    @functools.cached_property
    def largest(self) -> Tensor:  # type: ignore[override]
        """The largest diagonal entry of H."""
        return self._matrix.diagonal(dim1=2, dim2=3).flatten(1).amax(1)

    @functools.cached_property
    def _matrix(self) -> Tensor:
        """H as it was factored, (R, J, m, m)."""
        inner, moment = self._factorised[0].hessian, merge_outputs(self._inner.moment)
        return inner if self._centre is None else self._centre.undone(inner, moment)[0]

    @functools.cached_property
    def _scaled(self) -> tuple[np.ndarray, np.ndarray]:
        """R and c, with |c| = 1: the tolerances of solvers are absolute."""
        cholesky = self._factorised[0].cholesky
        target = torch.linalg.solve_triangular(cholesky, self._inner.moment, upper=False)
        root = cholesky.mT
        if self._centre is not None:  # R theta - c = L'(T theta - l e) - c
            origin, level = self._centre
            target = target + root[..., -1:] * split_outputs(level.unsqueeze(1), root.shape[1])
            root = root + root[..., -1:] * origin[:, None, None]
        unit = torch.linalg.vector_norm(target.flatten(1), dim=1).reshape(-1, 1, 1, 1)
        unit = torch.where(unit > 0, unit, torch.ones_like(unit))
        return (root / unit).cpu().numpy(), (target / unit).cpu().numpy()

    @override
    def task(self, run: int, kept: Kept, *shared: Any) -> Compiled:
        matrices, size = self._inner.hessian.shape[1:3]
        shape = (size,) if self.outputs is None else (size, self.outputs)
        return kept.compiled(GramForm, shape, *shared, matrices)

    def values(self, run: int) -> dict[str, np.ndarray]:
        """R and c, or one pair for each output."""
        factor, target = self._scaled
        flat = self.outputs is None or factor.shape[1] > 1
        found = {}
        for j in range(factor.shape[1]):
            found[f"factor{j}"] = factor[run, j]
            found[f"target{j}"] = target[run, j, :, 0] if flat else target[run, j]
        return found

    @override
    def slope(self, head: Tensor) -> Tensor:
        columns = head if head.ndim == 3 else head.unsqueeze(2)
        matrix, centre = self._factorised[0].hessian, self._centre
        columns = columns if centre is None else centre.inward(columns)
        found = merge_outputs(matrix @ split_outputs(columns, matrix.shape[1]) - self._inner.moment)
        found = found if centre is None else centre.slope(found)
        return found if head.ndim == 3 else found.squeeze(2)

    @override
    def hessian(self, head: Tensor) -> Tensor:
        return self._whole

    @functools.cached_property
    def _whole(self) -> Tensor:
        """H, or all H on one diagonal, outputs side by side in each row of the head."""
        count = self.outputs or 1
        return _unfolded(self._matrix.expand(-1, count, -1, -1), count)


@dataclasses.dataclass(frozen=True, eq=False)
class RowsHeads(ConvexHeads):
    """The mean of the losses of all rows, and the penalty."""

    problem: LinearHeadProblem  # with the criterion and the shape of the head
    parts: LinearParts
    objective: AbstractObjective

    @functools.cached_property
    def status(self) -> Tensor:  # type: ignore[override]
        """DIVERGED where a number is not finite."""
        numbers = [part for part in self.parts if part is not None and part.is_floating_point()]
        code = torch.full((len(numbers[0]),), int(Status.CONVERGED), device=numbers[0].device)
        return code.masked_fill(~trees.finite(numbers), int(Status.DIVERGED))

    @functools.cached_property
    def largest(self) -> Tensor:  # type: ignore[override]
        """The largest diagonal entry of Z'SZ/n + diag(p)."""
        squares, penalty = self.parts.design.square(), self.parts.penalty
        if self.parts.columns is not None:
            squares = squares * self.parts.columns.amax(2, keepdim=True)
        return (squares.mean(1).unsqueeze(1) + by_output(penalty)).flatten(1).amax(1)

    def task(self, run: int, kept: Kept, *shared: Any) -> Compiled:
        """One for all runs with the same labels."""
        n, size = self.parts.design.shape[1:]
        labels = None if self._labels is None else self._labels[run]
        weights = None if self.parts.weights is None else tuple(self.parts.weights.shape[1:])
        parts = (self.problem.criterion, n, labels, weights, self.parts.prior is not None)
        arguments = (self.problem.head_shape(size), *shared, *parts)
        return kept.compiled(RowsForm, *arguments, together=self._together)

    @functools.cached_property
    def _labels(self) -> np.ndarray | None:
        """(R, n), unless targets are real."""
        targets = self.parts.targets
        return None if targets.is_floating_point() else targets.cpu().numpy()

    @functools.cached_property
    def _together(self) -> int:
        """How many problems the runs need."""
        return 1 if self._labels is None else len({labels.tobytes() for labels in self._labels})

    def values(self, run: int) -> dict[str, np.ndarray]:
        """Features, root of the penalty, and targets, weights and prior unless they are constants.

        The prior comes times the root of the penalty.
        """
        design, targets, weights, penalty, prior = self.parts
        root = penalty[run].sqrt()
        root = root.unsqueeze(1) if root.ndim < len(self.problem.head_shape(1)) else root
        shape = self.problem.head_shape(design.shape[2])
        found = {"design": design[run], "penalty": root.expand(shape)}
        if prior is not None:
            found["drawn"] = prior[run] * root
        if targets.is_floating_point():
            found["targets"] = targets[run]
        if weights is not None:
            found["weights"] = weights[run]
        return {name: value.cpu().numpy() for name, value in found.items()}

    @override
    def slope(self, head: Tensor) -> Tensor:
        slope = self.objective.at(self.objective.vector(head)).slope
        found: Tensor = self.objective.head(slope)
        return found

    def hessian(self, head: Tensor) -> Tensor:
        """Its blocks, in the order of the head."""
        place = self.objective.at(self.objective.vector(head))
        blocks = self.objective.hessian(place, torch.float64)
        return _unfolded(blocks, 1 if head.ndim == 2 else head.shape[2])

    def from_means(self) -> tuple[ConvexHeads, Centre | None]:
        """Of features less their means."""
        parts, centre = seen_from_means(self.problem, self.parts)
        if centre is None or not isinstance(self.objective, LinearObjective):
            return self, None
        return RowsHeads(self.problem, parts, linear_objective(self.problem, parts)), centre


def _unfolded(blocks: Tensor, outputs: int) -> Tensor:
    """One matrix, (R, P, P), of blocks output by output, in the order of the head."""
    runs, count, size = blocks.shape[:3]
    apart = torch.eye(count, dtype=blocks.dtype, device=blocks.device)
    whole = torch.einsum("rkij,kl->rkilj", blocks, apart).reshape(runs, count * size, -1)
    order = torch.arange(count * size, device=blocks.device).reshape(outputs, -1).T.flatten()
    return whole[:, order][:, :, order]
