"""Lipschitz constants in the head, for bounds on hypergradients.

Three sources, in this order. A problem may state them (`known_lipschitz`). Where F is g and g is
quadratic in the head, d2_{w theta} g is affine in it, so that one difference quotient of it,
over any distance, is its derivative everywhere. Elsewhere they are estimated from differences
around the head.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from bilevel import trees
from bilevel.certificate import BoundKind, Certifier
from bilevel.linear.system import EPS
from bilevel.oracles import Oracles
from bilevel.problem import LinearHeadProblem
from bilevel.sampling import Rows, generator
from bilevel.trees import Tree

THIRD_BYTES = 2**29
"""Memory that all third derivatives together may pass through: about a second."""
LARGEST_NORM = 512
"""Numbers of a head up to which the norm of d2_{w theta} g is computed."""
DIRECTIONS = 4
UNSEEN = 1e-7
SMALLEST = torch.finfo(torch.float64).tiny
CHUNK_BYTES = 2**26


class Constants(NamedTuple):
    """The constants of `bilevel.Lipschitz`, (R,) each, between theta and theta*.

    Attributes:
        body_gradient: L_Fw.
        head_gradient: L_Ft.
        cross: L_gwt.
        hessian: L_gtt.
        cross_norm: B.
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


def stated_constants(
    oracles: Oracles, body: Tree, head: Tree, distance: Tensor
) -> Constants | None:
    """What the problem states, run by run; None if it states nothing."""
    found = []
    for i, radius in enumerate(distance.tolist()):
        one = oracles.problem.known_lipschitz(trees.take(body, i), trees.take(head, i), radius)
        if one is None:
            return None
        found.append(distance.new_tensor(one))
    first, second, third, fourth, fifth = torch.stack(found, 1)
    note = "The constants are what the problem states."
    return Constants(first, second, third, fourth, fifth, "proven", note)


def quadratic_constants(
    certifier: Certifier, body: Tree, head: Tree, rows: Rows, distance: Tensor, largest: Tensor
) -> Constants | None:
    """Computed where F is g and g is quadratic; None if it is not, or the head too large.

    L_gwt is the norm of T = d3_{w theta theta} g, (u, v) to T(u, v): the spectral norm of T as a
    matrix from u to pairs (v, w). The outputs of a linear head do not interact, and T is the same
    for all of them unless their penalties differ: the first one is looked at, or all.
    """
    oracles = certifier.oracles
    if not (certifier.quadratic and oracles.is_stackelberg):
        return None
    blocks = list(_blocks(oracles, body, head))
    size = oracles.graph_bytes(body, head, rows) * rows.parts
    work = len(blocks) * len(blocks[0]) ** 2 * size
    if work > THIRD_BYTES:
        return None
    linear = isinstance(oracles.problem, LinearHeadProblem)
    if not (linear or _affine(oracles, body, head, rows)):
        return None
    cross = torch.stack([_third(oracles, body, head, rows, units) for units in blocks]).amax(0)
    norm = cross_norm(oracles, body, head, rows) + cross * distance
    if not linear:  # what samples do not show: they agree to 1e-8
        cross, norm = (1 + UNSEEN) * cross, (1 + UNSEEN) * norm
    note = "g is quadratic in the head and F is g: the constants are computed."
    return Constants(norm, largest, cross, torch.zeros_like(norm), norm, "proven", note)


def estimated_constants(
    oracles: Oracles,
    body: Tree,
    head: Tree,
    rows: Rows,
    distance: Tensor,
    along: Tree,
    *,
    probes: int = LARGEST_NORM,
) -> Constants:
    """Difference quotients between the head and points around it.

    In up to 4 orthogonal directions, at the distance of theta* or 1e-4 (1 + |theta|), whichever is
    more; their mean square times the number of directions that there are estimates a squared
    Frobenius norm, which bounds the spectral one. A quotient against the gradient, where theta* is
    looked for, counts if it is larger. Second derivatives are looked at in their product with one
    vector only, the one that they meet in the bound.

    Args:
        oracles: of the problem.
        body: leaves (R, ...), float64.
        head: likewise.
        rows: on which g and F are meant.
        distance: a bound on |theta - theta*|, (R,).
        along: the vector, like the head.
        probes: of the norm of d2_{w theta} g.
    """
    flat = trees.flatten(head)
    size = flat.shape[1]
    step = torch.maximum(distance, 1e-4 * (1 + trees.norm(head)))
    length = trees.norm(along)
    length = torch.where(length > 0, length, torch.ones_like(length))
    unit = trees.tree_map(lambda leaf: leaf / trees.per_run(length, leaf), along)

    def at(point: Tree) -> tuple[Tree, ...]:
        crossed = oracles.cross_vjp(body, point, unit, rows)
        curved = oracles.head_hvp(body, point, unit, rows)
        return (*oracles.body_gradients(body, point, rows), crossed, curved)

    here, count = at(head), min(size, DIRECTIONS)
    directions = [d.expand_as(flat) for d in _directions(size, count).to(flat)]
    slope = trees.flatten(oracles.head_gradient(body, head, rows))
    directions.append(-slope / slope.norm(dim=1, keepdim=True).clamp(min=SMALLEST))
    squares = []
    for direction in directions:
        shift = trees.unflatten(step.unsqueeze(1) * direction, head)
        there = oracles.problem.head_set.project(trees.tree_map(torch.add, head, shift))
        moved = trees.norm(trees.tree_map(torch.sub, there, head))
        changes = [
            trees.norm(trees.tree_map(torch.sub, a, b))
            for a, b in zip(at(there), here, strict=True)
        ]
        squares.append((torch.stack(changes) / moved).square().nan_to_num(0.0))
    mean = torch.stack(squares[:-1]).sum(0) * size / count
    body_gradient, head_gradient, cross, hessian = torch.maximum(mean, squares[-1]).sqrt()
    norm = cross_norm(oracles, body, head, rows, probes) + cross * distance
    note = "The Lipschitz constants are estimated from differences around the head."
    return Constants(body_gradient, head_gradient, cross, hessian, norm, "estimated", note)


def cross_norm(
    oracles: Oracles, body: Tree, head: Tree, rows: Rows, probes: int = LARGEST_NORM
) -> Tensor:
    """|d2_{w theta} g|, (R,): spectral for heads of up to `probes` numbers.

    For larger heads the Frobenius norm, estimated from as many random signs.
    """
    flat = trees.flatten(head)
    runs, size = flat.shape
    if size <= probes:
        vectors = torch.eye(size, dtype=flat.dtype, device=flat.device)
    else:
        signs = torch.randint(0, 2, (probes, size), generator=generator(0, "signs"))
        vectors = (signs * 2 - 1).to(flat)
    if runs == 1:
        columns = _pulled(oracles, body, head, rows, flat.expand(len(vectors), -1), vectors)
    else:
        along = [trees.unflatten(vector.expand(runs, -1), head) for vector in vectors]
        pulled = [trees.flatten(oracles.cross_vjp(body, head, v, rows)) for v in along]
        columns = torch.stack(pulled, 1)
    if size <= probes:
        return _spectral(columns)
    norm: Tensor = (columns.square().sum((1, 2)) / probes).sqrt()
    return norm


def _third(oracles: Oracles, body: Tree, head: Tree, rows: Rows, units: Tensor) -> Tensor:
    """|T| on the span of `units` (N, P), rounded up, (R,).

    T(u, v) = C(u) v - C(0) v, symmetric in u and v: near zero nothing large cancels.
    """
    count = len(units)
    zero = torch.zeros_like(units)
    first = _pulled(oracles, body, head, rows, zero, units)
    i, j = torch.triu_indices(count, count)
    half = _pulled(oracles, body, head, rows, units[i], units[j]) - first[:, j]
    third = half.new_empty(len(half), count, count, half.shape[2])
    third[:, i, j] = third[:, j, i] = half
    rounding = EPS * (100 + count) * count**0.5 * first.flatten(1).norm(dim=1)
    norm: Tensor = _spectral(third.flatten(2)) + rounding
    return norm


def _blocks(oracles: Oracles, body: Tree, head: Tree) -> Iterator[Tensor]:
    """Unit heads (N, P) that span one output each, or the whole head."""
    flat = trees.flatten(head)
    identity = torch.eye(flat.shape[1], dtype=flat.dtype, device=flat.device)
    if not isinstance(oracles.problem, LinearHeadProblem) or head.ndim == 2:
        yield identity
        return
    outputs = head.shape[2]
    differ = oracles.linear_penalty(body, head).ndim == 3
    for k in range(outputs if differ else 1):
        yield identity[k::outputs]


def _pulled(
    oracles: Oracles, body: Tree, head: Tree, rows: Rows, heads: Tensor, vectors: Tensor
) -> Tensor:
    """(d2_{w theta} g) v for pairs of heads and vectors (N, P): (R, N, numbers of the body).

    The pairs of a single run are computed side by side, as if they were runs.

    Args:
        oracles: of the problem.
        body: leaves (R, ...).
        head: for the shapes, and the memory that a pair takes.
        rows: on which g is meant.
        heads: (N, P).
        vectors: (N, P).
    """
    runs = len(trees.flatten(head))
    if runs > 1:
        found = []
        for pair in zip(heads, vectors, strict=True):
            at, along = (trees.unflatten(x.expand(runs, -1), head) for x in pair)
            found.append(trees.flatten(oracles.cross_vjp(body, at, along, rows)))
        return torch.stack(found, 1)
    size = max(1, CHUNK_BYTES // max(1, 4 * oracles.graph_bytes(body, head, rows)))
    found = []
    for some in torch.split(torch.arange(len(heads), device=heads.device), size):
        at, along = (trees.unflatten(x[some], head) for x in (heads, vectors))
        same = torch.zeros_like(some)
        pulled = oracles.cross_vjp(trees.take(body, same), at, along, rows.take(same))
        found.append(trees.flatten(pulled))
    return torch.cat(found).unsqueeze(0)


def _spectral(columns: Tensor) -> Tensor:
    """The largest singular values of (R, n, d), rounded up, (R,)."""
    n, d = columns.shape[1:]
    gram = columns @ columns.mT if n <= d else columns.mT @ columns
    bad = ~gram.flatten(1).isfinite().all(1)
    values = torch.linalg.eigvalsh(gram.masked_fill(bad.reshape(-1, 1, 1), 0.0))[:, -1]
    found = (values.clamp(min=0) * (1 + EPS * (4 * n + 4 * d + 40))).sqrt()
    norm: Tensor = found.masked_fill(bad, math.nan)
    return norm


def _affine(oracles: Oracles, body: Tree, head: Tree, rows: Rows) -> bool:
    """Whether d2_{w theta} g is affine in the head, as far as random directions can tell.

    One goes through the head itself. A g that is quadratic in the head at this body need not be so
    at those beside it.
    """
    flat = trees.flatten(head)
    source = generator(0, "affine")

    def crossed(point: Tensor, vector: Tensor) -> Tensor:
        at, along = (trees.unflatten(x.to(flat).expand(flat.shape), head) for x in (point, vector))
        return trees.flatten(oracles.cross_vjp(body, at, along, rows))

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


def _directions(size: int, count: int) -> Tensor:
    """Random orthogonal unit vectors, (count, size)."""
    drawn = torch.randn(size, count, generator=generator(0, "directions"), dtype=torch.float64)
    found: Tensor = torch.linalg.qr(drawn).Q.T
    return found
