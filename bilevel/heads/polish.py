"""The last digits of a constrained minimiser, by Newton steps on its face of the set."""

from collections.abc import Callable

import torch
from torch import Tensor

from bilevel import trees
from bilevel.sets import ConvexSet
from bilevel.sets.face import Face
from bilevel.trees import Tree

Derivatives = Callable[[Tree], tuple[Tree, Tensor]]
STEPS = 10


def polished(
    convex: ConvexSet, start: Tree, derivatives: Derivatives, step: Tensor, enough: Tensor
) -> tuple[Tree, Tensor]:
    """The best points found by Newton steps from a point near the minimiser, and their residuals.

    A step solves the optimality condition to first order on the face that the set names at the
    point: exact for quadratic objectives as soon as the face is right. Points are projected onto
    the set; a run stops where its residual is not halved, and keeps its best point.

    Args:
        convex: the set; its `face` must not be None.
        start: leaves (R, ...), float64.
        derivatives: the gradient, like the points, and the Hessian (R, P, P), at points.
        step: of the residual, about the inverse of the curvature, (R,).
        enough: a residual that needs no further step, (R,).

    Returns:
        The points, and the norm of (x - Proj(x - step gradient)) / step at them, (R,).
    """
    best = point = start
    slope, hessian = derivatives(point)
    least = mapping(convex, point, slope, step)
    going = least > enough
    for _ in range(STEPS):
        face = convex.face(point, slope, step)
        if face is None or not bool(going.any()):
            break
        moved = trees.flatten(point) + newton(face, point, slope, hessian)
        point = convex.project(trees.unflatten(moved, start))
        slope, hessian = derivatives(point)
        size = mapping(convex, point, slope, step)
        better = going & (size < least)
        best = trees.where(better, point, best)
        going = going & (size < 0.5 * least) & (size > enough)  # false for what is no number
        least = torch.where(better, size, least)
    return best, least


def mapping(convex: ConvexSet, point: Tree, slope: Tree, step: Tensor) -> Tensor:
    """The norm of (x - Proj(x - step gradient)) / step, (R,)."""
    landed = convex.project(
        trees.tree_map(lambda x, d: x - trees.per_run(step, d) * d, point, slope)
    )
    return trees.norm(trees.tree_map(torch.sub, point, landed)) / step


def newton(face: Face, point: Tree, slope: Tree, hessian: Tensor) -> Tensor:
    """The Newton step on a face, (R, P); what has no solution is no number.

    [H + shift I, normal; normal', 0] [d; multiplier] = [-gradient; gap], with d = value - x where a
    number is held.
    """
    numbers, size = trees.flatten(point), hessian.shape[1]
    held = ~face.free
    target = torch.where(held, face.value - numbers, 0.0)
    curved = hessian + torch.diag_embed(face.shift.unsqueeze(1).expand_as(numbers))
    right = -trees.flatten(slope) - (curved @ target.unsqueeze(2)).squeeze(2)
    inside = face.free.unsqueeze(1) & face.free.unsqueeze(2)
    matrix = hessian.new_zeros(len(hessian), size + 1, size + 1)
    matrix[:, :size, :size] = torch.where(inside, curved, torch.diag_embed(held.to(curved.dtype)))
    matrix[:, :size, size] = matrix[:, size, :size] = face.normal
    flat = (face.normal == 0).all(1)
    matrix[:, size, size] = flat.to(matrix.dtype)
    columns = torch.cat([torch.where(held, 0.0, right), face.gap.unsqueeze(1)], dim=1)
    found, info = torch.linalg.solve_ex(matrix, columns)
    found = found.masked_fill((info != 0).unsqueeze(1), torch.nan)
    step: Tensor = target + found[:, :size]
    return step
