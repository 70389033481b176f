"""Heads that cvxpy cannot solve, and how that is said."""

import sys

import cvxpy
import numpy as np
import pytest
import torch
from linear_heads import ONE, Quadratic, build, normal
from small_problems import Smooth

import bilevel
from bilevel import Cvxpy, Status
from bilevel.errors import ArgumentError, IncompatibleError, MissingPackageError, SingularHeadError

Z, Y = normal(1, 60, 4), normal(2, 60)


def problem(**options):
    return build(Z, Y, **{"ridge": 0.1, **options})


def respond(solver, **options):
    return bilevel.best_response(problem(**options), ONE, solver)


# refused before anything is trained


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "cvxpy", None)
    message = r'Cvxpy\(\) needs the package cvxpy.*`pip install "bilevel\[cvxpy\]"`'
    with pytest.raises(MissingPackageError, match=message):
        respond(Cvxpy())


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        (lambda t: [t >= 1, cvxpy.sum(t) <= 0], r"No head satisfies .* CLARABEL: infeasible"),
        (
            lambda t: [cvxpy.sum(t) == -1],
            r"within head_set = Nonnegative\(\): CLARABEL: infeasible",
        ),
        (lambda t: [cvxpy.norm(t) >= 1], "is not convex as cvxpy sees it"),
        (lambda t: cvxpy.norm(t), "must return a list of cvxpy constraints"),
        (lambda t: [t >= 0, True], "must return a list of cvxpy constraints.*got True"),
    ],
)
def test_constraints_that_cannot_be_met_are_refused(constraints, message):
    with pytest.raises(ArgumentError, match=message):
        respond(Cvxpy(constraints), head_set=bilevel.Nonnegative())


def test_arguments_are_checked():
    with pytest.raises(ArgumentError, match="`constraints` must be a function, such as"):
        Cvxpy([1])
    with pytest.raises(ArgumentError, match="`solver` must be a name"):
        Cvxpy(solver=cvxpy)
    with pytest.raises(ArgumentError, match=r"no solver 'MOSECK' here\. Installed: .*CLARABEL"):
        respond(Cvxpy(solver="MOSECK"))
    for name in ("solver", "warm_start", "method", "requires_grad"):
        with pytest.raises(ArgumentError, match=f"`options` must not hold '{name}'"):
            Cvxpy(options={"max_iter": 9, name: "OSQP"})
    with pytest.raises(ArgumentError, match=r"`options` must be a dictionary.* got 'OSQP'"):
        Cvxpy(options="OSQP")
    with pytest.raises(ArgumentError, match=r"does not take `options` = \{'nonsense': 1\}"):
        respond(Cvxpy(options={"nonsense": 1}))


def test_a_solver_that_is_not_made_for_the_set_is_refused():
    with pytest.raises(IncompatibleError, match=r'"OSQP" is not made for this head.*CLARABEL'):
        respond(Cvxpy(solver="OSQP"), head_set=bilevel.Ball(0.1))


def test_what_has_no_cvxpy_form_is_refused():
    class Strange(bilevel.AbstractCriterion):
        def rows(self, predictions, targets):
            return (predictions - targets).abs() ** 1.5

        def metrics(self, predictions, targets):
            return {}

        def check_targets(self, targets, outputs):
            pass

    class Halved(bilevel.ConvexSet):
        def project(self, tree):
            return tree

    with pytest.raises(IncompatibleError, match=r"Strange has no cvxpy atom\. Define `atom"):
        respond(Cvxpy(), criterion=Strange())
    with pytest.raises(IncompatibleError, match=r"Halved has no cvxpy form\. Define `constraints"):
        respond(Cvxpy(), head_set=Halved())
    with pytest.raises(IncompatibleError, match="linear in features, which Quadratic does not"):
        bilevel.best_response(Quadratic({"only": (3,)}), ONE, Cvxpy())


def test_too_many_rows_of_another_criterion_are_refused():
    one = build(normal(1, 2501, 3), normal(2, 2501, 2), criterion=bilevel.HuberLoss(), ridge=0.1)
    with pytest.raises(IncompatibleError, match=r"at most 5000 predictions; here are 5002\. Use"):
        bilevel.best_response(one, ONE, Cvxpy())


def test_a_head_that_is_not_unique_is_refused():
    with pytest.raises(SingularHeadError, match="no unique minimiser"):
        bilevel.best_response(build(normal(1, 3, 5), normal(2, 3)), ONE, Cvxpy())


def test_implicit_refuses_constraints_that_only_the_solver_knows():
    class Validated(Smooth):
        def body_objective(self, body, head, batch):
            return self.criterion.rows(head, 0 * head).sum()

    solver = Cvxpy(lambda t: [cvxpy.norm1(t) <= 1])
    strategy = bilevel.BestResponse(0.1, solver, bilevel.Implicit())
    with pytest.raises(IncompatibleError, match="Cvxpy has constraints of its own"):
        bilevel.solve(Validated(), strategy, steps=1)
    body = Smooth().init_body(torch.Generator())
    with pytest.raises(IncompatibleError, match="Use Envelope"):
        bilevel.hypergradient(Smooth(), body, bilevel.Implicit(), solver=solver)


# statuses


def test_constraints_that_become_infeasible_are_a_status():
    """A parameter of one's own that changes between two solves."""
    level = cvxpy.Parameter(value=0.1)
    solver = Cvxpy(lambda t: [cvxpy.sum(t) == level])
    box = bilevel.Box(-0.2, 0.2)
    one = problem(head_set=box)
    found = bilevel.best_response(one, ONE, solver)
    assert found.status is Status.CONVERGED
    assert float(found.head.sum()) == pytest.approx(0.1, abs=1e-9)
    level.value = 9.0
    lost = bilevel.best_response(one, ONE, solver)
    assert lost.status is Status.INFEASIBLE
    assert lost.status.failed
    assert lost.words == "CLARABEL: infeasible"
    assert lost.head.isnan().all()
    assert "no head satisfies" in lost.status.message


class Slope(bilevel.AbstractCriterion):
    """c = u t, which falls forever."""

    def rows(self, predictions, targets):
        return predictions * targets

    def metrics(self, predictions, targets):
        return {}

    def check_targets(self, targets, outputs):
        pass

    def atom(self, predictions, targets):
        return cvxpy.multiply(targets, predictions)


def test_an_objective_without_minimum_is_a_status():
    found = respond(Cvxpy(), criterion=Slope(), ridge=0.0)
    assert found.status is Status.UNBOUNDED
    assert found.words == "CLARABEL: unbounded"
    assert "Use a penalty" in found.status.message
    # with a penalty it has one: theta = -Z't / (n ridge), over the box the same, clipped
    free = -Z.T @ Y / 60 / 0.1
    for convex in (bilevel.Everywhere(), bilevel.Box(-0.5, 0.5)):
        head = respond(Cvxpy(), criterion=Slope(), ridge=0.1, head_set=convex).head
        expected = convex.project(torch.as_tensor(free).unsqueeze(0))[0]
        np.testing.assert_allclose(head, expected, rtol=0, atol=1e-12)


def test_too_few_iterations_are_a_status_unless_newton_steps_finish():
    few = {"max_iter": 3}
    rough = respond(Cvxpy(lambda t: [cvxpy.norm1(t) <= 0.05], options=few))
    assert rough.status is Status.NOT_CONVERGED
    assert rough.words == "CLARABEL: user_limit"
    exact = respond(Cvxpy(options=few), head_set=bilevel.L1Ball(0.05))
    assert exact.status is Status.CONVERGED
    assert exact.bound < 1e-11


@pytest.mark.parametrize("own", [True, False])
def test_a_solver_that_gives_up_is_a_status_unless_newton_steps_finish(own, monkeypatch):
    """From the last head; with constraints of one's own there are no such steps."""

    def fails(self, **options):
        raise cvxpy.error.SolverError("Solver 'CLARABEL' failed. Try another solver.")

    one = problem(head_set=bilevel.Box(-0.05, 0.05))
    expected = bilevel.best_response(one, ONE, Cvxpy()).head
    monkeypatch.setattr(cvxpy.Problem, "solve", fails)
    solver = Cvxpy(lambda t: [cvxpy.sum(t) <= 1]) if own else Cvxpy()
    found = bilevel.best_response(one, ONE, solver)
    assert found.words == "CLARABEL: Solver 'CLARABEL' failed. Try another solver."
    if own:
        assert found.status is Status.SOLVER_FAILED
        assert found.head.isnan().all()
        assert "another `solver`" in found.status.message
    else:
        assert found.status is Status.CONVERGED
        torch.testing.assert_close(found.head, expected, rtol=0, atol=1e-14)


def test_other_options_are_tried_where_the_first_fail(monkeypatch):
    """Tight tolerances first; the defaults of the solver where it cannot reach them."""
    asked, solve = [], cvxpy.Problem.solve

    def first_fails(self, **options):
        asked.append("tol_feas" in options)
        if len(asked) == 1:
            raise cvxpy.error.SolverError("numerical trouble")
        return solve(self, **options)

    class Unknown(bilevel.ConvexSet):
        def project(self, tree):
            return tree.clamp(min=0)

        def constraints(self, variable):
            return [variable >= 0]

    monkeypatch.setattr(cvxpy.Problem, "solve", first_fails)
    found = respond(Cvxpy(), head_set=Unknown())
    assert found.status is Status.CONVERGED
    assert asked == [True, False]
    expected = respond(Cvxpy(), head_set=bilevel.Nonnegative()).head
    torch.testing.assert_close(found.head, expected, rtol=0, atol=1e-6)
    assert 0 < found.bound < 1e-4


def test_a_training_tells_which_runs_have_no_head():
    """Only run 1 has data that cannot be fitted: its status says so, run 0 goes on."""
    level = cvxpy.Parameter(value=0.1)
    solver = Cvxpy(lambda t: [cvxpy.sum(t) <= level])
    strategy = bilevel.BestResponse(1e-3, solver)

    def tighten(k, _):
        level.value = 0.1 if k < 4 else -9.0

    solution = bilevel.solve(
        Smooth(head_set=bilevel.Nonnegative()), strategy, steps=8, seeds=2, every=2,
        callback=tighten, throw=False,
    )  # fmt: skip
    assert set(solution.status) == {Status.INFEASIBLE}
    kept = solution.history["objective"]
    assert kept[:2].isfinite().all()
