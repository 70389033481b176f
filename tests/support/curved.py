"""Dense second derivatives of the objectives of one run, by autograd: nothing of the library's."""

import torch
from torch.autograd.functional import hessian

from bilevel import trees
from bilevel.analysis.curvatures import Block
from bilevel.analysis.points import point_of


def dense(points, number, name):
    """A matrix of the library from its products, (R, P, P)."""
    product, like = Block(point_of(points, number)[0]).product(name)
    unit = torch.eye(like.shape[1], dtype=like.dtype)
    return torch.stack([product(row.expand(like.shape)) for row in unit], 2)


def parts(points, number, run):
    """The body and the head of a run as vectors, and g of such vectors."""
    problem = points.problem
    groups = problem.data(points.seeds[run] if problem.redraws_data else None)
    groups.pop("test", None)
    at = [trees.cast(trees.part(level[number], slice(run, run + 1)), torch.float64)
          for level in (points.bodies, points.heads)]  # fmt: skip
    vectors = [trees.flatten(level)[0] for level in at]

    def g(w, theta):
        body, head = (trees.take(trees.unflatten(vector.unsqueeze(0), level), 0)
                      for vector, level in zip((w, theta), at, strict=True))  # fmt: skip
        return problem.head_objective(body, head, groups)

    return *vectors, g


def solved(g, w, theta, steps):
    """The head after Newton steps, as a function of the body."""
    for _ in range(steps):
        slope = torch.autograd.functional.jacobian(lambda t: g(w, t), theta, create_graph=True)
        curved = hessian(lambda t: g(w, t), theta, create_graph=True)
        theta = theta - torch.linalg.solve(curved, slope)
    return theta


def reference(points, number, run, steps=1):
    """The four matrices, Phi'' as the Hessian of the reduced objective."""
    w, theta, g = parts(points, number, run)
    best = solved(g, w, theta, steps).detach()
    return {
        "joint": hessian(lambda v: g(v, theta), w),
        "best": hessian(lambda v: g(v, best), w),
        # one more step, from a head that is held: its error is of second order, Phi's of fourth
        "phi": hessian(lambda v: g(v, solved(g, v, best, 1)), w),
        "full": hessian(lambda z: g(z[: len(w)], z[len(w) :]), torch.cat([w, theta])),
    }
