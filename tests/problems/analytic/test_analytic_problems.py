"""What the analytic problems state, checked against derivatives of their objectives."""

import itertools
import math

import pytest
import torch
from analytic_cases import CASES, Dense, bodies, close, directions, flat, shaped
from torch.func import grad, vmap

import bilevel
from bilevel import trees
from bilevel.core.generators import generator
from problems.analytic import NAMES

cases = pytest.mark.parametrize("case", CASES)


@cases
def test_the_best_response_is_stationary(case):
    """On a box: it is the projection of a gradient step from it."""
    problem = CASES[case]
    for body in bodies(problem):
        dense = Dense(problem, body)
        slope = grad(dense.g, 1)(dense.w, dense.theta)
        scale = dense.hessian(dense.theta).abs().max() * (1 + dense.theta.abs().max())
        step = problem.head_set.project(shaped(dense.theta - slope, dense.head))
        assert float((flat(step) - dense.theta).abs().max()) <= 1e-12 * float(scale)
        if isinstance(problem.head_set, bilevel.Everywhere):
            assert float(slope.abs().max()) <= 1e-12 * float(scale)


@cases
def test_phi_gradient_against_central_differences(case):
    problem = CASES[case]
    for body in bodies(problem):
        found = flat(problem.phi_gradient(body))
        entries = range(0, len(found), max(1, len(found) // 5))
        for entry in entries:
            step = torch.zeros_like(found)
            step[entry] = 1e-3

            def phi(times, step=step, body=body):
                return float(problem.phi(body + times * step.reshape(body.shape)))

            expected = (8 * (phi(1) - phi(-1)) - (phi(2) - phi(-2))) / 12e-3
            assert float(found[entry]) == pytest.approx(expected, rel=1e-7, abs=1e-8)


@cases
def test_phi_gradient_is_the_total_derivative(case):
    """By autograd through theta*(w), and by dense linear algebra on the free entries."""
    problem = CASES[case]
    for body in bodies(problem):
        found = flat(problem.phi_gradient(body))
        assert float(found.abs().max()) > 1e-6
        close(flat(grad(problem.phi)(body)), found, 1e-10)
        dense = Dense(problem, body)
        slope = grad(dense.F, 1)(dense.w, dense.theta)
        low = torch.as_tensor(getattr(problem.head_set, "low", -math.inf))
        high = torch.as_tensor(getattr(problem.head_set, "high", math.inf))
        free = (dense.theta > low) & (dense.theta < high)
        inner = dense.hessian(dense.theta)[free][:, free]
        adjoint = torch.linalg.solve(inner, slope[free])
        direct = grad(dense.F, 0)(dense.w, dense.theta)
        close(direct - dense.cross(dense.theta)[:, free] @ adjoint, found, 1e-10)


@cases
def test_curvature(case):
    problem = CASES[case]
    for body in bodies(problem):
        mu, largest = problem.curvature(body)
        dense = Dense(problem, body)
        for shift in (0.0, 0.7, -2.0):
            values = torch.linalg.eigvalsh(dense.hessian(dense.theta + shift))
            assert 0 < mu <= float(values[0]) + 1e-12 * float(values[-1])
            assert float(values[-1]) <= largest * (1 + 1e-12)
            if case != "A9":
                assert float(values[0]) == pytest.approx(mu, rel=1e-9)
                assert float(values[-1]) == pytest.approx(largest, rel=1e-9)


TIGHT = {name for name in NAMES if name not in {"A14", "A16"}}  # the others are upper bounds


def pairs_of_heads(problem, dense, radius):
    """Heads within `radius` of theta*: opposite ones, and neighbours at the rim; each (n, p)."""
    source, size = torch.Generator().manual_seed(3), len(dense.theta)
    drawn = torch.randn(8, size, generator=source, dtype=torch.float64)
    offsets = torch.cat([torch.eye(size, dtype=torch.float64), drawn])
    if dense.theta.norm() > 0:
        offsets = torch.cat([offsets, dense.theta.unsqueeze(0)])
    offsets = radius * offsets / offsets.norm(dim=1, keepdim=True)
    shares = torch.rand(len(offsets), 1, generator=source, dtype=torch.float64)
    left = torch.cat([offsets, offsets, -offsets, shares * offsets])
    right = torch.cat([-offsets, 0.99 * offsets, -0.99 * offsets, shares * offsets.roll(1, 0)])
    inside = problem.head_set.project(torch.cat([left, right]) + dense.theta)
    return inside.chunk(2)


@pytest.mark.parametrize("case", [case for case in CASES if case != "A14"])  # large: its variants
@pytest.mark.parametrize("radius", [0.2, 1.5, math.inf])
def test_lipschitz_constants_are_never_exceeded(case, radius):
    """The slopes between sampled heads; they come close to the constants that are sharp."""
    problem = CASES[case]
    for body in [problem.start, problem.init_body(generator(7, "body"))]:
        dense, stated = Dense(problem, body), problem.lipschitz(body, radius)
        left, right = pairs_of_heads(problem, dense, radius if radius < math.inf else 4.0)
        apart = (left - right).norm(dim=1)
        left, right, apart = left[apart > 1e-6], right[apart > 1e-6], apart[apart > 1e-6]
        maps = {
            "body_gradient": lambda theta, dense=dense: grad(dense.F, 0)(dense.w, theta),
            "head_gradient": lambda theta, dense=dense: grad(dense.F, 1)(dense.w, theta),
            "cross": dense.cross,
            "hessian": dense.hessian,
        }
        largest = {"cross_norm": float(spectral_norms(vmap(dense.cross)(left)).max())}
        for name, function in maps.items():
            change = vmap(function)(left) - vmap(function)(right)
            size = change.norm(dim=1) if change.ndim == 2 else spectral_norms(change)
            largest[name] = float((size / apart).max())
        for name, found in largest.items():
            constant = getattr(stated, name)
            assert found <= constant * (1 + 1e-9) + 1e-9
            if case in TIGHT and constant < math.inf:
                assert found >= 0.7 * constant


def spectral_norms(matrices):
    return torch.linalg.matrix_norm(matrices, ord=2)


def test_where_there_are_global_constants():
    """At an infinite radius, only those of unbounded second derivatives are infinite."""
    unbounded = {
        case for case, problem in CASES.items() if math.inf in problem.lipschitz(problem.start)
    }
    assert unbounded >= {"A7", "A8", "A9", "A13", "A15-log", "A15-ridge", "A16", "A14-nonlinear"}
    assert not unbounded & {"A1", "A2", "A3", "A4", "A5", "A6", "A10", "A11", "A12", "A14"}
    assert CASES["A9"].lipschitz(CASES["A9"].start).cross_norm == 1
    for case in unbounded:
        assert math.inf not in CASES[case].lipschitz(CASES[case].start, 2.0)


@pytest.mark.parametrize("case", [c for c in CASES if CASES[c].solution is not None])
def test_the_optimum_is_stationary_and_a_minimum(case):
    problem = CASES[case]
    best, value = problem.solution
    assert float(problem.phi(best)) == pytest.approx(value, rel=1e-12, abs=1e-15)
    if case in {"B1", "B5"}:  # on a kink: no direction descends
        for direction in directions(best):
            assert float(problem.directional_derivative(best, direction)) >= 0
    else:
        scale = float(problem.phi_gradient(best + 1.0).abs().max())
        assert float(problem.phi_gradient(best).abs().max()) <= 1e-13 * scale + 1e-15
    low = torch.as_tensor(getattr(problem.body_set, "low", -math.inf), dtype=torch.float64)
    for direction in directions(best):
        for length in (1e-3, 1e-2, 0.1, 0.5, 1.0, 3.0):
            body = torch.maximum(best + length * direction, low)
            assert float(problem.phi(body)) >= value + 1e-9 * length**2


@cases
def test_vmapped_equals_looped(case):
    problem, rows = CASES[case], CASES[case].rows()
    many = [(b, problem.init_head(generator(s, "head"))) for s, b in enumerate(bodies(problem, 4))]
    body = torch.stack([b for b, _ in many])
    head = trees.tree_map(lambda *leaves: torch.stack(leaves), *(h for _, h in many))
    for objective in (problem.body_objective, problem.head_objective):
        looped = [objective(b, h, rows) for b, h in many]
        assert all(value.ndim == 0 and value.dtype == torch.float64 for value in looped)
        together = vmap(objective, in_dims=(0, 0, None))(body, head, rows)
        close(together, torch.stack(looped), 1e-12)
        slopes = vmap(grad(objective, argnums=(0, 1)), in_dims=(0, 0, None))(body, head, rows)
        singles = [grad(objective, argnums=(0, 1))(b, h, rows) for b, h in many]
        for i, single in enumerate(singles):
            close(flat(trees.tree_map(lambda x, i=i: x[i], slopes)), flat(single), 1e-12)


@cases
def test_initial_points_depend_on_the_seed_and_lie_in_the_sets(case):
    problem = CASES[case]
    for init, convex, level in (
        (problem.init_body, problem.body_set, "body"),
        (problem.init_head, problem.head_set, "head"),
    ):
        points = [init(generator(seed, level)) for seed in range(4)]
        assert trees.equal(points[0], init(generator(0, level)))
        for first, second in itertools.combinations(points, 2):
            assert not trees.equal(first, second)
        for point in points:
            assert trees.equal(convex.project(point), point)
            assert all(leaf.dtype == torch.float64 for leaf in trees.leaves(point))


@cases
def test_single_precision_and_metrics(case):
    """Constants follow the type of the body and the head."""
    problem, rows = CASES[case], CASES[case].rows()
    pair = problem.start, problem.init_head(generator(0, "head"))
    singles = [trees.cast(tree, torch.float32) for tree in pair]
    for name in ("body_objective", "head_objective"):
        fine = getattr(problem, name)(*pair, rows)
        coarse = getattr(problem, name)(*singles, trees.cast(rows, torch.float32))
        assert coarse.dtype == torch.float32
        assert float(coarse) == pytest.approx(float(fine), rel=1e-3, abs=1e-4)
    if isinstance(problem, bilevel.LinearHeadProblem):
        return  # these report the fit of each group
    found = problem.metrics(*pair, problem.data())
    assert list(found) == (["body_error", "head_error"] if problem.solution else [])
    if problem.solution:
        best = problem.solution.body
        assert float(found["body_error"]) == float((pair[0] - best).square().sum()) > 0
        at_best = problem.metrics(best, problem.best_response(best), problem.data())
        assert all(float(value) == 0 for value in at_best.values())
