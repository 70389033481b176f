"""What None stands for: a solver that is exact for criterion and set of heads, or an error."""

import numpy as np
import pytest
import torch
from class_heads import CURVED, Classes, TrueClasses, curved
from convex_heads import sets
from linear_heads import ONE, build, normal
from points import Custom, Point, number
from small_problems import General, Smooth, TrueBilevel, doubles

import bilevel
from bilevel import (
    Answer,
    BestResponse,
    Box,
    ClosedForm,
    Cvxpy,
    FastSGD,
    Implicit,
    Newton,
    ProjectedNewton,
    Status,
    trees,
)
from bilevel.errors import IncompatibleError, MissingPackageError, ProblemError
from bilevel.heads.default import default_solver
from problems.analytic import analytic


class Between(bilevel.ConvexSet):
    """Bounds of one's own, a different one for each number; it knows nothing else."""

    def project(self, tree):
        low, high = self.bounds(tree)
        return torch.minimum(torch.maximum(tree, low), high)

    def bounds(self, tree):
        steps = torch.arange(tree.shape[-1], dtype=tree.dtype) / 10
        return -steps, 0.1 + steps


class SumsToZero(bilevel.ConvexSet):
    """A set of one's own that is no bounds."""

    def project(self, tree):
        return tree - tree.flatten(1).mean(1).reshape(-1, *[1] * (tree.ndim - 1))

    def constraints(self, variable):
        import cvxpy

        return [cvxpy.sum(variable) == 0]


BOUNDED = {"box": Box(-0.2, 0.1), "nonnegative": bilevel.Nonnegative(), "own bounds": Between()}
OTHERS = {
    "ball": bilevel.Ball(0.12),
    "simplex": bilevel.Simplex(),
    "l1 ball": bilevel.L1Ball(0.12),
    "own": SumsToZero(),
}


def table(**options):
    """A ridge regression whose sets bind."""
    return build(normal(1, 60, 5), normal(2, 60), **{"ridge": 0.01, **options})


class GeneralBoxed(General):
    head_set = Box(-0.01, 0.05)


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        (table(), ClosedForm),
        (curved("logistic"), Newton),
        (General(power=2), ClosedForm),
        (GeneralBoxed(), ProjectedNewton),
        *((table(head_set=one), ProjectedNewton) for one in BOUNDED.values()),
        *((curved("softmax", head_set=one), ProjectedNewton) for one in BOUNDED.values()),
        *((table(head_set=one), Cvxpy) for one in OTHERS.values()),
        *((curved("huber", head_set=one), Cvxpy) for one in OTHERS.values()),
    ],
)  # fmt: skip
def test_the_solver_fits_the_criterion_and_the_set(problem, kind):
    assert type(default_solver(problem)) is kind
    assert type(BestResponse(0.1).fitted(problem).solver) is kind


@pytest.mark.parametrize("name", [*BOUNDED, *OTHERS])
@pytest.mark.parametrize("kind", [Smooth, Classes])
def test_without_a_solver_heads_are_exact(name, kind):
    """Of a point, of a gradient, and of a training: those that cvxpy finds, to 1e-8."""
    convex = {**BOUNDED, **OTHERS}[name]
    criterion = bilevel.SquaredError() if kind is Smooth else bilevel.LogisticLoss()
    problem = kind(criterion=criterion, ridge=0.05, head_set=convex)
    body = problem.init_body(torch.Generator().manual_seed(0))
    asked = problem
    if name == "own bounds":  # cvxpy is told of them as a box
        box = Box(*convex.bounds(trees.single(problem.init_head(torch.Generator()))))
        asked = kind(criterion=criterion, ridge=0.05, head_set=box)
    exact = bilevel.best_response(asked, body, Cvxpy()).head
    found = bilevel.best_response(problem, body)
    assert found.status is Status.CONVERGED
    atol = 1e-6 if name == "own" else 1e-8  # of a set that knows no faces: the solver's accuracy
    torch.testing.assert_close(found.head, exact, rtol=0, atol=atol)
    taken = bilevel.hypergradient(problem, body)
    torch.testing.assert_close(taken.response.head, found.head, rtol=0, atol=0)
    strategy = BestResponse(1e-3)
    run = bilevel.solve(problem, strategy, steps=2, seeds=1, batch_size=None, dtype=torch.float64)
    assert run.status[0] is Status.COMPLETED
    again = bilevel.best_response(problem, trees.take(run.body, 0)).head
    torch.testing.assert_close(run.head[0], again, rtol=0, atol=atol)


def without_test(groups):
    return {name: rows for name, rows in groups.items() if name != "test"}


# gradients


def central(problem, body, along, step=1e-5):
    """The derivative of Phi by central differences, heads solved anew."""
    groups = without_test(problem.data())
    values = []
    for sign in (1, -1):
        at = trees.tree_map(lambda w, d, s=sign: w + s * step * d, body, along)
        head = bilevel.best_response(problem, at).head
        values.append(float(problem.body_objective(at, head, groups)))
    return (values[0] - values[1]) / (2 * step)


class TrueSmooth(Smooth):
    """F is the error on the validation rows, and a pull on the head."""

    def body_objective(self, body, head, batch):
        rows = batch["validation"]
        losses = self.criterion.rows(self.predict(body, head, rows.inputs), rows.targets)
        return losses.mean() + 0.1 * (head**2).sum()


class TrueBoxed(TrueBilevel):
    head_set = Box(-0.01, 0.05)


PROBLEMS = {
    **{
        f"{name}, {kind.__name__}": kind(ridge=0.05, head_set=one)
        for name, one in BOUNDED.items()
        for kind in (Smooth, TrueSmooth)
    },
    **{
        f"{name}, {kind.__name__}": kind(
            criterion=CURVED[name][0], outputs=CURVED[name][1], ridge=0.05, head_set=Box(-0.2, 0.1)
        )
        for name in ("logistic", "softmax")
        for kind in (Classes, TrueClasses)
    },
    "general, F is g": GeneralBoxed(),
    "general, F is not g": TrueBoxed(),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_gradients_without_a_solver_are_those_of_phi(name):
    problem = PROBLEMS[name]
    body = problem.init_body(torch.Generator().manual_seed(3))
    found = bilevel.hypergradient(problem, body)
    assert found.status < Status.NOT_CONVERGED
    held = at_bound(problem.head_set, trees.single(found.response.head))
    assert bool(held.any())
    assert not bool(held.all())
    for seed in range(3):
        along = trees.tree_map(lambda w, s=seed: doubles([s, w.numel()], *w.shape), body)
        slope = float(trees.dot(trees.single(found.body), trees.single(along)))
        assert slope == pytest.approx(central(problem, body, along), rel=1e-6, abs=1e-8)


def at_bound(convex, head):
    """The numbers of heads (R, ...) that are at a bound, (R, P)."""
    low, high = convex.bounds(head)
    met = trees.tree_map(lambda x, a, b: ((x == a) | (x == b)).double(), head, low, high)
    return trees.flatten(met) > 0


@pytest.mark.parametrize(
    "name", ["box, TrueSmooth", "logistic, TrueClasses", "softmax, TrueClasses"]
)
def test_the_factor_of_a_head_between_bounds_leads_to_its_adjoint(name, monkeypatch):
    """The gradient by it is that of a dense solve, and H is not factored again."""
    problem = PROBLEMS[name]
    bodies = [problem.init_body(torch.Generator().manual_seed(seed)) for seed in range(3)]
    point, solver, method = Point(problem, bodies), ProjectedNewton(), Implicit()
    found = point.solved(solver)
    memory = method.init(point.oracles, point.body, found.head, point.rows)
    answer = Answer(found.head, solver, point.head, 0)
    at = (point.oracles, point.body)
    dense = method.gradient(*at, answer, point.rows, memory)

    def refuse(*arguments, **options):
        raise AssertionError("the factor is there")

    for place in ("condition.Dense", "condition.newton_factor", "condition.quadratic_system"):
        monkeypatch.setattr(f"bilevel.hypergradients.{place}", refuse)
    led = method.gradient(*at, answer._replace(factor=found.factor), point.rows, memory)
    assert (led.status == dense.status).all()
    for one, other in zip(trees.leaves(led.body), trees.leaves(dense.body), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    held = at_bound(problem.head_set, found.head)
    assert bool(held.any())
    assert (trees.flatten(led.adjoint)[held] == 0).all()
    assert (trees.flatten(led.adjoint)[~held] != 0).all()


# refusals


def custom(g, head, convex):
    """F is g, of a head that is not linear in features."""
    return Custom(lambda w, t: g(w, t), g, head, head_set=convex)


@pytest.mark.parametrize("convex", [bilevel.Ball(0.5), bilevel.Simplex(), SumsToZero()])
def test_heads_that_no_solver_is_exact_for_are_refused_by_name(convex):
    problem = custom(lambda w, t: ((t - w) ** 2).sum() + (t**4).sum(), [0.2, 0.4], convex)
    for ask in (
        lambda: bilevel.best_response(problem, ONE),
        lambda: bilevel.hypergradient(problem, ONE),
        lambda: bilevel.solve(problem, BestResponse(0.1), steps=1, seeds=1),
    ):
        with pytest.raises(IncompatibleError, match=r"FastSGD\(.*ProjectedNewton"):
            ask()
    solver = FastSGD(0.05, 5000, tolerance=1e-10)
    assert bilevel.best_response(problem, ONE, solver).status is Status.CONVERGED


def test_without_cvxpy_the_extra_and_the_way_out_are_named(monkeypatch):
    def missing(package, name, purpose):
        raise MissingPackageError(f"{purpose} needs {package}")

    monkeypatch.setattr("bilevel.heads.default.extra", missing)
    problem = table(head_set=bilevel.Ball(0.1))
    with pytest.raises(MissingPackageError, match=r"bilevel\[cvxpy\].*FastSGD"):
        bilevel.best_response(problem, ONE)
    assert bilevel.best_response(table(head_set=Box(0.0, 0.1)), ONE).status is Status.CONVERGED


def test_criteria_that_cvxpy_does_not_know_are_refused_on_a_ball():
    class Unknown(bilevel.HuberLoss):
        atom = bilevel.AbstractCriterion.atom

    problem = table(criterion=Unknown(), head_set=bilevel.Ball(0.1))
    with pytest.raises(IncompatibleError, match="atom"):
        bilevel.best_response(problem, ONE)
    assert bilevel.best_response(problem, ONE, FastSGD(0.1, 5000, tolerance=1e-9)).residual <= 1e-9


@pytest.mark.parametrize("convex", [bilevel.Ball(0.5), bilevel.L1Ball(0.5)])
@pytest.mark.parametrize("target", [0.3, 2.0, -2.0])
def test_one_number_in_any_interval_has_a_closed_form(convex, target):
    problem = custom(lambda w, t: 1.5 * ((t - target * w) ** 2).sum(), [0.1], convex)
    assert type(default_solver(problem)) is ClosedForm
    found = bilevel.best_response(problem, ONE)
    assert found.status is Status.CONVERGED
    assert float(found.head) == pytest.approx(np.clip(target, -0.5, 0.5), rel=1e-15)


def test_a_closed_form_that_is_asked_for_still_says_that_it_projects():
    found = bilevel.best_response(table(head_set=Box(-0.05, 0.1)), ONE, ClosedForm())
    assert found.status is Status.OUTSIDE_SET
    assert "ProjectedNewton" in found.status.message
    assert "Cvxpy" in found.status.message


def test_an_own_set_of_bounds_is_differentiated_and_others_are_not():
    """Implicit gradients hold what is at a bound; a boundary that is no plane is refused."""
    like = torch.ones(1, 3).double()
    at, push = like * Between().bounds(like)[1] * number(0.5, 0.5, 1.0), like
    free = Between().free(at, push)
    assert free.tolist() == [[True, True, False]]
    with pytest.raises(IncompatibleError, match="no coordinate plane"):
        SumsToZero().free(at, push)


def test_a_training_between_bounds_says_that_it_is_not_compiled():
    with pytest.warns(UserWarning, match="not compiled"):
        run = bilevel.solve(
            table(head_set=Box(-0.05, 0.1)), BestResponse(0.1), steps=2, seeds=1, compile=True
        )
    assert run.status[0] is Status.COMPLETED


@pytest.mark.parametrize("name", ["A5"])
def test_analytic_heads_on_a_box_keep_their_answers(name):
    problem = analytic(name)
    found = bilevel.best_response(problem, number(2.0))
    assert float(found.head) == pytest.approx(float(problem.best_response(number(2.0))), rel=1e-15)


def test_sets_of_every_kind_are_in_the_table():
    assert {*BOUNDED, *OTHERS} >= set(sets())


def test_heads_that_are_no_tensors_are_named_before_a_solver_is_chosen():
    class Listed(General):
        head_set = bilevel.Ball(1.0)

        def init_head(self, generator):
            return [0.0]

    with pytest.raises(ProblemError, match=r"`init_head\(\)\[0\]` must be a tensor, got float"):
        bilevel.solve(Listed(), BestResponse(0.1), steps=1, seeds=1)
