"""Whether autograd sees how the objectives depend on the body."""

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.generators import generator, normal
from bilevel.derivatives.head_point import HeadPoint
from bilevel.errors import ProblemError
from bilevel.linear.cholesky import EPS
from bilevel.trees import Tree

WIDTH, NARROW = 6e-6, 1e-8
"""Of differences: about the best one, relative to 1 + |w| or, for bodies of a tiny scale, to the
largest number of a leaf; and one for leaves whose numbers differ in scale."""
SHARE = 0.01
"""Of a gradient that differences may not see: kinks that they cross, such as those of ReLUs."""


def check_dependence(point: HeadPoint, *, again: bool = False) -> None:
    """Raise if d_theta g changes with the body while autograd sees no such change.

    An implicit gradient would silently be zero: `detach`, rounding or an operation without a
    derivative cuts the way from the body to g.

    Args:
        point: where it is asked.
        again: whether to ask even if an earlier call of the same problem saw the body.
    """
    known = point.oracles.known
    if known is not None and known.has("dependence") and not again:
        return
    source = generator(0, "dependence")

    def random_like(tree: Tree) -> Tree:
        return trees.tree_map(
            lambda leaf: torch.randn(leaf.shape, generator=source, dtype=torch.float64).to(leaf),
            tree,
        )

    def told(at: HeadPoint) -> bool:
        pulled = trees.leaves(at.cross_vjp(random_like(at.head)))
        return any(bool(((leaf != 0) & ~leaf.isnan()).any()) for leaf in pulled)

    if told(point):
        if known is not None:
            known.once("dependence", bool)
        return
    # at one body it may vanish for good reason, such as at a saddle
    moved = point.moved(
        trees.tree_map(
            lambda w, d: w + 0.1 * (1 + w.abs()) * d, point.body, random_like(point.body)
        )
    )
    if told(moved):
        return
    before, after = (at.gradient() for at in (point, moved))
    if bool((trees.norm(trees.tree_map(torch.sub, after, before)) > 0).any()):
        raise ProblemError(
            f"`head_objective` of {type(point.problem).__name__} depends on the body, but its "
            "derivative d2_{w theta} g is zero: something cuts the body off from autograd, such as "
            "`.detach()`, `torch.no_grad()`, rounding or a comparison. The implicit gradient would "
            "lack its second term."
        )


def overlooked(
    point: HeadPoint, slope: Tree, adjoint: Tree | None, largest: Tensor, bound: Tensor
) -> Tensor:
    """In which runs F - v' d_theta g changes with the body by other than its derivative, (R,).

    Differences along one random direction, at a fixed head, against `slope`. `detach`,
    `torch.no_grad()` and rounding cut the way from the body to an objective, and what autograd then
    gives is the gradient of something else. A difference that rounding may explain is none, nor is
    one that an error within the bound makes: 4 standard deviations of it along the direction.

    The first one is from the body itself, where both objectives are known: it takes one evaluation,
    and says as much where it agrees. Curvature may tell it from `slope`: then central ones decide.

    Args:
        point: float64, as everything here.
        slope: d_w F - (d2_{w theta} g) v by autograd, like the body.
        adjoint: v, like the head; None: zero.
        largest: the curvature of g in the head, (R,), for the rounding of d_theta g.
        bound: what `slope` is said to be off by at most, (R,).
    """
    body, flat = point.body, trees.flatten(point.body)
    drawn = normal("overlooked", flat.shape[1]).to(flat)
    size = torch.zeros_like(largest)

    def usual_scale() -> Tensor:
        return 1 + flat.abs()

    def own_scale() -> Tensor:
        return trees.flatten(trees.tree_map(_largest, body))

    def value(at: Tensor | None) -> Tensor:
        nonlocal size
        moved = point if at is None else point.moved(trees.unflatten(at, body))
        found = moved.body_value()
        size = torch.maximum(size, found.abs().nan_to_num(0.0, 0.0, 0.0))
        if adjoint is None:
            return found
        return found - trees.dot(adjoint, moved.gradient())

    terms = torch.zeros_like(largest)
    if adjoint is not None:
        terms = trees.norm(adjoint) * largest * (trees.norm(point.head) + 1)
    unseen = torch.ones_like(largest, dtype=torch.bool)
    told = ~unseen
    each = trees.flatten(slope)
    for back, width, scaled in (
        (0, WIDTH, usual_scale),
        (1, WIDTH, usual_scale),
        (1, WIDTH, own_scale),
        (1, NARROW, usual_scale),
    ):
        scale = scaled()
        direction = drawn * scale
        along = each * direction
        expected, usual = along.sum(1), along.norm(dim=1)
        behind = value(flat - width * direction) if back else value(None)
        seen = (value(flat + width * direction) - behind) / ((1 + back) * width)
        rounding = 100 * EPS * (size + terms) / width
        known = 4 * bound * scale.amax(1)
        off = (seen - expected).abs() > SHARE * (usual + seen.abs()) + rounding + known
        unseen = unseen & (off | ~seen.isfinite())  # what overflows tells nothing
        told = told | seen.isfinite()
        if not bool(unseen.any()):
            break
    return unseen & told


def _largest(leaf: Tensor) -> Tensor:
    """The largest number of each run in the place of all of them; one where all are zero."""
    found = leaf.abs().reshape(len(leaf), -1).amax(1)
    found = torch.where(found > 0, found, torch.ones_like(found))
    return found.reshape(-1, *[1] * (leaf.ndim - 1)).expand_as(leaf)
