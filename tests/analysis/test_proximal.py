"""Minimisers of strongly convex functions with kinks: closed forms, conic solvers, bounds."""

import cvxpy
import numpy as np
import pytest
import torch
from small_problems import doubles

import bilevel
from bilevel.analysis.proximal import Domain, minimise

SCALES = torch.tensor([0.01, 0.1, 0.5, 0.9, 1.0, 1.3, 2.5], dtype=torch.float64)


def ring(centre, reach):
    """| |v|^2 - 1 | + |v - w|^2 / (2 reach) and one of its subgradients."""

    def both(point):
        off, square = point - centre, point.square().sum(1) - 1
        value = square.abs() + off.square().sum(1) / (2 * reach)
        return value, 2 * square.sign().unsqueeze(1) * point + off / reach

    return both


@pytest.mark.parametrize("size", [1, 2, 10])
@pytest.mark.parametrize("reach", [0.05, 0.4])
def test_a_ring_has_its_closed_form(size, reach):
    directions = doubles(0, 7, size)
    centre = SCALES.unsqueeze(1) * directions / directions.norm(dim=1, keepdim=True)
    found = minimise(ring(centre, reach), centre, 1 / reach - 2, Domain(), 1e-9, 200)
    outside, inside = SCALES / (1 + 2 * reach), SCALES / (1 - 2 * reach)
    length = torch.where(outside > 1, outside, inside.clamp(max=1.0))
    error = (found.point - centre * (length / SCALES).unsqueeze(1)).norm(dim=1)
    assert bool((error < 1e-8).all()), error
    assert bool((error <= found.error + 1e-15).all())
    assert bool((found.error < 1e-6).all()), found.error


def kinks(seed, rows, size, reach):
    """mean |A v - b| + |v - w|^2 / (2 reach) of three runs, with its data."""
    matrix, right = doubles(seed, 3, rows, size), doubles(seed + 1, 3, rows)
    centre = doubles(seed + 2, 3, size)

    def both(point):
        rest = (matrix @ point.unsqueeze(2)).squeeze(2) - right
        off = point - centre
        slope = (matrix.mT @ rest.sign().unsqueeze(2)).squeeze(2) / rows
        return rest.abs().mean(1) + off.square().sum(1) / (2 * reach), slope + off / reach

    return both, matrix, right, centre


BOX, BALL = bilevel.Box(-0.3, 0.3), bilevel.Ball(0.5)
DOMAINS = {
    "everywhere": (Domain(), lambda x: [], 1e-10),
    "box": (Domain(BOX.project, BOX.free), lambda x: [cvxpy.abs(x) <= 0.3], 1e-10),
    "ball": (Domain(BALL.project), lambda x: [cvxpy.norm(x) <= 0.5], 1e-8),
}


@pytest.mark.parametrize("where", DOMAINS)
def test_many_kinks_against_a_conic_solver(where):
    domain, constraints, tolerance = DOMAINS[where]
    both, matrix, right, centre = kinks(3, 30, 10, 0.5)
    found, best = minimise(both, domain(centre), 2.0, domain, 1e-9, 300), []
    for run in range(3):
        x = cvxpy.Variable(10)
        rest = matrix[run].numpy() @ x - right[run].numpy()
        value = cvxpy.sum(cvxpy.abs(rest)) / 30 + cvxpy.sum_squares(x - centre[run].numpy())
        gaps = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), tolerance)
        cvxpy.Problem(cvxpy.Minimize(value), constraints(x)).solve("CLARABEL", **gaps)
        best.append(x.value)
    best = torch.from_numpy(np.stack(best))
    error = (found.point - best).norm(dim=1)
    reach = tolerance**0.5  # of the reference: values are convex with modulus 2
    assert bool((error < reach + 1e-6).all()), error
    assert bool((error <= found.error + reach).all())
    assert bool((found.value <= both(domain(best))[0] + 1e-8).all())


def test_a_quadratic_takes_few_steps_and_its_bound_holds():
    bends = torch.logspace(0, 3, 12, dtype=torch.float64)
    calls = []

    def both(point):
        calls.append(len(point))
        return 0.5 * (bends * point.square()).sum(1) - point.sum(1), bends * point - 1

    found = minimise(both, doubles(0, 4, 12), 1.0, Domain(), 1e-8, 200)
    error = (found.point - 1 / bends).norm(dim=1)
    assert bool((error <= found.error).all())
    assert bool((found.error < 2e-7).all())
    assert len(calls) < 150


def test_a_run_without_numbers_leaves_the_others_alone():
    good = ring(doubles(0, 3, 2), 0.2)
    start = doubles(0, 3, 2)

    def both(point):
        value, slope = good(point)
        value[1] = torch.nan
        return value, slope

    found, alone = (minimise(f, start, 3.0, Domain(), 1e-9, 100) for f in (both, good))
    assert bool(found.error[1].isnan())
    torch.testing.assert_close(found.point[[0, 2]], alone.point[[0, 2]], rtol=0, atol=1e-7)
    assert bool((found.error[[0, 2]] < 1e-6).all())


def test_errors_relative_to_the_way_end_it_sooner():
    bends = torch.logspace(0, 3, 12, dtype=torch.float64)

    def both(point):
        return 0.5 * (bends * point.square()).sum(1) - point.sum(1), bends * point - 1

    start = doubles(0, 4, 12)
    fine = minimise(both, start, 1.0, Domain(), 1e-8, 200)
    rough = minimise(both, start, 1.0, Domain(), 1e-8, 200, 0.01)
    assert rough.steps < 0.7 * fine.steps
    way = (rough.point - start).norm(dim=1)
    assert bool(((rough.point - 1 / bends).norm(dim=1) <= 0.01 * way).all())
