"""Kinks of Phi: coordinates of the head that may be free or held by a bound.

Where a coordinate is at its bound and nothing pushes it against it, it leaves the bound on one
side of the body and is held on the other: Phi has one-sided derivatives there and no gradient.
With A the coordinates that are free for certain and U those that may be either, v_A the adjoint on
A and S any part of U, the adjoint on A and S differs from v_A by (e_S - H_AA^{-1} H_AS) y with

    (H_SS - H_SA H_AA^{-1} H_AS) y = r_S,    r = d_theta F - H v_A,

a Schur complement whose eigenvalues are at least mu. With K_u = C (e_u - H_AA^{-1} H_Au), C =
d2_{w theta} g, any two one-sided derivatives therefore differ by at most 2 |K_U| |r_U| / mu. That
is zero where the coordinates in doubt do not move with the body, or do not matter to F.
"""

import torch
from torch import Tensor

from bilevel import trees
from bilevel.hypergradients.condition import LARGEST_DENSE, Condition
from bilevel.linear.cholesky import EPS
from bilevel.trees import Tree

MOST = 32
"""Coordinates in doubt up to which the jump is computed."""
NAMED = 3


def in_doubt(condition: Condition, distance: Tensor, largest: Tensor) -> Tensor:
    """Which coordinates theta* may hold while theta does not, or the other way round, (R, P).

    A free coordinate must be further from its bounds than |theta - theta*| may be; one that is
    held must be pushed by more than what its slope may change by over that distance. Coordinates
    whose two bounds are the same are held everywhere.

    Args:
        condition: at theta; its `free` is not None.
        distance: a bound on |theta - theta*|, (R,).
        largest: the curvature of g in the head, (R,).
    """
    head, head_set = condition.point.head, condition.point.problem.head_set
    flat = trees.flatten(head)
    reach = 1.001 * distance.unsqueeze(1) + 4 * EPS * flat.abs() + torch.finfo(flat.dtype).tiny

    def stays(sign: float) -> Tensor:
        moved = flat + sign * reach
        return trees.flatten(head_set.project(trees.unflatten(moved, head))) == moved

    pushed = trees.flatten(condition.slope).abs() > largest.unsqueeze(1) * reach
    settled = torch.where(trees.flatten(condition.free), stays(1.0) & stays(-1.0), pushed)
    limits = head_set.bounds(head)
    if limits is not None:
        low, high = (
            trees.flatten(trees.tree_map(lambda leaf, x: leaf.expand_as(x), limit, head))
            for limit in limits
        )
        settled = settled | (low == high)
    return ~settled


def jump(condition: Condition, doubtful: Tensor, right: Tree, mu: Tensor) -> Tensor:
    """How far one-sided derivatives may be apart, (R,); infinity if that takes too long to say.

    Args:
        condition: at theta, float64.
        doubtful: of `in_doubt`, (R, P).
        right: d_theta F on all coordinates, like the head.
        mu: the strong convexity of g in the head, (R,).
    """
    places = doubtful.any(0).nonzero().flatten()
    if len(places) == 0:
        return torch.zeros_like(mu)
    if len(places) > MOST or doubtful.shape[1] > LARGEST_DENSE:
        return torch.full_like(mu, torch.inf)
    point = condition.point
    hessian = point.hessian()
    free = trees.flatten(condition.free) & ~doubtful
    inside = free.unsqueeze(1) & free.unsqueeze(2)
    scale = hessian.abs().amax((1, 2)).unsqueeze(1)
    block = torch.where(inside, hessian, 0.0) + torch.diag_embed(scale * ~free)
    units = torch.eye(len(free[0]), dtype=hessian.dtype, device=hessian.device)[:, places]
    units = units * doubtful[:, places].unsqueeze(1)  # (R, P, |U|)
    slope = trees.flatten(right).unsqueeze(2)
    columns = torch.cat([slope, hessian @ units], 2) * free.unsqueeze(2)
    solved = torch.linalg.solve_ex(block, columns)[0]
    rest = (slope - hessian @ solved[..., :1]).squeeze(2) * doubtful
    square = torch.zeros_like(mu)
    for along in (units - solved[..., 1:]).unbind(2):
        pulled = point.cross_vjp(trees.unflatten(along, point.head))
        square = square + trees.norm(pulled).square()
    found: Tensor = 2 * square.sqrt() * rest.norm(dim=1) / mu
    # without a slope there is no jump, whatever K is
    return torch.where(doubtful.any(1) & (rest != 0).any(1), found, torch.zeros_like(found))


def sentence(condition: Condition, doubtful: Tensor, distance: Tensor) -> str:
    """Which coordinates are in doubt, by how little, in the first run where any is."""
    run = int(doubtful.any(1).nonzero()[0])
    names = [
        "head" + path + (str(list(place)) if place else "")
        for path, leaf in trees.named_leaves(trees.unflatten(doubtful, condition.point.head))
        for place in leaf[run].nonzero().tolist() or ()
    ]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    which = ", ".join(names[:NAMED]) + more
    where = "" if len(doubtful) == 1 else f" in run {run}"
    return (
        f"{which}{where} may be free or held by a bound of the set: it is too near to it, or "
        f"pushed against it too little, to tell within {float(distance[run]):.2g}, the bound on "
        "the error of the head."
    )
