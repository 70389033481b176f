"""Lipschitz constants in the head, for bounds on hypergradients.

Three sources, in this order. A problem may state them (`known_lipschitz`). Where F is g and g is
quadratic in the head, d2_{w theta} g is affine in it, so that one difference quotient of it,
over any distance, is its derivative everywhere. Elsewhere they are estimated from differences
around the head.
"""

import functools
import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from bilevel import trees
from bilevel.bounds.bending import bending
from bilevel.bounds.cross_derivative import CrossDerivative, root, spectral
from bilevel.bounds.heads import BoundKind
from bilevel.core.generators import generator, normal
from bilevel.derivatives.head_point import HeadPoint
from bilevel.linear.cholesky import EPS
from bilevel.problem.linear_head import LinearHeadProblem
from bilevel.problem.sets import Everywhere
from bilevel.trees import Tree

THIRD_BYTES = 2**29
"""Memory that all third derivatives together may pass through: about a second."""
DIRECTIONS = 4
UNSEEN = 1e-7
DIGITS = 20
"""Binary ones of an estimate."""
SMALL = 1e-100
SMALLEST = torch.finfo(torch.float64).tiny


class Constants(NamedTuple):
    """The constants of `bilevel.Lipschitz`, (R,) each, between theta and theta*.

    Attributes:
        kind: "proven" or "estimated".
        note: where they come from.
    """

    body_gradient: Tensor
    head_gradient: Tensor
    cross: Tensor
    hessian: Tensor
    cross_norm: Tensor
    kind: BoundKind
    note: str


def stated_constants(point: HeadPoint, distance: Tensor) -> Constants | None:
    """What the problem states, run by run; None if it states nothing."""
    found = []
    for i, radius in enumerate(distance.tolist()):
        body, head = (trees.take(level, i) for level in (point.body, point.head))
        one = point.problem.known_lipschitz(body, head, radius)
        if one is None:
            return None
        found.append(distance.new_tensor(one))
    first, second, third, fourth, fifth = torch.stack(found, 1)
    note = "The constants are what the problem states."
    return Constants(first, second, third, fourth, fifth, "proven", note)


def quadratic_constants(point: HeadPoint, distance: Tensor, largest: Tensor) -> Constants | None:
    """Computed where F is g and g is quadratic; None if it is not, or the head too large.

    L_gwt is the norm of T = d3_{w theta theta} g, (u, v) to T(u, v): the spectral norm of T as a
    matrix from u to pairs (v, w). The outputs of a linear head do not interact, and T is the same
    for all of them unless their penalties or weights differ: the first one is looked at, or all.

    Args:
        point: of a certified head whose g is quadratic.
        distance: a bound on |theta - theta*|, (R,).
        largest: the curvature of g in the head, (R,).
    """
    if not point.oracles.is_stackelberg:
        return None
    cross = CrossDerivative(point)
    blocks = _blocks(point)
    # each product holds its graph, and a result as long as the body
    work = len(blocks) * len(blocks[0]) ** 2 * cross.product_bytes * point.rows.parts
    if work > THIRD_BYTES:
        return None
    linear = isinstance(point.problem, LinearHeadProblem)
    if not (linear or _affine(point)):
        return None
    identity = torch.eye(point.size, dtype=distance.dtype, device=distance.device)
    steepest = torch.stack([_third(cross, identity[block]) for block in blocks]).amax(0)
    norm = spectral(cross.columns()) + steepest * distance
    if not linear:  # what samples do not show: they agree to 1e-8
        steepest, norm = (1 + UNSEEN) * steepest, (1 + UNSEEN) * norm
    note = "g is quadratic in the head and F is g: the constants are computed."
    return Constants(norm, largest, steepest, torch.zeros_like(norm), norm, "proven", note)


def estimated_constants(
    point: HeadPoint, distance: Tensor, along: Tree, *, quadratic: bool = False
) -> Constants:
    """Difference quotients between the head and points around it.

    In up to 4 orthogonal directions, at the distance of theta* or 1e-4 (1 + |theta|), whichever is
    more; their mean square times the number of directions that there are estimates a squared
    Frobenius norm, which bounds the spectral one. A quotient against the gradient, where theta* is
    looked for, counts if it is larger. Second derivatives are looked at in their product with one
    vector only, the one that they meet in the bound.

    Args:
        point: float64.
        distance: a bound on |theta - theta*|, (R,).
        along: the vector, like the head.
        quadratic: whether g is known to be quadratic in the head, so that its Hessian is constant.
    """
    head = point.head
    length = trees.norm(along)
    length = torch.where(length > 0, length, torch.ones_like(length))
    unit = trees.tree_map(lambda leaf: leaf / trees.per_run(length, leaf), along)
    cross, flat = CrossDerivative(point), trees.flatten(head)
    others = _around(point, distance)
    turned = cross.turned(others - flat, unit)

    def at(there: HeadPoint, unit: Tree) -> tuple[Tree, ...]:
        found: tuple[Tree, ...] = there.body_gradients()
        found = found if turned is not None else (*found, there.cross_vjp(unit))
        return found if quadratic else (*found, there.hvp(unit))

    if turned is not None and quadratic:
        apart = bending(cross, others)
    else:
        found = cross.at_heads(at, torch.cat([flat.unsqueeze(0), others]), unit)
        first, changes = next(found), []
        here = [some[0] for some in first]
        beside = [some[1:] for some in first]
        for there in itertools.chain([beside] if len(beside[0]) else [], found):
            changes.append(torch.stack([_apart(a, b) for a, b in zip(there, here, strict=True)]))
        apart = torch.cat(changes, 1)
    if turned is not None:
        apart = torch.cat([apart[:2], turned.unsqueeze(0), apart[2:]])
    squares = (apart / _apart(others, flat)).square().nan_to_num(0.0)
    mean = squares[:, :-1].sum(1) * (point.size / (len(others) - 1))
    largest = _rounded_up(torch.maximum(mean, squares[:, -1]).sqrt())
    body_gradient, head_gradient, bent, *rest = largest
    hessian = rest[0] if rest else torch.zeros_like(bent)
    norm = cross.norm() + bent * distance
    note = "The Lipschitz constants are estimated from differences around the head."
    return Constants(body_gradient, head_gradient, bent, hessian, norm, "estimated", note)


def _rounded_up(numbers: Tensor) -> Tensor:
    """To a few digits, so that they do not tell in which order sums were made."""
    mantissa, exponent = torch.frexp(numbers)
    return torch.ldexp((mantissa * 2**DIGITS).ceil() / 2**DIGITS, exponent)


def _around(point: HeadPoint, distance: Tensor) -> Tensor:
    """Heads around that of the point, the last one against the gradient, (N, R, P)."""
    head, flat, head_set = point.head, trees.flatten(point.head), point.problem.head_set
    count = min(flat.shape[1], DIRECTIONS)
    step = torch.maximum(distance, 1e-4 * (1 + trees.norm(head))).unsqueeze(1)
    drawn = _directions(flat.shape[1], count).to(flat)
    slope = trees.flatten(point.gradient())
    against = -slope / slope.norm(dim=1, keepdim=True).clamp(min=SMALLEST)
    directions = drawn.unsqueeze(1).expand(count, *flat.shape)
    heads = flat + step * torch.cat([directions, against.unsqueeze(0)])
    if isinstance(head_set, Everywhere):
        return heads
    projected = (head_set.project(trees.unflatten(one, head)) for one in heads)
    return torch.stack([trees.flatten(one) for one in projected])


@functools.lru_cache(maxsize=8)
def _directions(size: int, count: int) -> Tensor:
    """Orthogonal directions, (count, size), the same in every call; not to be written into."""
    found: Tensor = torch.linalg.qr(normal("directions", size, count)).Q.T
    return found


def _apart(some: Tensor, other: Tensor) -> Tensor:
    """|a - b| of (N, R, P) and (R, P): as `trees.norm`, but for passes for extreme numbers."""
    off = some - other
    found: Tensor = torch.linalg.vector_norm(off, dim=2)
    least, most = found.aminmax()
    if SMALL < float(least) <= float(most) < 1 / SMALL or not bool(off.any()):
        return found
    return trees.norm(off.flatten(0, 1)).reshape(found.shape)


def _third(cross: CrossDerivative, units: Tensor) -> Tensor:
    """|T| on the span of `units` (N, P), rounded up, (R,).

    T(u, v) = C(u) v - C(0) v, symmetric in u and v: near zero nothing large cancels. Where T is too
    large to be kept, the Gram matrix of T(., v) is summed up over the units v.
    """
    zero, count = torch.zeros_like(units), len(units)
    growth = EPS * (100 + count) * count**0.5
    if cross.fits(count**2):
        first = cross.products(units, zero)
        i, j = torch.triu_indices(count, count)
        half = cross.products(units[j], units[i]) - first[:, j]
        third = half.new_empty(len(half), count, count, half.shape[2])
        third[:, i, j] = third[:, j, i] = half
        norm: Tensor = spectral(third.flatten(2)) + growth * first.flatten(1).norm(dim=1)
        return norm
    gram, squares = units.new_zeros(1, count, count), units.new_zeros(1)
    for unit in units:
        first = cross.products(unit.unsqueeze(0), zero[:1])
        part = cross.products(unit.expand_as(units), units) - first
        gram, squares = gram + part @ part.mT, squares + first.square().sum((1, 2))
    found: Tensor = root(gram, count + count * part.shape[2]) + growth * squares.sqrt()
    return found


def _blocks(point: HeadPoint) -> list[range]:
    """The numbers of the head that belong to one output each, or all of them."""
    if not isinstance(point.problem, LinearHeadProblem) or point.head.ndim == 2:
        return [range(point.size)]
    outputs = point.head.shape[2]
    differ = point.oracles.linear_penalty(point.body, point.head).ndim == 3
    if "row_weights" in point.oracles.overridden:  # which chunks do not have
        differ = differ or point.oracles.linear_parts(point.body, point.rows).by_output
    return [range(k, point.size, outputs) for k in range(outputs if differ else 1)]


def _affine(point: HeadPoint) -> bool:
    """Whether d2_{w theta} g is affine in the head, as far as random directions can tell.

    One goes through the head itself. A g that is quadratic in the head at this body need not be so
    at those beside it.
    """
    flat = trees.flatten(point.head)
    source = generator(0, "affine")

    def crossed(numbers: Tensor, vector: Tensor) -> Tensor:
        at, along = (
            trees.unflatten(x.to(flat).expand(flat.shape), point.head) for x in (numbers, vector)
        )
        return trees.flatten(point.at(at).cross_vjp(along))

    for length, through in ((1.0, False), (10.0, False), (1.0, True)):
        drawn = torch.randn(3, flat.shape[1], generator=source, dtype=torch.float64)
        centre, u, v = drawn.to(flat)
        if through:
            centre = (flat + centre) / 2
            u = flat - centre
        ahead, here, behind = (crossed(centre + s * u, v) for s in (length, 0.0, -length))
        scale = torch.stack([ahead, here, behind]).abs().amax()
        if not bool((ahead + behind - 2 * here).abs().amax() <= 1e-9 * scale):
            return False
    return True
