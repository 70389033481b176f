"""The Hessian of an objective at some heads: as a linear system, and factored."""

import torch
from torch import Tensor

from bilevel.derivatives.head_point import HeadPoint
from bilevel.heads.objectives.base import AbstractObjective, Place
from bilevel.heads.objectives.view import head_objective
from bilevel.linear.cholesky import positive_cholesky
from bilevel.linear.factor import BlockFactor
from bilevel.linear.systems import PrimalSystem


def hessian_system(point: HeadPoint) -> PrimalSystem:
    """H and -d g at the heads, output by output: its solution is a Newton step."""
    objective = head_objective(point)
    place = objective.at(objective.vector(point.head))
    hessian = objective.hessian(place, torch.float64)
    step = -place.slope.reshape(*hessian.shape[:3], 1)
    floor = torch.full_like(step[:, 0, 0, 0], -torch.inf)
    return PrimalSystem(hessian, step, floor, point.rows.count)


def newton_factor(objective: AbstractObjective, place: Place) -> tuple[BlockFactor, Tensor]:
    """The factor that leads at a place, and the runs (R,) in which it is numerically singular."""
    hessian, mix = objective.lead(place)
    cholesky, bad = positive_cholesky(hessian)
    identity = torch.eye(hessian.shape[-1], dtype=torch.float64, device=hessian.device)
    cholesky = torch.where(bad[:, None, None, None], identity, cholesky)
    return BlockFactor(cholesky, ~bad, mix), bad
