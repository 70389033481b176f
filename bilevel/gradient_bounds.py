"""Error bounds of hypergradients: how far a computed gradient s is from grad Phi(w).

Let |theta - theta*| <= e. All constants must hold on the segment between the two, which lies in
the ball of radius e around theta: B >= |C| for C = d2_{w theta} g, and L_Fw, L_Ft, L_gwt, L_gtt,
Lipschitz constants of d_w F, d_theta F, C and H = d2_{theta theta} g >= mu I.

*Envelope.* s = d_w g(theta) and grad Phi = d_w g(theta*), so |s - grad Phi| <= B e.

*Implicit.* s = d_w F(theta) - C(theta) v with r = H(theta) v - d_theta F(theta), and
grad Phi = d_w F(theta*) - C(theta*) v* with H(theta*) v* = d_theta F(theta*). Then

    s - grad Phi = [d_w F(theta) - d_w F(theta*)] - [C(theta) - C(theta*)] v - C(theta*) (v - v*)
    H(theta*) (v - v*) = r + [d_theta F(theta) - d_theta F(theta*)] - [H(theta) - H(theta*)] v

    |s - grad Phi| <= (L_Fw + |v| L_gwt) e + B [(L_Ft + |v| L_gtt) e + |r|] / mu

B is needed at theta*, mu at theta*, v and r at theta. On a box v and v* vanish on the coordinates
that are held, and H is its block of free coordinates, whose eigenvalues are not below mu. The
bound is proven if theta and theta* hold the same coordinates.

*Implicit where F is g*, without a set of heads. The first order of e cancels: d_theta g(theta) =
H(theta) (theta - theta*) up to L_gtt e^2 / 2, so that v is close to theta - theta*, and
d_w g(theta*) = d_w g(theta) - C(theta) (theta - theta*) up to L_gwt e^2 / 2:

    |s - grad Phi| <= L_gwt e^2 / 2 + B (|r| + L_gtt e^2 / 2) / mu

*Any other gradient s*, such as one through steps or in float32: its distance from one of the above
at the same head, which is computed in float64, is added to the bound of that one.
"""

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor

from bilevel import trees
from bilevel.certificate import BoundKind, Certifier, HeadCertificate
from bilevel.hypergradients.condition import Condition
from bilevel.linear.system import EPS
from bilevel.lipschitz import (
    LARGEST_NORM,
    Constants,
    estimated_constants,
    quadratic_constants,
    stated_constants,
)
from bilevel.sampling import Rows
from bilevel.sets import Everywhere
from bilevel.trees import Tree


class GradientBound(NamedTuple):
    """A bound on the errors of R gradients.

    Attributes:
        bound: on |s - grad Phi|, (R,), float64; NaN if none is known.
        kind: "proven", "estimated" or "unknown".
        note: where the constants come from.
    """

    bound: Tensor
    kind: BoundKind
    note: str


@dataclasses.dataclass(frozen=True, eq=False)
class GradientCertifier:
    """Bounds for gradients at certified heads; everything in float64.

    Args:
        certifier: of the heads.
        body: leaves (R, ...).
        head: where the gradient was taken, leaves (R, ...).
        rows: on which g and F are meant.
        certificate: of these heads.
        stated: whether what the problem states of itself holds for these rows.
        computed: whether third derivatives may be computed.
        probes: products that an estimated norm of d2_{w theta} g may take.
    """

    certifier: Certifier
    body: Tree
    head: Tree
    rows: Rows
    certificate: HeadCertificate
    stated: bool = False
    computed: bool = True
    probes: int = LARGEST_NORM

    def envelope(self, slope: Tree) -> GradientBound:
        """The bound of gradients that are meant to be d_w g at the head."""
        if self.certifier.kind == "unknown":
            return self._unknown()
        oracles, at = self.certifier.oracles, (self.body, self.head)
        direct, along = oracles.joint_gradient(*at, self.rows)
        constants = self.constants(along)
        error = constants.cross_norm * self.certificate.bound
        size = trees.norm(direct) + constants.cross_norm * trees.norm(self.head)
        return self._made(error, size, slope, direct, constants)

    def implicit(self, slope: Tree, adjoint: Tree | None = None) -> GradientBound:
        """The bound of any gradients of Phi, by the implicit gradient at the head.

        Args:
            slope: the gradients, like the body.
            adjoint: v that they were made with; None: it is solved for.
        """
        if self.certifier.kind == "unknown":
            return self._unknown()
        oracles, distance = self.certifier.oracles, self.certificate.bound
        condition = Condition(oracles, self.body, self.head, self.rows)
        direct, right = oracles.body_gradients(self.body, self.head, self.rows)
        right = condition.restricted(right)
        v = condition.solve(right).value if adjoint is None else condition.restricted(adjoint)
        left = oracles.head_hvp(self.body, self.head, v, self.rows)
        off = trees.tree_map(torch.sub, condition.restricted(left), right)
        constants, length = self.constants(v), trees.norm(v)
        largest, mu = self.certificate.largest, self.certificate.mu
        residual = trees.norm(off) + self._eps() * (trees.norm(right) + largest * length)
        if oracles.is_stackelberg and isinstance(oracles.problem.head_set, Everywhere):
            half = distance.square() / 2
            error = constants.cross * half
            error = error + constants.cross_norm * (residual + constants.hessian * half) / mu
        else:
            moved = (constants.body_gradient + length * constants.cross) * distance
            bent = (constants.head_gradient + length * constants.hessian) * distance
            error = moved + constants.cross_norm * (bent + residual) / mu
        pulled = oracles.cross_vjp(self.body, self.head, v, self.rows)
        reference = trees.tree_map(torch.sub, direct, pulled)
        size = trees.norm(direct) + constants.cross_norm * (trees.norm(self.head) + length)
        found = self._made(error, size, slope, reference, constants)
        if found.kind == "proven" and not bool(self.settled(condition).all()):
            note = "A coordinate of the head may change between free and held within the bound."
            return found._replace(kind="estimated", note=note)
        return found

    def constants(self, along: Tree) -> Constants:
        """The best constants there are."""
        oracles, distance = self.certifier.oracles, self.certificate.bound
        found = None
        if self.stated:
            found = stated_constants(oracles, self.body, self.head, distance)
        if found is None and self.computed:
            found = quadratic_constants(
                self.certifier, self.body, self.head, self.rows, distance, self.certificate.largest
            )
        if found is not None:
            return found
        at = (self.body, self.head, self.rows, distance, along)
        return estimated_constants(oracles, *at, probes=self.probes)

    def settled(self, condition: Condition) -> Tensor:
        """Whether theta* holds the same coordinates of a box as theta does, (R,).

        A free coordinate must be further from its bounds than e; one that is held must be pushed
        by more than what its slope may change by, L e.
        """
        head_set, distance = self.certifier.oracles.problem.head_set, self.certificate.bound
        if isinstance(head_set, Everywhere):
            return torch.ones_like(distance, dtype=torch.bool)
        if head_set.bounds(self.head) is None:
            return torch.zeros_like(distance, dtype=torch.bool)
        reach = 1.001 * distance

        def stays(sign: float) -> Tensor:
            moved = trees.tree_map(lambda t: t + sign * trees.per_run(reach, t), self.head)
            landed = head_set.project(moved)
            return trees.flatten(trees.tree_map(torch.eq, moved, landed))

        inside = stays(1.0) & stays(-1.0)
        pushed = trees.flatten(condition.slope).abs() > (self.certificate.largest * reach)[:, None]
        return torch.where(trees.flatten(condition.free), inside, pushed).all(1)

    def _made(
        self, error: Tensor, size: Tensor, slope: Tree, reference: Tree, constants: Constants
    ) -> GradientBound:
        """With the distance to the gradient that the bound is about, and its rounding."""
        apart = trees.norm(trees.tree_map(torch.sub, slope, reference))
        bound = error + apart + self._eps() * size
        proven = self.certifier.kind == constants.kind == "proven"
        kind: BoundKind = "proven" if proven else "estimated"
        return GradientBound(bound, kind, f"{constants.note} {self.certifier.note}")

    def _eps(self) -> float:
        """The rounding of sums over the rows and over the numbers of the head."""
        sizes = [
            leaf.shape[0 if self.rows.axes[name] is None else 1]
            for name, group in self.rows.groups.items()
            for leaf in trees.leaves(group)
            if leaf.ndim > (0 if self.rows.axes[name] is None else 1)
        ]
        return EPS * (max(sizes, default=0) + trees.flatten(self.head).shape[1] + 10)

    def _unknown(self) -> GradientBound:
        nothing = torch.full_like(self.certificate.bound, torch.nan)
        return GradientBound(nothing, "unknown", self.certifier.note)
