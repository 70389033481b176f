"""How the gradients of F change from a head to those around it, where bodies are penalties alone.

Where F is quadratic in the head and knows no body, as the squared error of validation rows does,
d_theta F changes by H d, whatever the body: what an earlier call at a point found of H in some
directions holds, if what it does to one more vector agrees. With s that vector, d_i the directions
and y = H s, symmetry asks that d_i'y = s'H d_i; an H that has changed hides from that only where s
is orthogonal to its change in every direction.
"""

import torch
from torch import Tensor

from bilevel import trees
from bilevel.bounds.cross_derivative import CrossDerivative
from bilevel.derivatives.head_point import HeadPoint
from bilevel.problem.sets import Everywhere
from bilevel.trees import Tree

AGREES = 1e-8
"""By how much products with one matrix may differ, relative to their sizes."""


def bending(cross: CrossDerivative, others: Tensor) -> Tensor:
    """|d_w F| and |d_theta F| at other heads less those at the head of one run, (2, N, 1).

    Args:
        cross: at the head.
        others: (N, 1, P); the last one leads against the gradient, where to is chosen here, and the
            way to the first ones is the same in every call, but for its length.
    """
    point = cross.point
    here = [trees.flatten(tree) for tree in point.body_gradients()]
    moved = (others - trees.flatten(point.head))[:, 0]
    lengths = torch.linalg.vector_norm(moved, dim=1)
    memory: dict[str, Tensor] = {}
    known = point.oracles.known
    if known is not None and isinstance(point.problem.head_set, Everywhere):
        memory = known.once(("bending", *others.shape), dict)
    if "bent" in memory and bool(lengths[-1] > 0):
        last = _slopes(point.at(trees.unflatten(others[-1], point.head)))
        changed, bent = (some - there for some, there in zip(last, here, strict=True))
        if not bool(changed.any()) and _agree(memory["bent"], moved, lengths, bent[0]):
            sizes = torch.linalg.vector_norm(memory["bent"], dim=1) * lengths[:-1]
            sizes = torch.cat([sizes, torch.linalg.vector_norm(bent, dim=1)])
            return torch.stack([torch.zeros_like(sizes), sizes]).unsqueeze(2)

    def at(there: HeadPoint, _: Tree) -> tuple[Tree, Tree]:
        return there.body_gradients()

    found = [torch.cat(some) for some in zip(*cross.at_heads(at, others, point.head), strict=True)]
    changed, bent = (some - there for some, there in zip(found, here, strict=True))
    memory.pop("bent", None)
    if not bool(changed.any()):
        memory["bent"] = bent[:-1, 0] / lengths[:-1].unsqueeze(1)
    return torch.stack([trees.norm(x[:, 0]) for x in (changed, bent)]).unsqueeze(2)


def _slopes(point: HeadPoint) -> list[Tensor]:
    return [trees.flatten(tree) for tree in point.body_gradients()]


def _agree(kept: Tensor, moved: Tensor, lengths: Tensor, bent: Tensor) -> bool:
    """Whether a change of d_theta F along the last way is that of the matrix of the others.

    Args:
        kept: H d for unit vectors d, (N - 1, P).
        moved: the ways, (N, P).
        lengths: theirs, (N,).
        bent: what d_theta F changes by along the last one, (P,).
    """
    apart = moved[:-1] @ bent / lengths[:-1] - kept @ moved[-1]
    size = bent.norm() + torch.linalg.vector_norm(kept, dim=1) * lengths[-1]
    return bool((apart.abs() <= AGREES * size).all())
