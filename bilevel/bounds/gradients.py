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
that are held, and H is its block of free coordinates, whose eigenvalues are not below mu. This
holds if theta and theta* hold the same coordinates. Where e does not settle that, Phi may have a
kink: the most that its one-sided derivatives can differ by is added (see
`bilevel.hypergradients.kinks`), and the bound is an estimate. Where that is more than all the rest,
there is no bound: the kind is "unknown", and the note names the coordinates.

*Implicit where F is g*, without a set of heads. The first order of e cancels: d_theta g(theta) =
H(theta) (theta - theta*) up to L_gtt e^2 / 2, so that v is close to theta - theta*, and
d_w g(theta*) = d_w g(theta) - C(theta) (theta - theta*) up to L_gwt e^2 / 2:

    |s - grad Phi| <= L_gwt e^2 / 2 + B (|r| + L_gtt e^2 / 2) / mu

With a set of heads Phi has no kinks there, and d_w g at the head is compared with (see below) where
theta and theta* may hold different coordinates, or where the set has no coordinates to hold.

*Any other gradient s*, such as one through steps or in float32: its distance from one of the above
at the same head, which is computed in float64, is added to the bound of that one.
"""

import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bilevel import trees
from bilevel.bounds.heads import BoundKind, Certifier, HeadCertificate
from bilevel.bounds.lipschitz import (
    Constants,
    estimated_constants,
    quadratic_constants,
    stated_constants,
)
from bilevel.derivatives.head_point import HeadPoint
from bilevel.hypergradients.condition import Condition
from bilevel.hypergradients.dependence import overlooked
from bilevel.hypergradients.kinks import in_doubt, jump, sentence
from bilevel.linear.cholesky import EPS
from bilevel.linear.systems import AbstractSystem
from bilevel.problem.sets import Everywhere
from bilevel.trees import Tree

CUT = (
    "The objectives change with the body otherwise than autograd says: something cuts the body "
    "off, such as `.detach()`, `torch.no_grad()` or rounding, so that this need not be grad Phi."
)


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
        point: where the gradient was taken, on the rows that g and F are meant on.
        certificate: of these heads.
        stated: whether what the problem states of itself holds for these rows.
        thorough: whether third derivatives and jumps may be computed, and whether derivatives in
            the body are compared with differences, since autograd may not see all of them:
            where they disagree, no bound is given. Records are too many for that.
        factor: of H on these rows, for an adjoint that is solved for here; None if there is none.
        system: of the certificate, whose matrix is H; None: it is not at hand.
    """

    certifier: Certifier
    point: HeadPoint
    certificate: HeadCertificate
    stated: bool
    thorough: bool = True
    factor: Any = None
    system: AbstractSystem | None = None

    def envelope(self, slope: Tree) -> GradientBound:
        """The bound of gradients that are meant to be d_w g at the head."""
        if self.certifier.kind == "unknown":
            return self._unknown()
        point = self.point
        direct, along = point.oracles.joint_gradient(point.body, point.head, point.rows)
        constants = self.constants(along)
        size = trees.norm(direct) + constants.cross_norm * trees.norm(point.head)
        within = constants.cross_norm * self.certificate.bound + self._eps() * size
        return self._made(within, slope, direct, constants, None)

    def implicit(self, slope: Tree, adjoint: Tree | None = None) -> GradientBound:
        """The bound of any gradients of Phi, by the implicit gradient at the head.

        Args:
            slope: the gradients, like the body.
            adjoint: v that they were made with; None: it is solved for.
        """
        if self.certifier.kind == "unknown":
            return self._unknown()
        point, distance = self.point, self.certificate.bound
        stackelberg, head_set = point.oracles.is_stackelberg, point.problem.head_set
        condition = Condition(point)
        if not condition.available:
            name = type(head_set).__name__
            why = f"No bound is known for implicit derivatives of a head on {name}."
            return self.envelope(slope) if stackelberg else self._unknown(why)
        direct, whole = point.body_gradients()
        right = condition.restricted(whole)
        if adjoint is None:
            adjoint = condition.solve(right, factor=self.factor).value
        v = condition.restricted(adjoint)
        constants, length = self.constants(v), trees.norm(v)
        largest, mu = self.certificate.largest, self.certificate.mu
        residual = self._residual(condition, v, right, length)
        if stackelberg and isinstance(head_set, Everywhere):  # v makes up for theta - theta*
            half = distance.square() / 2
            error = constants.cross * half
            error = error + constants.cross_norm * (residual + constants.hessian * half) / mu
        else:
            moved = (constants.body_gradient + length * constants.cross) * distance
            bent = (constants.head_gradient + length * constants.hessian) * distance
            error = moved + constants.cross_norm * (bent + residual) / mu
        reference = trees.tree_map(torch.sub, direct, point.cross_vjp(v))
        size = trees.norm(direct) + constants.cross_norm * (trees.norm(point.head) + length)
        found = self._made(error + self._eps() * size, slope, reference, constants, v)
        if condition.free is None or found.kind == "unknown":
            return found
        if head_set.bounds(point.head) is None:  # how far the free ones are from it, nobody knows
            found = found._replace(kind="estimated")
        doubtful = in_doubt(condition, distance, largest)
        if not bool(doubtful.any()):
            return found
        if stackelberg:  # d_w g has no kink where the coordinates that are held change
            return self._weaker(found, self.envelope(slope), doubtful.any(1))
        return self._kinked(found, condition, doubtful, whole)

    def _residual(self, condition: Condition, vector: Tree, right: Tree, length: Tensor) -> Tensor:
        """|r| as computed, and what rounding of H v and d_theta F may hide of it, (R,)."""
        product, blurred = self._product(vector)
        off = trees.norm(trees.tree_map(torch.sub, condition.restricted(product), right))
        hidden = self._eps() * (trees.norm(right) + self.certificate.largest * length)
        return off + hidden + blurred * length

    def _product(self, vector: Tree) -> tuple[Tree, float | Tensor]:
        """H v, and what rounding of H itself may hide of it for each unit of |v|.

        By the matrix of a linear head where the certificate has it: two passes over the rows less.
        """
        if self.system is None or self.certifier.form != "features":
            return self.point.hvp(vector), 0.0
        found = self.system.product(vector if vector.ndim == 3 else vector.unsqueeze(2))
        if found is None:
            return self.point.hvp(vector), 0.0
        return found[0].reshape(vector.shape), found[1]

    @staticmethod
    def _weaker(found: GradientBound, other: GradientBound, where: Tensor) -> GradientBound:
        """The other bound in some runs."""
        kind: BoundKind = "proven" if found.kind == other.kind == "proven" else "estimated"
        return GradientBound(torch.where(where, other.bound, found.bound), kind, other.note)

    def _kinked(
        self, found: GradientBound, condition: Condition, doubtful: Tensor, right: Tree
    ) -> GradientBound:
        """With the jump between one-sided derivatives; NaN where it is all that there is."""
        apart = torch.where(doubtful.any(1), torch.inf, 0.0)
        if self.thorough:
            apart = jump(condition, doubtful, right, self.certificate.mu)
        lost = ~(apart <= found.bound)
        bound = (found.bound + apart).masked_fill(lost, torch.nan)
        note = sentence(condition, doubtful, self.certificate.bound)
        if not bool(lost.all()):
            note += " The most that this may change the gradient by is in the bound."
            return GradientBound(bound, "estimated", f"{note} {found.note}")
        note += (
            " Phi has a kink where it changes from one to the other, and this may be either of its "
            "one-sided derivatives there. Move the body, or solve the head more accurately."
        )
        return GradientBound(bound, "unknown", note)

    def constants(self, along: Tree) -> Constants:
        """The best constants there are."""
        distance, found = self.certificate.bound, None
        if self.stated:
            found = stated_constants(self.point, distance)
        if found is None and self.thorough and self.certifier.quadratic:
            found = quadratic_constants(self.point, distance, self.certificate.largest)
        if found is not None:
            return found
        # what differences say of other heads they say of some; a linear head's form, of all
        by_form = self.certifier.form == "features"
        return estimated_constants(self.point, distance, along, quadratic=by_form)

    def _made(
        self, within: Tensor, slope: Tree, reference: Tree, constants: Constants, adjoint: Tree
    ) -> GradientBound:
        """With the distance to the gradient that is off by at most `within`."""
        bound = within + trees.norm(trees.tree_map(torch.sub, slope, reference))
        proven = self.certifier.kind == constants.kind == "proven"
        kind: BoundKind = "proven" if proven else "estimated"
        found = GradientBound(bound, kind, f"{constants.note} {self.certifier.note}")
        if not self.thorough:
            return found
        lost = overlooked(self.point, reference, adjoint, self.certificate.largest, within)
        if not bool(lost.any()):
            return found
        kind = "unknown" if bool(lost.all()) else kind
        return GradientBound(bound.masked_fill(lost, torch.nan), kind, CUT)

    def _eps(self) -> float:
        """The rounding of sums over the rows and over the numbers of the head."""
        rows = self.point.rows
        sizes = [
            leaf.shape[0 if rows.axes[name] is None else 1]
            for name, group in rows.groups.items()
            for leaf in trees.leaves(group)
            if leaf.ndim > (0 if rows.axes[name] is None else 1)
        ]
        return EPS * (max(sizes, default=0) + self.point.size + 10)

    def _unknown(self, note: str = "") -> GradientBound:
        nothing = torch.full_like(self.certificate.bound, torch.nan)
        return GradientBound(nothing, "unknown", note or self.certifier.note)
