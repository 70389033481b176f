"""Quadratic heads between bounds, by guesses of what they hold: their work, and where they fail."""

import numpy as np
import pytest
import torch
from boxed_heads import violation
from linear_heads import ONE, build, dense, normal
from operations import Count
from points import Point, number

from bilevel import Box, ProjectedNewton, Status
from bilevel.heads.objectives.quadratic import QuadraticObjective
from bilevel.heads.projected import active_sets, solver
from bilevel.heads.projected.active_sets import settled
from bilevel.heads.projected.bounds import Bounds

BOX = Box(-0.5, 0.5)


def warm(runs, columns=32, outputs=None):
    """R runs that were solved, at bodies that moved since then; about half of each head is held."""
    z = normal(1, 200, columns)
    y = normal(2, 200, *(() if outputs is None else (outputs,)))
    y = y + z @ normal(3, columns, *(() if outputs is None else (outputs,)))
    point = Point(build(z, y, ridge=1e-3, head_set=BOX), list(torch.linspace(1, 1.2, runs)))
    point.body = point.body.double()
    point.head = point.solved(ProjectedNewton()).head
    point.body = 1.0003 * point.body
    memory = ProjectedNewton().init(point.oracles, point.body, point.head, point.rows)
    return lambda: ProjectedNewton().solve(
        point.oracles, point.body, point.head, point.rows, memory, 1
    )


@pytest.mark.parametrize("outputs", [None, 3])
@pytest.mark.parametrize("runs", [1, 30])
def test_a_warm_solve_takes_one_factor_and_few_operations(runs, outputs):
    """By the steps of the descent it took 388, and 16 times a value was waited for."""
    solve = warm(runs, outputs=outputs)
    with Count() as count:
        found = solve()
    assert (found.status == int(Status.CONVERGED)).all()
    held = (found.head.abs() == 0.5).double().mean()
    assert 0.2 < float(held) < 0.9
    assert count.of("cholesky_ex") == 1
    assert count.of("_local_scalar_dense", "equal.default") <= 3
    assert count.made <= (92 if outputs is None else 103)


def test_one_run_is_not_mapped(monkeypatch):
    """To map the features takes longer than to compute them."""

    def mapped(*arguments, **options):
        raise AssertionError("vmap")

    solve = warm(1)
    monkeypatch.setattr("bilevel.derivatives.over_heads.vmap", mapped)
    monkeypatch.setattr("bilevel.derivatives.linear_parts.vmap", mapped)
    assert solve().status.tolist() == [int(Status.CONVERGED)]


def quadratic(*shape, seed=0):
    """1/2 theta' H theta - b' theta of R runs, as `QuadraticObjective` takes them."""
    runs, matrices, size, outputs = shape
    root = torch.from_numpy(normal(seed, runs, matrices, 2 * size, size))
    moment = torch.from_numpy(normal(seed + 1, runs, size, outputs))
    return root.mT @ root / size, moment


def unit_box(objective, start):
    return Bounds(torch.full_like(start, -0.1), torch.full_like(start, 0.1))


@pytest.mark.parametrize("matrices", [1, 3])
def test_runs_do_not_look_at_each_other(matrices):
    """All at once, each alone, and beside one that is no number, which adds no guess."""
    matrix, moment = quadratic(4, matrices, 6, 3)
    start = torch.zeros(4, 18).double()

    def found(which):
        objective = QuadraticObjective(matrix[which], moment[which], 3)
        begin = start[which]
        return settled(objective, unit_box(objective, begin), begin, 100)

    together = found(slice(None))
    assert together.done.all()
    assert (together.residual <= 1e-14).all()
    for run in range(4):
        alone = found(slice(run, run + 1))
        torch.testing.assert_close(alone.point[0], together.point[run], rtol=0, atol=1e-15)
        torch.testing.assert_close(alone.slope[0], together.slope[run], rtol=0, atol=1e-14)
    moment[1] = torch.nan
    with Count() as count:
        beside = found(slice(None))
    assert beside.done.tolist() == [True, False, True, True]
    assert count.of("cholesky_ex") <= 5
    others = [0, 2, 3]
    assert torch.equal(beside.point[others], together.point[others])


def test_factors_are_those_of_the_free_numbers():
    matrix, moment = quadratic(2, 1, 6, 1)
    start = torch.zeros(2, 6).double()
    objective = QuadraticObjective(matrix, moment, None)
    found = settled(objective, unit_box(objective, start), start, 100)
    free = found.point.abs() < 0.1
    assert 2 <= int(free.sum()) <= 10
    for run in range(2):
        kept = free[run].nonzero().flatten()
        made = (found.cholesky @ found.cholesky.mT)[run, 0]
        assert torch.allclose(made[kept][:, kept], matrix[run, 0][kept][:, kept])
        assert torch.allclose(made.diagonal(), matrix[run, 0].diagonal())
        assert torch.allclose(made[~free[run]][:, free[run]], number(0.0))


def test_units_of_features_do_not_matter():
    """The same guesses, to the same bits: what is rounding in one unit is not in another."""
    matrix, moment = quadratic(30, 1, 6, 1)
    units = 4.0 ** torch.arange(-12, 12, 4).double().flip(0)
    start = torch.zeros(30, 6).double()
    plain = QuadraticObjective(matrix, moment, None)
    bounds = unit_box(plain, start)
    scaled = QuadraticObjective(
        units * matrix * units.unsqueeze(1), units.unsqueeze(1) * moment, None
    )
    found = settled(plain, bounds, start, 100)
    other = settled(scaled, Bounds(*(x / units for x in bounds)), start, 100)
    assert found.done.all()
    assert other.done.all()
    assert torch.equal(other.point * units, found.point)


def test_a_singular_matrix_is_never_done():
    """Its solution may satisfy all conditions: what is said of it is left to the descent."""
    matrix, moment = quadratic(1, 1, 3, 1)
    matrix[..., 2], matrix[..., 2, :] = matrix[..., 1], matrix[..., 1, :]
    matrix[..., 2, 2] = matrix[..., 1, 1]
    start = torch.zeros(1, 3).double()
    objective = QuadraticObjective(matrix, 0 * moment, None)
    assert not settled(objective, unit_box(objective, start), start, 100).done


def test_bounds_that_meet_the_minimiser_do_no_harm():
    """Fixed numbers whose slope is zero, and numbers that end at a bound without a multiplier."""
    matrix = number([[4.0, 1.0, -2.0], [1.0, 3.0, 0.5], [-2.0, 0.5, 5.0]])[None, None]
    best = number([[0.0, 0.75, 0.25]])
    objective = QuadraticObjective(matrix, (best @ matrix[0, 0]).unsqueeze(2), None)
    bounds = Bounds(number([[0.0, 0.75, -1.0]]), number([[1.0, 0.75, 0.25]]))
    for start in (0.0, 0.5, 2.0):
        found = settled(objective, bounds, torch.full_like(best, start), 100)
        assert found.done
        torch.testing.assert_close(found.point, best, rtol=0, atol=1e-15)


@pytest.mark.parametrize("seed", [2, 6, 23, 30])
def test_guesses_that_go_in_circles_are_left_to_the_descent(seed, monkeypatch):
    """Features that are nearly parallel; the head is the minimiser all the same."""
    z = normal([seed, 1], 12, 5) * np.logspace(0, -2, 5) @ normal([seed, 2], 5, 5)
    y = z @ normal([seed, 3], 5) + 0.1 * normal([seed, 4], 12)
    seen = []

    def spied(*arguments):
        seen.append(settled(*arguments))
        return seen[-1]

    monkeypatch.setattr(solver, "settled", spied)
    problem = build(z, y, ridge=1e-9, head_set=Box(-0.25, 0.5))
    with Count() as count:
        found = Point(problem, [ONE, 0.5 * ONE]).solved(ProjectedNewton())
    assert not seen[0].done.all()
    assert count.of("cholesky_ex") >= active_sets.MOST
    assert (found.status == int(Status.CONVERGED)).all()
    for run, w in enumerate((1.0, 0.5)):
        matrix, moment = dense(w * z, y, None, 1e-9)
        head = found.head[run].numpy()
        assert violation(head, matrix[0] @ head - moment[0], -0.25, 0.5) <= 1e-13
    assert found.factor.usable.all()
