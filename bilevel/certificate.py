"""Error bounds: how far a head is from the best response, and what that does to a hypergradient.

With mu the strong convexity of g in the head: |theta - theta*| <= |d_theta g| / mu and
g - g* <= |d_theta g|^2 / (2 mu). With a set of heads, the gradient mapping
G = L (theta - Proj(theta - d_theta g / L)) takes the gradient's place: a projected step of length
1/L contracts distances by 1 - mu/L, hence |theta - theta*| <= |G| / mu for every theta. The
value bound |G|^2 / (2 mu) holds at the projected point; theta adds its own distance in g to it.
"""

import dataclasses
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from bilevel import trees
from bilevel.heads.quadratic import (
    LARGEST_GENERAL_HEAD,
    all_penalised,
    is_quadratic,
    quadratic_system,
)
from bilevel.linear.system import EPS, AbstractSystem
from bilevel.oracles import Oracles
from bilevel.problem import LinearHeadProblem
from bilevel.sampling import Rows
from bilevel.sets import Everywhere
from bilevel.status import Status
from bilevel.trees import Tree

BoundKind = Literal["proven", "estimated", "unknown"]
PROBES = 512


class HeadCertificate(NamedTuple):
    """How good the heads of R runs are; everything in float64, shapes (R,).

    Attributes:
        residual: |d_theta g|, or |G| with a set of heads.
        mu: a lower bound on (an estimate of) the strong convexity of g in the head.
        bound: on |theta - theta*|.
        value_bound: on g(w, theta) - g(w, theta*).
    """

    residual: Tensor
    mu: Tensor
    bound: Tensor
    value_bound: Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Certifier:
    """Certifies heads of one problem.

    Args:
        oracles: of the problem.
        kind: "proven" for quadratic heads, "estimated" where only the local Hessian is known,
            "unknown" where the head is too large for a Hessian (no bound is given then).
        exact: whether theta* itself can be computed beside the bound.
        penalised: see `bilevel.heads.quadratic.all_penalised`.
        note: where mu comes from, in words.
    """

    oracles: Oracles
    kind: BoundKind
    exact: bool
    penalised: bool
    note: str

    @classmethod
    def for_problem(cls, oracles: Oracles, body: Tree, head: Tree, rows: Rows) -> "Certifier":
        """Find out once, at initial points, what can be certified."""
        problem = oracles.problem
        everywhere = isinstance(problem.head_set, Everywhere)
        if isinstance(problem, LinearHeadProblem) and problem.criterion.quadratic:
            penalised = all_penalised(oracles, body, head)
            note = "mu is the smallest eigenvalue of the Gram matrix plus the penalty"
            if not problem.penalises_all:
                note += "; the bias is not penalised, so mu depends on the data"
            return cls(oracles, "proven", everywhere, penalised, note + ".")
        if trees.flatten(head).shape[1] > LARGEST_GENERAL_HEAD:
            return cls(oracles, "unknown", False, False, "The head is too large for its Hessian.")
        if is_quadratic(oracles, body, head, rows):
            one = trees.flatten(head).shape[1] == 1
            note = "mu is the smallest eigenvalue of the head's Hessian, constant in the head."
            return cls(oracles, "proven", everywhere or one, False, note)
        note = "mu is the smallest eigenvalue of the Hessian at this head: a local estimate."
        return cls(oracles, "estimated", False, False, note)

    def system(self, body: Tree, head: Tree, rows: Rows) -> AbstractSystem:
        """The head's linear system; its solution is theta*, or theta* - head (general heads)."""
        return quadratic_system(self.oracles, body, head, rows, self.penalised)

    def best_response(self, system: AbstractSystem, head: Tree) -> Tree:
        """theta*, where `exact`; NaN in runs whose Hessian is numerically singular."""
        numbers, status = system.solve()
        unsolved = (status != int(Status.CONVERGED)).reshape(-1, 1, 1)
        numbers = numbers.masked_fill(unsolved, torch.nan)
        if isinstance(self.oracles.problem, LinearHeadProblem):
            return numbers if head.ndim == 3 else numbers.squeeze(2)
        solved = trees.tree_map(torch.add, head, trees.unflatten(numbers.squeeze(2), head))
        return self.oracles.problem.head_set.project(solved)

    def certify(
        self, system: AbstractSystem | None, body: Tree, head: Tree, rows: Rows
    ) -> HeadCertificate:
        """Bounds for a head.

        Args:
            system: of `self.system` at the same point; None where the kind is "unknown".
            body: leaves (R, ...), float64, as everything here.
            head: leaves (R, ...).
            rows: on which g is meant.
        """
        oracles, head_set = self.oracles, self.oracles.problem.head_set
        slope = oracles.head_gradient(body, head, rows)
        size = trees.norm(slope)
        if system is None:
            nothing = torch.full_like(size, torch.nan)
            return HeadCertificate(size, nothing, nothing, nothing)
        mu, largest = system.curvature()
        mu = torch.where(mu > 0, mu, torch.nan)
        residual, descent = size, torch.zeros_like(size)
        if not isinstance(head_set, Everywhere):
            step = trees.tree_map(lambda t, d: t - d / trees.per_run(largest, d), head, slope)
            at = head_set.project(step)
            residual = largest * trees.norm(trees.tree_map(torch.sub, head, at))
            here, there = (oracles.head_value(body, x, rows) for x in (head, at))
            descent = here - there + 10 * EPS * (here.abs() + there.abs())
        safe = residual + self._rounding(body, head, rows, largest)
        return HeadCertificate(residual, mu, safe / mu, descent + safe.square() / (2 * mu))

    def _rounding(self, body: Tree, head: Tree, rows: Rows, largest: Tensor) -> Tensor:
        """How much of the computed gradient may be rounding, (R,)."""
        length = trees.norm(head)
        problem = self.oracles.problem
        if isinstance(problem, LinearHeadProblem):
            parts = self.oracles.linear_parts(body, rows)
            n, m = parts.design.shape[1:]
            weight = 1.0 if parts.weights is None else parts.weights.amax(1)
            design = parts.design.flatten(1).norm(dim=1)
            fit = design * length + parts.targets.flatten(1).norm(dim=1)
            penalty = parts.penalty.flatten(1).amax(1) * length
            terms: Tensor = weight * design * fit / n + penalty
            return EPS * (n + m + 10) * terms
        return EPS * (trees.flatten(head).shape[1] + 10) * largest * (length + 1)


def envelope_bound(
    oracles: Oracles, body: Tree, head: Tree, rows: Rows, distance: Tensor
) -> Tensor:
    """An estimate of the envelope gradient's error, (R,), at heads that are off by `distance` (R,).

    |g_{w theta}(w, theta)|_F times the distance: the first order of the sup over the ball, with the
    norm bounded by its Frobenius norm. That norm is exact for heads of up to 512 numbers and
    estimated from as many random probes for larger ones.
    """
    flat = trees.flatten(head)
    runs, size = flat.shape
    if size <= PROBES:
        probes = torch.eye(size, dtype=flat.dtype, device=flat.device)
    else:
        source = torch.Generator().manual_seed(0)
        signs = torch.randint(0, 2, (PROBES, size), generator=source).to(flat) * 2 - 1
        probes = signs / PROBES**0.5
    squares = torch.zeros(runs, dtype=flat.dtype, device=flat.device)
    for probe in probes:
        vector = trees.unflatten(probe.expand(runs, size), head)
        squares += trees.norm(oracles.cross_vjp(body, head, vector, rows)).square()
    return squares.sqrt() * distance
