"""Error bounds: how far a head is from the best response.

With mu the strong convexity of g in the head: |theta - theta*| <= |d_theta g| / mu and
g - g* <= |d_theta g|^2 / (2 mu). With a set of heads, the gradient mapping
G = L (theta - Proj(theta - d_theta g / L)) takes the gradient's place: a projected step of length
1/L contracts distances by 1 - mu/L, hence |theta - theta*| <= |G| / mu for every theta. The
value bound |G|^2 / (2 mu) holds at the projected point; theta adds its own distance in g to it.
"""

import dataclasses
import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.status import Status
from bilevel.derivatives.head_point import HeadPoint
from bilevel.derivatives.oracles import Oracles
from bilevel.heads.objectives.hessian import hessian_system
from bilevel.heads.quadratic import (
    LARGEST_GENERAL_HEAD,
    all_penalised,
    deviation,
    is_quadratic,
    landing,
    linear_moments,
    quadratic_system,
    uses_dual,
)
from bilevel.linear.cholesky import EPS
from bilevel.linear.gram import row_sums
from bilevel.linear.systems import AbstractSystem, PrimalSystem
from bilevel.problem.linear_head import LinearHeadProblem
from bilevel.problem.sets import Everywhere
from bilevel.trees import Tree

BoundKind = Literal["proven", "estimated", "unknown"]
Form = Literal["features", "gradients", "convex", "stated", "local"]
FEATURES = "mu is the smallest eigenvalue of the Gram matrix plus the penalty"
FREE_BIAS = "; the bias is not penalised, so mu depends on the data."
CONVEX = "g is convex without its penalty, so mu is the smallest penalty."
QUADRATIC = (
    "mu is the smallest eigenvalue of the head's Hessian, which is constant as far as the "
    "gradients at this head, at its best response and at two random heads tell."
)
LOCAL = "mu is the smallest eigenvalue of the Hessian at this head: a local estimate."


class HeadCertificate(NamedTuple):
    """How good the heads of R runs are; everything in float64, shapes (R,).

    Attributes:
        residual: |d_theta g|, or |G| with a set of heads.
        mu: a lower bound on (an estimate of) the strong convexity of g in the head.
        bound: on |theta - theta*|.
        value_bound: on g(w, theta) - g(w, theta*).
        largest: an upper bound on (an estimate of) the curvature of g in the head; NaN if unknown.
    """

    residual: Tensor
    mu: Tensor
    bound: Tensor
    value_bound: Tensor
    largest: Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Certifier:
    """Certifies heads of one problem.

    Args:
        oracles: of the problem.
        kind: "proven" for quadratic heads and where the problem knows its curvature, "estimated"
            where only the local Hessian is known, "unknown" where the head is too large for a
            Hessian (no bound is given then). A linear head with squared error is quadratic by its
            form, another one if the gradients say so at every head that is certified: a run where
            they do not gets no bound and no theta*.
        form: where mu and L come from. "features": of a linear head with squared error;
            "gradients": the Hessian of another head that is quadratic, as its gradients tell;
            "convex": the penalty, which covers all of a linear head with a convex criterion;
            "stated": the problem; "local": the Hessian at the heads.
        note: the same, in words.
        exact: whether theta* itself can be computed beside the bound.
        penalised: see `bilevel.heads.quadratic.uses_dual`.
        large: whether the head is too large for a Hessian.
    """

    oracles: Oracles
    kind: BoundKind
    form: Form
    note: str
    exact: bool = False
    penalised: bool = False
    large: bool = False

    @classmethod
    def for_problem(cls, point: HeadPoint, *, stated: bool = False) -> "Certifier":
        """Find out once, at initial points, what can be certified.

        Args:
            point: float64, on the rows that g is meant on.
            stated: whether what the problem states of itself holds for these rows.
        """
        oracles, problem, note = point.oracles, point.problem, LOCAL
        everywhere = isinstance(problem.head_set, Everywhere)
        # what follows from the form of g comes first, then what its gradients tell, which is
        # looked at again at every head; what the problem states of itself is taken on trust
        if isinstance(problem, LinearHeadProblem):
            if problem.criterion.quadratic:
                note = FEATURES + (FREE_BIAS if oracles.bias == "free" else ".")
                dual = uses_dual(point)
                return cls(oracles, "proven", "features", note, everywhere, penalised=dual)
            # a set of heads asks for L, which takes the largest curvature of the criterion
            told = everywhere or math.isfinite(problem.criterion.largest_curvature)
            if told and all_penalised(point):
                return cls(oracles, "proven", "convex", CONVEX, penalised=True)
            # the Hessian of such a head takes the features of all rows at once
            large = point.size > LARGEST_GENERAL_HEAD or point.rows.chunks is not None
            note += " Coefficients without a penalty make it depend on the data."
        else:
            large = point.size > LARGEST_GENERAL_HEAD
            if not large and is_quadratic(point):
                # the nearest point of an interval to theta* is the best one in it
                exact = everywhere or point.size == 1
                return cls(oracles, "proven", "gradients", QUADRATIC, exact)
        known = problem.known_curvature(trees.take(point.body, 0)) if stated else None
        if known is not None and (math.isfinite(known.largest) or (everywhere and not large)):
            note = "mu is what the problem states."
            return cls(oracles, "proven", "stated", note, large=large)
        if large:
            note = "The head is too large for its Hessian."
            return cls(oracles, "unknown", "local", note, large=True)
        return cls(oracles, "estimated", "local", note)

    @property
    def quadratic(self) -> bool:
        """Whether g is quadratic in the head."""
        return self.form in ("features", "gradients")

    def system(self, point: HeadPoint) -> AbstractSystem | None:
        """The head's linear system; its solution is theta*, or the way there (general heads).

        Where g is not known to be quadratic it is the Newton step at these heads.

        None for heads that are too large.
        """
        if self.large:
            return None
        if isinstance(point.problem, LinearHeadProblem) and self.form in ("stated", "local"):
            return hessian_system(point)
        system = quadratic_system(point, penalised=self.penalised)
        if self.form != "gradients":
            return system
        assert isinstance(system, PrimalSystem)
        agrees = landing(point, system, system.solve()).agrees.reshape(-1, 1, 1, 1)
        return dataclasses.replace(system, hessian=system.hessian.where(agrees, torch.nan))

    def best_response(self, system: AbstractSystem, head: Tree) -> Tree:
        """theta*, where `exact`; NaN where H is numerically singular, or g not quadratic."""
        numbers, status = system.solve()
        unsolved = (status != int(Status.CONVERGED)).reshape(-1, 1, 1)
        numbers = numbers.masked_fill(unsolved, torch.nan)
        if isinstance(self.oracles.problem, LinearHeadProblem):
            return numbers if head.ndim == 3 else numbers.squeeze(2)
        solved = trees.tree_map(torch.add, head, trees.unflatten(numbers.squeeze(2), head))
        return self.oracles.problem.head_set.project(solved)

    def certify(self, system: AbstractSystem | None, point: HeadPoint) -> HeadCertificate:
        """Bounds for a head.

        Args:
            system: of `self.system` at the same point.
            point: float64, as everything here.
        """
        head, head_set = point.head, point.problem.head_set
        slope = self._slope(system, point)
        size = trees.norm(slope)
        if self.kind == "unknown":
            nothing = torch.full_like(size, torch.nan)
            return HeadCertificate(size, nothing, nothing, nothing, nothing)
        near = self._near(system, point, size)
        mu, largest = self._curvature(system, point, size) if near is None else near[:2]
        mu = torch.where(mu > 0, mu, torch.nan)
        residual, descent, end = size, torch.zeros_like(size), None
        if not isinstance(head_set, Everywhere):
            step = trees.tree_map(lambda t, d: t - d / trees.per_run(largest, d), head, slope)
            end = point.at(head_set.project(step))
            residual = largest * trees.norm(trees.tree_map(torch.sub, head, end.head))
            here, there = (x.value() for x in (point, end))
            descent = here - there + 10 * EPS * (here.abs() + there.abs())
        safe = residual + (_rounding(point, largest, system) if near is None else near[2])
        if self.form == "gradients":  # which may tell otherwise here
            assert isinstance(system, PrimalSystem)
            safe = safe + 2 * _off(system, point, end)
        value = descent + safe.square() / (2 * mu)
        return HeadCertificate(residual, mu, safe / mu, value, largest)

    def _slope(self, system: AbstractSystem | None, point: HeadPoint) -> Tree:
        """d_theta g: where a Gram matrix is kept, and was found to be that of the rows, from it.

        Its rounding is that of sums over the rows, as that of the rows is.
        """
        parts, head = point.oracles.parts, point.head
        if system is not None and system.known is not None and parts is not None:
            columns = head if head.ndim == 3 else head.unsqueeze(2)

            def by_gram() -> Tensor:
                return linear_moments(point).slope(columns).reshape(head.shape)

            parts.of_rows("slope", point.rows, by_gram, head)
        return point.gradient()

    @staticmethod
    def _near(
        system: AbstractSystem | None, point: HeadPoint, size: Tensor
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        """Bounds near mu and L that need no eigenvalues, and the rounding of the slope.

        Where all of its `size` is rounding: eigenvalues of H would tell nothing that anybody asks.
        """
        found = None if system is None or system.known is None else system.known.near()
        if found is None:
            return None
        rounding = _rounding(point, found[1], system)
        return (*found, rounding) if bool((size <= rounding).all()) else None

    def _curvature(
        self, system: AbstractSystem | None, point: HeadPoint, like: Tensor
    ) -> tuple[Tensor, Tensor]:
        """mu and L; where the problem states no finite L, that of the Hessian at the heads."""
        if self.form != "stated":
            assert system is not None
            low, high = system.curvature()
            return _of_criterion(point, high) if self.form == "convex" else (low, high)
        bodies = (trees.take(point.body, i) for i in range(len(like)))
        stated = [point.problem.known_curvature(b) or (torch.nan, torch.nan) for b in bodies]
        mu, largest = like.new_tensor(stated).unbind(1)
        if system is None:
            return mu, largest
        return mu, torch.where(largest.isfinite(), largest, system.curvature()[1])


def _off(system: PrimalSystem, point: HeadPoint, end: HeadPoint | None) -> Tensor:
    """How far gradients are from those of one quadratic, (R,): NaN if by more than rounding.

    `end`: where a projected step leads to; None: there is no set of heads.
    """
    off = landing(point, system, system.solve()).off
    if end is None:
        return off
    apart, fine = deviation(point, end, system.hessian.squeeze(1))
    return off + apart.where(fine, torch.nan)


def _of_criterion(point: HeadPoint, high: Tensor) -> tuple[Tensor, Tensor]:
    """mu and L: H is diag(p) plus something between 0 and c times the Gram matrix.

    `high` bounds the largest eigenvalue of the Gram matrix plus diag(p). Where the criterion does
    not tell c, 1 takes its place: L then only measures rounding.
    """
    assert isinstance(point.problem, LinearHeadProblem)
    penalty = point.oracles.linear_penalty(point.body, point.head).flatten(1)
    least, most = penalty.amin(1), penalty.amax(1)
    curvature = point.problem.criterion.largest_curvature
    curvature = curvature if math.isfinite(curvature) else 1.0
    return least, curvature * (high - least) + most


def _rounding(point: HeadPoint, largest: Tensor, system: AbstractSystem | None) -> Tensor:
    """How much of the computed gradient may be rounding, (R,)."""
    oracles, body, rows = point.oracles, point.body, point.rows
    length = trees.norm(point.head)
    if not isinstance(point.problem, LinearHeadProblem):
        return EPS * (point.size + 10) * largest * (length + 1)
    weight: float | Tensor = 1.0
    if rows.chunks is not None:  # without weights; the system was made of the same sums
        made = row_sums(oracles, body, rows)
        sums, p, prior = made.sums, made.penalty, made.prior
        n, m, (design, targets) = sums.rows, sums.gram.shape[1], sums.norms()
    else:
        parts = oracles.linear_parts(body, rows)
        (n, m), p, prior = parts.design.shape[1:], parts.penalty, parts.prior
        weight = 1.0 if parts.weights is None else parts.weights.flatten(1).amax(1)
        if system is not None and system.known is not None:
            # products that were rounded before they were added up: twice as much
            design = (n * system.known.gram.trace).sqrt()
            weight = 2.0 * weight
        else:
            design = parts.design.flatten(1).norm(dim=1)
        if parts.targets.is_floating_point():
            targets = parts.targets.flatten(1).norm(dim=1)
        else:  # the slopes of class probabilities are at most sqrt(2)
            targets = torch.full_like(length, 2 * n).sqrt()
    weight = weight * point.problem.criterion.largest_weight
    terms: Tensor = weight * design * (design * length + targets) / n
    drawn = length if prior is None else length + trees.norm(prior)
    terms = terms + p.flatten(1).amax(1) * drawn
    return EPS * (n + m + 10) * terms
