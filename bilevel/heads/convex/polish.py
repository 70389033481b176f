"""The last digits of a constrained minimiser, by Newton steps on its face of the set."""

from collections.abc import Callable

import torch
from torch import Tensor

from bilevel import trees
from bilevel.problem.sets import ConvexSet, Everywhere
from bilevel.problem.sets.face import Face
from bilevel.trees import Tree

Derivatives = Callable[[Tree], tuple[Tree, Tensor]]
STEPS, CHAIN, FAR = 20, 5, 1e3
"""Newton steps at most; how many follow each other wherever they lead, before each starts from the
best point with a face further away; residuals that are more than rounding, of `enough`."""


def polished(
    convex: ConvexSet, start: Tree, derivatives: Derivatives, step: Tensor, enough: Tensor
) -> tuple[Tree, Tensor]:
    """The best points found by Newton steps from a point near the minimiser, and their residuals.

    A step solves the optimality condition to first order on the face that the set names at the
    point: exact for quadratic objectives as soon as the face is right. Points are projected onto
    the set; a run stops where its residual is rounding, and keeps its best point. Where the steps
    do not settle on a face, those are tried that a longer way against the gradient leads to.

    Args:
        convex: the set; its `face` must not be None.
        start: leaves (R, ...), float64.
        derivatives: the gradient, like the points, and the Hessian (R, P, P), at points.
        step: of the residual, about the inverse of the curvature, (R,).
        enough: a residual that needs no further step, (R,).

    Returns:
        The points, and the norm of (x - Proj(x - step gradient)) / step at them, (R,).
    """
    at = start, *derivatives(start)
    best, least, reach, going = at, None, step, torch.ones_like(step, dtype=torch.bool)
    for k in range(STEPS):
        face = convex.face(at[0], at[1], reach)
        if face is None:
            break
        moved = trees.flatten(at[0]) + newton(face, *at)
        point = convex.project(trees.unflatten(moved, start))
        at = point, *derivatives(point)
        size = mapping(convex, at[0], at[1], step)
        if least is None:  # the first step often is enough, wherever it began
            if bool((size <= enough).all()):
                return point, size
            least = mapping(convex, start, best[1], step)
            going = least > enough
        better = going & (size < least)
        best = tuple(trees.where(better, new, old) for new, old in zip(at, best, strict=True))
        # near the end there is rounding only; far from it a wrong face may lead astray
        far = torch.minimum(size, least) > FAR * enough
        going = going & (size > enough) & (far | (size < 0.5 * least))
        least = torch.where(better, size, least)
        if not bool(going.any()):
            break
        if k >= CHAIN:
            reach = torch.where(better, reach, 10 * reach)
        if k + 1 >= CHAIN:
            at = best
    return best[0], mapping(convex, start, best[1], step) if least is None else least


def mapping(convex: ConvexSet, point: Tree, slope: Tree, step: Tensor) -> Tensor:
    """The norm of (x - Proj(x - step gradient)) / step, (R,)."""
    if isinstance(convex, Everywhere):
        return trees.norm(slope)  # the quotient would be rounding
    flat = trees.flatten(point)
    landed = flat - step.unsqueeze(1) * trees.flatten(slope)
    projected = trees.flatten(convex.project(trees.unflatten(landed, point)))
    found: Tensor = torch.linalg.vector_norm(flat - projected, dim=1) / step
    return found


def newton(face: Face, point: Tree, slope: Tree, hessian: Tensor) -> Tensor:
    """The Newton step on a face, (R, P); what has no solution is no number.

    [H + shift I, normal; normal', 0] [d; multiplier] = [-gradient; gap], with d = value - x where a
    number is held.
    """
    numbers = trees.flatten(point)
    held = ~face.free
    target = torch.where(held, face.value - numbers, 0.0)
    if face.shift is not None:
        hessian = hessian + torch.diag_embed(face.shift.unsqueeze(1).expand_as(numbers))
    right = -trees.flatten(slope) - (hessian @ target.unsqueeze(2)).squeeze(2)
    right = torch.where(held, 0.0, right)
    inside = face.free.unsqueeze(1) & face.free.unsqueeze(2)
    matrix = torch.where(inside, hessian, torch.diag_embed(held.to(hessian.dtype)))
    if face.normal is not None and face.gap is not None:
        matrix, right = _bordered(matrix, right, face.normal, face.gap)
    found, info = torch.linalg.solve_ex(matrix, right)
    found = found.masked_fill((info != 0).unsqueeze(1), torch.nan)
    step: Tensor = target + found[:, : numbers.shape[1]]
    return step


def _bordered(matrix: Tensor, right: Tensor, normal: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
    """[matrix, normal; normal', 0] and [right; gap]; runs without a normal get a one for the 0."""
    size = matrix.shape[1]
    whole = matrix.new_zeros(len(matrix), size + 1, size + 1)
    whole[:, :size, :size] = matrix
    whole[:, :size, size] = whole[:, size, :size] = normal
    whole[:, size, size] = (normal == 0).all(1).to(matrix.dtype)
    return whole, torch.cat([right, gap.unsqueeze(1)], dim=1)
