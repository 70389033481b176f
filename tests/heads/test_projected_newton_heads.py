"""Heads between bounds of other criteria and shapes, many at once, large, and what fails."""

import numpy as np
import pytest
import torch
from boxed_heads import BOUNDS, BOXES, INF, problem_slope, violation
from class_heads import CURVED, curved, single, slope
from linear_heads import HEADS, ONE, Quadratic, build, normal
from points import Custom, Point, number
from small_problems import General, Smooth

import bilevel
from bilevel import Box, ClosedForm, Cvxpy, Newton, Nonnegative, ProjectedNewton, Status, trees
from bilevel.derivatives.head_point import HeadPoint
from bilevel.heads.objectives.view import head_objective
from bilevel.heads.projected.bounds import Bounds
from bilevel.heads.projected.descent import ProjectedDescent
from bilevel.testing import check_head_solver

# other criteria, other heads


@pytest.mark.parametrize("bounds", ["box", "nonnegative", "above"])
@pytest.mark.parametrize("fit_bias", [False, True])
@pytest.mark.parametrize("name", CURVED)
def test_convex_criteria_satisfy_the_optimality_conditions(name, fit_bias, bounds):
    """KKT with slopes from the formulas in NumPy, and cvxpy's head."""
    problem = curved(name, fit_bias=fit_bias, penalize_bias=True, head_set=BOXES[bounds])
    body = problem.init_body(torch.Generator().manual_seed(0))
    found = bilevel.best_response(problem, body, ProjectedNewton())
    assert found.status is Status.CONVERGED
    low, high = BOUNDS[bounds]
    assert violation(found.head, slope(problem, body, found.head), low, high) <= 1e-13
    binds = bool(((found.head == low) | (found.head == high)).any())
    assert binds or (name == "huber" and bounds == "nonnegative")
    asked = bilevel.best_response(problem, body, Cvxpy())
    torch.testing.assert_close(found.head, asked.head, rtol=0, atol=1e-11)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize(("seed", "columns"), [(1, 6), (9, 6), (3, 14)])
def test_slopes_tell_where_values_of_g_cannot(seed, columns, scale):
    """A weak ridge: differences of g are rounding long before its slope is; any scale of it."""
    z, classes = scale * normal(seed, 66, columns), np.random.default_rng(seed).integers(0, 3, 66)
    problem = build(
        z, classes, criterion=bilevel.SoftmaxLoss(), ridge=1e-10 * scale**2, outputs=3,
        head_set=Nonnegative(), start=torch.zeros(columns, 3).double(),
    )  # fmt: skip
    found = bilevel.best_response(problem, ONE, ProjectedNewton())
    assert found.status is Status.CONVERGED
    assert found.words == ""  # not by cvxpy
    assert violation(found.head, problem_slope(problem, found.head), 0, INF) <= 1e-13 * scale


SIZES = (1e-3, 1e-10)


def test_a_loose_tolerance_ends_early():
    problem = curved("logistic", head_set=Box(-0.3, 0.2))
    loose, tight = (
        single(problem).solved(ProjectedNewton(rate)).residual for rate in (1e-3, 1e-10)
    )
    assert float(tight) < 1e-14 < 1e-9 < float(loose) < 1e-3


def test_a_criterion_of_known_slope_only_takes_automatic_differentiation():
    class Fourth(bilevel.AbstractCriterion):
        quadratic, largest_curvature = False, INF

        def rows(self, predictions, targets):
            return (predictions - targets) ** 4 / 4

        def metrics(self, predictions, targets):
            return {}

        def check_targets(self, targets, outputs):
            pass

    z, y = normal(4, 60, 5), normal(5, 60)
    problem = build(z, y, criterion=Fourth(), ridge=0.01, head_set=BOXES["box"])
    found = bilevel.best_response(problem, ONE, ProjectedNewton())
    assert found.status is Status.CONVERGED
    assert violation(found.head, problem_slope(problem, found.head), -0.05, 0.1) <= 1e-13


@pytest.mark.parametrize("power", [2.0, 4.0])
@pytest.mark.parametrize("shapes", HEADS)
def test_heads_of_any_shape(shapes, power):
    """0-dim, vector, matrix, tree; quadratic g and g of fourth powers."""
    problem = Quadratic(HEADS[shapes], power=power, head_set=Box(-0.02, 0.3))
    found = bilevel.best_response(problem, ONE, ProjectedNewton(1e-12))
    assert found.status is Status.CONVERGED
    head = trees.tree_map(lambda x: x.clone().requires_grad_(), found.head)
    value = problem.head_objective(ONE, head, {})
    slopes = torch.autograd.grad(value, trees.leaves(head))
    flat = torch.cat([leaf.reshape(-1) for leaf in trees.leaves(found.head)])
    slopes = torch.cat([leaf.reshape(-1) for leaf in slopes])
    assert violation(flat.numpy(), slopes.numpy(), -0.02, 0.3) <= 1e-12


def test_a_kinked_curvature_is_met_by_more_than_one_step():
    """One Hessian leads from 8 to 2.6; g is not quadratic, whatever it looks like there."""
    problem = Custom(
        lambda w, t: t.sum(),
        lambda w, t: ((t - 0.5) ** 2 / 2 + 2.5 * torch.relu(t - 3) ** 2).sum(),
        [8.0, 2.0],
        head_set=Box(-1.0, 9.0),
    )
    found = bilevel.best_response(problem, ONE, ProjectedNewton())
    assert found.status is Status.CONVERGED
    torch.testing.assert_close(found.head, number(0.5, 0.5), rtol=1e-15, atol=0)


# runs


class Boxed(Smooth):
    ridge, head_set = 0.01, Box(-0.3, 0.2)


class BoxedGeneral(General):
    head_set = Box(-0.1, 0.15)


PROBLEMS = {
    "squared error": Boxed(),
    "outputs": Boxed(outputs=2, fit_bias=True),
    "general": BoxedGeneral(),
    "general, quadratic": BoxedGeneral(power=2),
    **{name: curved(name, head_set=Box(-0.3, 0.2)) for name in CURVED},
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_contract_holds_between_bounds(name):
    """Single runs equal many, a run that is no number harms no other, a solved head stays."""
    assert check_head_solver(ProjectedNewton(), PROBLEMS[name], tolerance=1e-9)


def test_the_contract_holds_everywhere():
    assert len(check_head_solver(ProjectedNewton())) == len(check_head_solver(ClosedForm()))


@pytest.mark.parametrize("name", ["squared error", "softmax", "general"])
def test_heads_in_float32_lie_within_their_bounds(name):
    problem = PROBLEMS[name]
    body = problem.init_body(torch.Generator().manual_seed(0))
    exact = bilevel.best_response(problem, body, ProjectedNewton())
    single = bilevel.best_response(problem, trees.cast(body, torch.float32), ProjectedNewton())
    for one, other in zip(trees.leaves(single.head), trees.leaves(exact.head), strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one.double(), other, rtol=0, atol=1e-6)
        clipped = trees.leaves(problem.head_set.project(one))[0]
        assert torch.equal(clipped, one)


@pytest.mark.parametrize("name", ["squared error", "softmax"])
def test_a_solved_head_is_a_good_start_for_the_next_body(name):
    """Cold and warm: after a small step of the body its bounds are the right guess."""
    point = single(PROBLEMS[name])
    convex, steps = point.problem.head_set, []
    for _ in range(2):
        objective = head_objective(HeadPoint(point.oracles, point.body, point.head, point.rows))
        bounds = Bounds.of(convex, point.head, objective)
        start = objective.at(bounds.clip(objective.vector(point.head)))
        ended = ProjectedDescent(objective, bounds, start, 1e-10, 100).run()
        assert ended.status == int(Status.CONVERGED)
        steps.append(int(ended.factored))
        point.head = objective.head(ended.place.point)
        point.body = trees.tree_map(lambda w: w + 1e-6, point.body)
    assert steps[1] < steps[0]
    assert steps[1] == 1


# large heads


@pytest.mark.parametrize("name", ["squared error", "outputs", "logistic", "general"])
def test_large_heads_are_solved_by_products(name, monkeypatch):
    """H beyond a size is not formed: conjugate gradients on the free numbers."""
    problem = PROBLEMS[name]
    expected = [single(problem, seed=seed).solved(ProjectedNewton()).head for seed in range(2)]
    for module in ("linear", "quadratic"):
        monkeypatch.setattr(f"bilevel.heads.objectives.{module}.LARGEST_BLOCK", 1)
    monkeypatch.setattr("bilevel.heads.objectives.base.LARGEST_GENERAL_HESSIAN", 1)
    for seed, head in enumerate(expected):
        found = single(problem, seed=seed).solved(ProjectedNewton())
        assert found.status == int(Status.CONVERGED)
        torch.testing.assert_close(found.head, head, rtol=0, atol=1e-9)


# what does not arrive, and what is refused


def late(**options):
    """A head that one step does not solve."""
    z, y = normal(1, 50, 12), normal(2, 50)
    y = y + z @ normal(3, 12)
    return build(z, y, ridge=1e-3, head_set=Box(-0.5, 0.5), **options)


def test_runs_that_do_not_arrive_are_handed_to_cvxpy():
    """And those that do are not: one of the two starts at its solution."""
    problem = late()
    exact = bilevel.best_response(problem, ONE, Cvxpy()).head
    point = Point(problem, [ONE, ONE], [torch.zeros(12).double(), exact])
    found = point.solved(ProjectedNewton(max_steps=1))
    assert (found.status == int(Status.CONVERGED)).all()
    assert found.words == ("handed to cvxpy: CLARABEL: optimal", "")
    torch.testing.assert_close(found.head, exact.expand(2, 12), rtol=0, atol=1e-12)
    assert (found.residual <= 1e-12).all()


def test_a_run_that_is_no_number_is_not_handed_on():
    problem = late()
    point, solver = Point(problem, [ONE, ONE]), ProjectedNewton(max_steps=1)
    memory = solver.init(point.oracles, point.body, point.head, point.rows)
    bodies = torch.stack([torch.full_like(ONE, torch.nan), ONE])
    found = solver.solve(point.oracles, bodies, point.head, point.rows, memory, 0)
    assert found.status.tolist() == [int(Status.DIVERGED), int(Status.CONVERGED)]
    assert found.words == ("", "handed to cvxpy: CLARABEL: optimal")
    assert found.head[0].isnan().all()
    torch.testing.assert_close(found.head[1], point.solved(ProjectedNewton()).head[1])


def test_without_cvxpy_they_are_said_not_to_have_converged(monkeypatch):
    def missing(*arguments):
        raise bilevel.errors.MissingPackageError("no cvxpy")

    monkeypatch.setattr("bilevel.heads.convex.solver.extra", missing)
    found = bilevel.best_response(late(), ONE, ProjectedNewton(max_steps=1))
    assert found.status is Status.NOT_CONVERGED
    assert found.residual > 1e-3
    assert found.head.isfinite().all()
    assert bilevel.best_response(late(), ONE, ProjectedNewton()).status is Status.CONVERGED


def test_a_head_that_runs_away_between_bounds_has_no_minimiser():
    """Separated classes, no penalty, and a half-line: none; a bound where it runs to: there is."""
    z = normal(1, 40, 2)
    labels = (z[:, 0] > 0).astype(np.int64)
    options = {"criterion": bilevel.LogisticLoss()}
    free = build(z, labels, head_set=Box(number(-INF, 0.0), number(INF, 1.0)), **options)
    assert bilevel.best_response(free, ONE, ProjectedNewton()).status is Status.NO_MINIMISER
    held = build(z, labels, head_set=Box(-2.0, 2.0), **options)
    found = bilevel.best_response(held, ONE, ProjectedNewton())
    assert found.status is Status.CONVERGED
    assert float(found.head[0]) == 2.0


def test_features_that_do_not_determine_the_head_are_refused():
    z = normal(6, 60, 2) @ normal(7, 2, 5)
    for criterion, y in (
        (bilevel.SquaredError(), normal(5, 60)),
        (bilevel.HuberLoss(), normal(5, 60)),
    ):
        problem = build(z, y, criterion=criterion, head_set=Box(-1.0, 1.0))
        with pytest.raises(bilevel.errors.SingularHeadError, match="ridge"):
            bilevel.best_response(problem, ONE, ProjectedNewton())


def test_a_g_that_is_not_convex_is_said_to_be_indefinite():
    problem = Custom(
        lambda w, t: t.sum(), lambda w, t: -(t**2).sum(), [0.1, 0.2], head_set=Box(-1.0, 1.0)
    )
    found = bilevel.best_response(problem, ONE, ProjectedNewton())
    assert found.status is Status.INDEFINITE
    assert trees.flatten(trees.single(found.head)).isnan().all()


class Sphere(bilevel.ConvexSet):
    """Knows the hook `bounds`, and has none for heads of this shape."""

    def project(self, tree):
        return bilevel.Ball(1.0).project(tree)

    def bounds(self, tree):
        return None


@pytest.mark.parametrize("convex", [bilevel.Ball(1.0), bilevel.Simplex(), Sphere()])
def test_sets_that_are_no_bounds_are_refused(convex):
    problem = build(normal(1, 20, 3), normal(2, 20), ridge=0.1, head_set=convex)
    with pytest.raises(bilevel.errors.IncompatibleError, match=r"Cvxpy\(\).*FastSGD"):
        bilevel.best_response(problem, ONE, ProjectedNewton())


@pytest.mark.parametrize("options", [{"tolerance": 0.0}, {"max_steps": 0}, {"max_steps": 2.5}])
def test_arguments_are_checked(options):
    with pytest.raises(bilevel.errors.ArgumentError, match=next(iter(options))):
        ProjectedNewton(**options)


def test_newton_names_the_solver_for_bounds():
    with pytest.raises(bilevel.errors.IncompatibleError, match=r"ProjectedNewton\(\)"):
        bilevel.best_response(late(), ONE, Newton())
