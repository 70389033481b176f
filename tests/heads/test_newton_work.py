"""What a solve of Newton's method may take: steps, factors, and in which type they are made."""

import pytest
import torch
from class_heads import many_classes, table
from linear_heads import ONE, build, normal
from points import Point
from small_problems import doubles

from bilevel import LogisticLoss, Newton, SoftmaxLoss, Status
from bilevel.derivatives.head_point import HeadPoint
from bilevel.heads.newton import descent
from bilevel.heads.newton.secants import Secants
from bilevel.heads.newton.starts import better_start
from bilevel.heads.objectives import linear
from bilevel.heads.objectives.hessian import newton_factor
from bilevel.heads.objectives.passes import Passes
from bilevel.heads.objectives.view import head_objective
from bilevel.linear.factor import BlockFactor
from bilevel.linear.preconditioned import led_direction

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


def trained(point, size, bodies=6, inputs=64, width=WIDTH, tolerance=1e-9):
    """Warm solves after steps of a body, the states between them."""
    solver, found = Newton(tolerance), []
    solved = point.solved(solver)
    for i in range(bodies):
        point.body = point.body + size * doubles(20 + i, inputs, width)
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


def test_cheap_factors_are_weighed_against_the_steps_that_they_save(work):
    """One of 64 x 64 costs two steps by an old one: neither none is made nor one at each body."""
    ways, _, _ = work
    inputs = torch.as_tensor(normal(1, 400, 8))
    score = (inputs @ torch.as_tensor(normal(2, 8))).tanh() + 0.5 * torch.as_tensor(normal(3, 400))
    problem = build(
        inputs, (score > 0).long(), features=lambda w, x: torch.tanh(x @ w),
        body=doubles(8, 8, 64), ridge=1e-3,
    )  # fmt: skip
    type(problem).criterion, type(problem).outputs = LogisticLoss(), None
    trained(Point(problem, [doubles(8, 8, 64)]), 0.01, inputs=8, width=64, tolerance=1e-8)
    assert sum(int(way.factored) for way in ways[1:]) <= 4  # 6 at a price of nothing
    assert sum(int(way.steps) for way in ways[1:]) <= 24  # 32 without the comparison


def test_only_runs_that_look_for_a_better_start_are_looked_at(monkeypatch):
    counts, rows = [], SoftmaxLoss.rows
    point = images(runs=4)
    at = HeadPoint(point.oracles, point.body, point.head, point.rows)
    objective = head_objective(at)
    place = objective.at(doubles(3, 4, 300))

    def lost(self, predictions, targets):
        counts.append(len(predictions))
        return rows(self, predictions, targets)

    monkeypatch.setattr(SoftmaxLoss, "rows", lost)
    one = torch.tensor([False, True, False, False])
    found, new = better_start(objective, place, one, torch.zeros_like(place.predictions))
    assert new.tolist() == one.tolist()
    assert set(counts) == {place.predictions.shape[1]}
    assert torch.equal(found.point[~one], place.point[~one])
    unmoved = torch.zeros_like(one)
    assert descent.chosen(unmoved, found, place) is place


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


@pytest.mark.parametrize("weights", [None, (1.0, 2.0) * 30])
def test_many_classes_take_one_gram_matrix_and_a_curvature_for_each_step(
    work, monkeypatch, weights
):
    """The mean curvature times it leads as well as a block of H for each class."""
    ways, types, _ = work
    products, curvatures, losses, values = [], [], [], []
    product, curvature = linear.LinearObjective.product, SoftmaxLoss.curvature
    rows, all_losses = SoftmaxLoss.rows, Passes.losses

    def counted(self, place, vectors):
        products.append(vectors.dtype)
        return product(self, place, vectors)

    def curved(self, predictions, targets):
        curvatures.append(len(predictions))
        return curvature(self, predictions, targets)

    monkeypatch.setattr(linear.LinearObjective, "product", counted)

    def lost(self, predictions, targets):
        losses.append(len(predictions))
        return rows(self, predictions, targets)

    def valued(self, predictions):
        values.append(predictions)
        return all_losses(self, predictions)

    monkeypatch.setattr(SoftmaxLoss, "curvature", curved)
    monkeypatch.setattr(SoftmaxLoss, "rows", lost)
    monkeypatch.setattr(Passes, "losses", valued)
    found = Point(many_classes(3000, weights), [ONE]).solved(Newton(1e-8))
    assert found.status.tolist() == [int(Status.CONVERGED)]
    assert found.residual <= 1e-8 * 2400**0.5
    assert not types
    assert set(products) == {torch.float32}
    assert len(products) <= 47  # 49 where the last step is taken further than is asked for
    looked = sum(count for count in curvatures if count > 1)  # in pieces, apart from probes
    # slopes tell it, but where classes have weights
    assert looked == (3000 * int(ways[0].steps) if weights else 0)
    assert ways[0].steps <= 8
    assert max(curvatures) < 3000
    assert len(values) == (
        4 if weights else 3
    )  # where a search begins, g is known from the one before
    assert not losses  # they are made of what the slopes found


def test_the_factor_of_many_classes_is_that_of_a_kronecker_product():
    """B = A (x) G + diag(p) at equal penalties, also where p differs by feature."""
    penalty = torch.as_tensor(0.1 + normal(5, 40) ** 2)
    problem = many_classes()
    type(problem).penalty = lambda self, body: penalty
    point = Point(problem, [ONE])
    at = HeadPoint(point.oracles, point.body, point.head, point.rows)
    objective = head_objective(at)
    place = objective.at(doubles(3, 1, 2400))
    factor, bad = newton_factor(objective, place)
    shares = torch.softmax(place.predictions[0], 1)
    z = objective.double[0]
    mean = torch.diag(shares.mean(0)) - shares.mT @ shares / 300
    matrix = torch.kron(mean, z.mT @ z / 300) + torch.diag(penalty.repeat(60))
    vector = doubles(4, 1, 2400)
    assert bad.tolist() == [False]
    torch.testing.assert_close(
        factor.solve(vector), torch.linalg.solve(matrix, vector[0])[None], rtol=1e-5, atol=1e-5
    )


def test_a_direction_takes_a_solve_for_each_product_and_one_to_begin(monkeypatch):
    """And fewer of both where more may be left."""
    point = Point(many_classes(), [ONE])
    at = HeadPoint(point.oracles, point.body, point.head, point.rows)
    objective = head_objective(at)
    place = objective.at(doubles(3, 1, 2400))
    factor, _ = newton_factor(objective, place)
    solves, products, solve = [], [], BlockFactor.solve

    def product(vectors):
        products.append(vectors)
        return objective.product(place, vectors)

    monkeypatch.setattr(BlockFactor, "solve", lambda *given: solves.append(1) or solve(*given))
    right, counts = 1e-6 * place.slope, []
    for enough in (0.0, 0.05):
        solves.clear(), products.clear()
        found = led_direction(product, right, factor, torch.float64, enough)
        counts.append(len(products))
        assert len(solves) == len(products) + 1
        left = (objective.product(place, found) - right).norm() / right.norm()
        assert left <= max(enough, 1e-3) * 3  # the goal is one of the factor's norm
    assert counts[1] <= 0.7 * counts[0]
