"""What a solve of Newton's method may take: steps, factors, and in which type they are made."""

import pytest
import torch
from class_heads import table
from linear_heads import build
from points import Point
from small_problems import doubles

from bilevel import Newton, Status
from bilevel.heads.newton import descent
from bilevel.heads.newton.secants import Secants
from bilevel.heads.objectives import linear
from bilevel.linear.factor import BlockFactor

WIDTH = 30
"""300 numbers a head: factors are dear."""


def images(runs=1):
    """Ten classes of digits by 30 features tanh(x W), at one body for each run."""
    inputs, labels, criterion, outputs = table("digits")
    problem = build(
        inputs, labels, features=lambda w, x: torch.tanh(x @ w),
        body=0.3 * doubles(8, 64, WIDTH), ridge=1e-3,
    )  # fmt: skip
    type(problem).criterion, type(problem).outputs = criterion, outputs
    return Point(problem, [(0.3 + 0.1 * i) * doubles(8, 64, WIDTH) for i in range(runs)])


@pytest.fixture
def work(monkeypatch):
    """What was done since: ways of descents, types of Hessians, better starts."""
    ways, types, starts = [], [], []
    run, made, better = descent.Descent.run, linear.LinearObjective.hessian, descent.better_start

    def hessian(self, place, dtype):
        types.append(dtype)
        return made(self, place, dtype)

    monkeypatch.setattr(descent.Descent, "run", lambda self: ways.append(run(self)) or ways[-1])
    monkeypatch.setattr(linear.LinearObjective, "hessian", hessian)
    monkeypatch.setattr(descent, "better_start", lambda *given: starts.append(1) or better(*given))
    return ways, types, starts


def trained(point, size, bodies=6):
    """Warm solves after steps of a body, the states between them."""
    solver, solved, found = Newton(1e-9), point.solved(Newton(1e-9)), []
    for i in range(bodies):
        point.body = point.body + size * doubles(20 + i, 64, WIDTH)
        at = (point.oracles, point.body, solved.head, point.rows, solved.state, i + 1)
        solved = solver.solve(*at)
        found.append(solved)
        assert set(solved.status.tolist()) == {int(Status.CONVERGED)}
    return found


def test_a_training_seldom_factors_and_never_starts_elsewhere(work):
    """Steps that halve the slope are good enough: a factor costs as much as ten of them."""
    ways, _, starts = work
    trained(images(), 0.003)
    assert sum(int(way.factored) for way in ways[1:]) == 0
    assert sum(int(way.steps) for way in ways[1:]) <= 48
    assert not starts


def test_secants_take_the_place_of_factors(work, monkeypatch):
    ways, _, _ = work
    trained(images(), 0.003)
    monkeypatch.setattr(Secants, "with_step", lambda self, *given: self)
    with_secants = sum(int(way.factored) for way in ways)
    ways.clear()
    trained(images(), 0.003)
    assert with_secants <= 3
    assert sum(int(way.factored) for way in ways) >= 6


def test_a_first_factor_is_rough_and_large_ones_are_made_in_float32(work):
    """The first one takes one Gram matrix, the others one for each two classes."""
    ways, types, _ = work
    images().solved(Newton(1e-9))
    assert int(ways[0].factored) == 3
    assert types == [torch.float32] * 2


def test_factors_of_other_runs_are_copied_once(monkeypatch):
    """Those of the last state stay as they are; what a solve made itself is changed in place."""
    point, kept = images(runs=4), []
    first = point.solved(Newton(1e-9))
    before = first.state.factor.cholesky.clone()
    replaced = BlockFactor.replaced

    def spied(self, which, *given, **options):
        kept.append((int(which.sum()), replaced(self, which, *given, **options)))
        return kept[-1][1]

    monkeypatch.setattr(BlockFactor, "replaced", spied)
    sizes = torch.tensor([0.0, 0.1, 0.4, 0.8]).double().reshape(-1, 1, 1)
    body = point.body + sizes * doubles(9, 64, WIDTH)
    Newton(1e-9).solve(point.oracles, body, first.head, point.rows, first.state, 1)
    assert torch.equal(first.state.factor.cholesky, before)
    assert len(kept) >= 2
    assert all(some < 4 for some, _ in kept)
    assert len({made.cholesky.data_ptr() for _, made in kept}) == 1
