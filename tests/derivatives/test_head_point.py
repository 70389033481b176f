"""A point is the four things it holds, however it is moved."""

import torch
from small_problems import TrueBilevel, points, sampler

from bilevel import trees
from bilevel.derivatives.head_point import HeadPoint
from bilevel.derivatives.oracles import Oracles

SEEDS, BATCH = [4, 0, 2], 5


def test_it_asks_the_oracles_at_its_place():
    problem = TrueBilevel()
    drawn = sampler(problem, SEEDS, BATCH)
    oracles, rows = Oracles(problem), drawn.rows(0)
    body, head = points(problem, SEEDS)
    point, at = HeadPoint(oracles, body, head, rows), (body, head, rows)
    assert point.size == trees.flatten(head).shape[1]
    assert torch.equal(point.value(), oracles.head_value(*at))
    assert torch.equal(point.body_value(), oracles.body_value(*at))
    assert trees.equal(point.gradient(), oracles.head_gradient(*at))
    assert torch.equal(point.hessian(), oracles.head_hessian(*at))
    assert trees.equal(point.hvp(head), oracles.head_hvp(body, head, head, rows))
    assert trees.equal(point.cross_vjp(head), oracles.cross_vjp(body, head, head, rows))
    assert trees.equal(point.body_gradients(), oracles.body_gradients(*at))


def test_it_moves_in_one_of_the_four_at_a_time():
    problem = TrueBilevel()
    rows = sampler(problem, SEEDS, BATCH).rows(0)
    body, head = points(problem, SEEDS)
    point = HeadPoint(Oracles(problem), body, head, rows)
    assert point.full.rows is rows.full
    assert point.full.head is head
    other = trees.tree_map(torch.neg, head)
    assert point.at(other).head is other
    assert point.at(other).rows is rows
    cast = point.cast(torch.float32)
    assert {leaf.dtype for leaf in trees.leaves((cast.body, cast.head))} == {torch.float32}
    assert trees.leaves(cast.rows.groups)[0].dtype == torch.float32
